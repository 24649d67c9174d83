"""The demo's processes: workers in the background, and commands as a person would type them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.failures import Failure

STOP_SECONDS_MAX = 30.0
_TOLLGATE = (sys.executable, "-m", "tollgate")


class Workers:
    """Running stages, each with its log in a file of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, stage: str, settings: Mapping[str, str] | None = None) -> None:
        """Starts one stage under a name that is also its log's, with settings of its own."""
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - our own command
                [*_TOLLGATE, "run", stage],
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(settings or {})},
                start_new_session=True,  # a service of its own; Ctrl-C reaches it by `stop`
            )

    def require(self) -> None:
        """Raises Failure with the last line of its log when a worker has ended by itself."""
        for name, process in self._running.items():
            if process.poll() is not None:
                lines = self._log(name).read_text(errors="replace").strip().splitlines()
                last = lines[-1] if lines else "it said nothing"
                raise Failure(f"{name} ended: {last} (log: {self._log(name)})")

    def stop(self) -> None:
        """Asks every worker to finish its batch and waits for all of them."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"


@contextmanager
def workers(directory: Path, raters: int) -> Iterator[Workers]:
    """Raters and a warehouse while the block runs."""
    directory.mkdir(parents=True, exist_ok=True)
    running = Workers(directory)
    try:
        for n in range(1, raters + 1):
            running.start(f"rater-{n}", "rater")
        running.start("warehouse", "warehouse")
        yield running
    finally:
        running.stop()


class Command:
    """One `tollgate` command in the background that prints one JSON document at its end."""

    def __init__(self, *arguments: str) -> None:
        self.line = " ".join(("tollgate", *arguments))
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [*_TOLLGATE, *arguments, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def result(self, allowed: Sequence[int] = (0,)) -> dict[str, Any]:
        """Waits for the end and returns the document; raises Failure when the command failed."""
        output, errors = self._process.communicate()
        if self._process.returncode not in allowed:
            lines = errors.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise Failure(f"`{self.line}` failed: {lines[-1]}")
        document: dict[str, Any] = json.loads(output)
        return document
