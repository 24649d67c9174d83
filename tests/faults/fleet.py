"""Worker processes of a test: started, killed, frozen, and never left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 180  # 3 are usual; a machine under load may need far more
POLL_SECONDS = 0.02
LINES_MAX = 60


@dataclass
class Worker:
    """One process of a stage; `status` is its exit status, negative for a signal, once it ended."""

    stage: str
    log: Path
    pid: int = 0
    status: int | None = None
    born: threading.Event = field(default_factory=threading.Event)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless the process is gone."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def said(self, words: str) -> bool:
        """Whether the words are in its log."""
        return words in self.log.read_text(errors="replace")

    async def ended(self, seconds_max: float) -> int:
        """Its exit status; raises TimeoutError when it does not end."""
        await self._eventually(lambda: self.status is not None, seconds_max, "ends")
        assert self.status is not None
        return self.status

    async def saying(self, words: str, seconds_max: float) -> None:
        """Waits until the words are in its log; raises TimeoutError."""
        await self._eventually(lambda: self.said(words), seconds_max, f"says {words}")

    async def frozen(self, seconds_max: float) -> None:
        """Waits until the process is stopped (SIGSTOP); raises TimeoutError."""
        await self._eventually(lambda: _state(self.pid) == "T", seconds_max, "is stopped")

    async def _eventually(self, check: Callable[[], bool], seconds_max: float, what: str) -> None:
        try:
            await eventually(check, seconds_max, f"{self.log.name} {what}")
        except TimeoutError as error:
            status = "it runs" if self.status is None else f"it ended with {self.status}"
            raise TimeoutError(f"{error}; {status}\n{self.last_lines()}") from None

    def last_lines(self) -> str:
        """The end of its log, for the message of a failed test."""
        return "\n".join(
            line[:400] for line in self.log.read_text(errors="replace").splitlines()[-LINES_MAX:]
        )


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2][0]


class Nursery:
    """The process that forks workers; one serves a whole test session."""

    def __init__(self) -> None:
        self._orders = 0
        self._asked: dict[int, Worker] = {}
        self._living: dict[int, Worker] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        if not self._ready.wait(START_SECONDS_MAX):
            raise TimeoutError("the nursery did not start")

    def start(self, stage: str, log: Path, **order: Any) -> Worker:
        """A new worker process; it runs when this returns."""
        worker = Worker(stage, log)
        log.touch()
        with self._lock:
            self._orders += 1
            self._asked[self._orders] = worker
            text = json.dumps({**order, "order": self._orders, "stage": stage, "log": str(log)})
        assert self._process.stdin
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()
        if not worker.born.wait(START_SECONDS_MAX):
            raise TimeoutError("the nursery does not answer")
        return worker

    def close(self) -> None:
        """Ends the nursery; its workers must be gone."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(START_SECONDS_MAX)
        self._listener.join(START_SECONDS_MAX)
        self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            answer = json.loads(line)
            if "ready" in answer:
                self._ready.set()
            elif "pid" in answer:
                worker = self._asked.pop(answer["order"])
                worker.pid = answer["pid"]
                self._living[worker.pid] = worker
                worker.born.set()
            else:
                self._living.pop(answer["ended"]).status = answer["status"]


class Fleet:
    """The workers of one test, with its settings."""

    def __init__(self, nursery: Nursery, environment: Mapping[str, str], directory: Path) -> None:
        self._nursery = nursery
        self.environment = dict(environment)
        self._directory = directory
        self._marks = directory / "marks"
        self.workers: list[Worker] = []

    def start(
        self,
        stage: str = "rater",
        *,
        at: tuple[str, int] | None = None,
        do: str = "SIGKILL",
        without: Iterable[str] = (),
        **environment: object,
    ) -> Worker:
        """Starts a worker. With `at`, it sends itself the signal `do` at the n-th such point.

        `without` names guards (ablations.py) that it lacks; keywords are settings in lower case.
        """
        own = {f"TOLLGATE_{name.upper()}": str(value) for name, value in environment.items()}
        point, nth = at or ("", 0)
        worker = self._nursery.start(
            stage,
            self._directory / f"{len(self.workers):03d}-{stage}.log",
            environment={**self.environment, **own},
            without=list(without),
            point=point,
            nth=nth,
            signal=do,
            marks=str(self._marks),
        )
        self.workers.append(worker)
        return worker

    @property
    def alive(self) -> list[Worker]:
        """The workers that have not ended."""
        return [worker for worker in self.workers if worker.status is None]

    def marks(self) -> Counter[str]:
        """How often each named point sprang its trap."""
        if not self._marks.exists():
            return Counter()
        return Counter(self._marks.read_text(encoding="utf-8").split())

    def kill_all(self) -> None:
        """Ends every worker at once; returns when all are gone."""
        for worker in self.alive:
            worker.signal(signal.SIGKILL)
        deadline = time.monotonic() + START_SECONDS_MAX
        while self.alive:
            if time.monotonic() > deadline:
                raise TimeoutError(f"workers do not die: {[w.pid for w in self.alive]}")
            time.sleep(POLL_SECONDS)

    def complaints(self) -> str:
        """How each worker stands, and all warnings and errors, for the message of a failed test."""
        stands = [f"{w.log.name}: {'runs' if w.status is None else w.status}" for w in self.workers]
        lines = [
            f"{worker.log.name}: {line[:400]}"
            for worker in self.workers
            for line in worker.log.read_text(errors="replace").splitlines()
            if '"level": "info"' not in line and line.strip()
        ]
        return "\n".join([*stands[-LINES_MAX:], *lines[-LINES_MAX:]])
