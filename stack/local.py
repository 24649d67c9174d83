"""The local stack: real Kafka, PostgreSQL and ClickHouse's engine, without Docker."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.failures import Failure
from stack import process
from stack.components import COMPONENTS, listens
from stack.ports import Name, Ports, require_free
from stack.process import Launch, Running

START_SECONDS_MAX = 120  # 5 are usual; a machine under load may need far more
STOP_SECONDS_MAX = 20
DISK_BYTES_MIN = 1 << 30  # an empty stack takes 150 MB; Kafka and PostgreSQL reserve ahead


@dataclass(frozen=True, slots=True)
class State:
    """What is known of one component at one moment.

    `pid` is None when it does not run or is not ours; `answers` tells whether it serves right now.
    """

    name: Name
    pid: int | None
    answers: bool
    address: str
    version: str
    memory_bytes: int
    data_bytes: int
    log: Path | None


class Stack:
    """The components whose data lives under `home`, running or not.

    Nothing is held in memory: two Stack objects of one home, in two processes, see the same. With
    `postgres_dsn` PostgreSQL is somebody else's, never started or stopped; None is as it was at the
    last `up`, an empty one goes back to the stack's own.
    """

    def __init__(
        self, home: Path, ports: Ports | None = None, *, postgres_dsn: str | None = None
    ) -> None:
        self.home = home.absolute()
        self.ports = ports or Ports()
        self._dsn_file = self.home / "postgres.dsn"
        self.postgres_dsn = self._remembered_dsn() if postgres_dsn is None else postgres_dsn
        self.names = [name for name in Name if name is not Name.POSTGRES or not self.postgres_dsn]

    def up(self) -> list[Name]:
        """Starts what does not run, all at once, and waits until each component serves.

        Returns what it started; a second call starts nothing. Raises Failure with one line about
        the first component that cannot start; the others stay up for the next try.
        """
        self._require_space()
        with self._lock():
            self._remember_dsn()
            missing = [name for name in self.names if self.running(name) is None]
            for name in missing:
                require_free(name, self.ports.of(name))
            with ThreadPoolExecutor(len(Name)) as pool:
                for started in [pool.submit(self._start, name) for name in missing]:
                    started.result()
            for name in self.names:
                self._wait(name)
            self._write_addresses()
        return missing

    def down(self) -> list[Name]:
        """Stops every component, all at once, and returns what ran; the data stays."""
        if not self.home.is_dir():
            return []
        with self._lock():
            found = [name for name in Name if self.running(name)]
            with ThreadPoolExecutor(len(Name)) as pool:
                list(pool.map(self.stop, found))
        return found

    def start(self, name: Name | str) -> None:
        """Starts one component, unless it runs, and waits until it serves."""
        component = Name(name)
        with self._lock():
            if self.running(component) is None:
                require_free(component, self.ports.of(component))
                self._start(component)
        self._wait(component)

    def stop(self, name: Name | str) -> None:
        """Stops one component in order; returns when its processes are gone."""
        component = Name(name)
        running = self.running(component)
        if running:
            process.stop(running, wait_seconds=STOP_SECONDS_MAX)
        self._pid_file(component).unlink(missing_ok=True)

    def kill(self, name: Name | str) -> None:
        """Ends one component as a crash would (SIGKILL); its pid file stays, as after a crash."""
        running = self.running(name)
        if running:
            process.kill(running)

    def running(self, name: Name | str) -> Running | None:
        """The process of one component, or None; a pid that somebody else has now is None."""
        return process.recall(self._pid_file(Name(name)))

    def address(self, name: Name | str) -> str:
        """What a client connects to: where it runs, else where it would be started."""
        component = Name(name)
        if component is Name.POSTGRES and self.postgres_dsn:
            return self.postgres_dsn
        running = self.running(component)
        return COMPONENTS[component].address(running.port if running else self.ports.of(component))

    def environment(self) -> dict[str, str]:
        """The addresses under the names that `adapters.settings` reads."""
        return {f"TOLLGATE_{name.value.upper()}": self.address(name) for name in Name}

    def status(self) -> list[State]:
        """What is known of each component, in a fixed order."""
        return [
            self._state(name) if name in self.names else self._foreign_postgres() for name in Name
        ]

    def _state(self, name: Name) -> State:
        running, component = self.running(name), COMPONENTS[name]
        return State(
            name=name,
            pid=running.pid if running else None,
            answers=bool(running and component.answers(running.port)),
            address=self.address(name),
            version=component.version(),
            memory_bytes=process.memory_bytes(running.pid) if running else 0,
            data_bytes=_size_bytes(self.home / name.value),
            log=self.home / name.value / f"{name}.log",
        )

    def _foreign_postgres(self) -> State:
        dsn = self.postgres_dsn
        return State(Name.POSTGRES, None, listens(dsn), dsn, "not ours", 0, 0, None)

    def _start(self, name: Name) -> None:
        port, pid_file = self.ports.of(name), self._pid_file(name)
        launch = COMPONENTS[name].prepare(self.home / name.value, port)
        child = process.spawn(launch)
        try:
            process.remember(pid_file, pid=child.pid, port=port, stop_signal=launch.stop_signal)
            _wait_for_start(name, port, child, launch)
        except BaseException:
            # It may answer to nobody: left alone, it would hold the port and the files.
            child.kill()
            child.wait()
            pid_file.unlink(missing_ok=True)
            raise
        process.detach(child)

    def _wait(self, name: Name) -> None:
        running = self.running(name)
        port = running.port if running else self.ports.of(name)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not COMPONENTS[name].answers(port):
            if time.monotonic() > deadline:
                log = self.home / name.value / f"{name}.log"
                raise Failure(
                    f"{name}: it runs but does not answer on port {port}; "
                    f"`tollgate down`, then `tollgate up` (see {log})"
                )
            time.sleep(process.POLL_SECONDS)

    def _require_space(self) -> None:
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            probe = self.home / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise Failure(
                f"cannot write to {self.home} ({error.strerror}); "
                "choose another directory with --home or TOLLGATE_HOME"
            ) from None
        free = shutil.disk_usage(self.home).free
        if free < DISK_BYTES_MIN:
            raise Failure(
                f"only {free // 1_000_000} MB free at {self.home}, the stack needs "
                f"{DISK_BYTES_MIN // 1_000_000} MB; free some or choose another with --home"
            )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Two commands at once on one home: the second waits for the first."""
        with (self.home / ".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _pid_file(self, name: Name) -> Path:
        return self.home / "run" / f"{name}.json"

    def _remembered_dsn(self) -> str:
        try:
            return self._dsn_file.read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    def _remember_dsn(self) -> None:
        if not self.postgres_dsn:
            self._dsn_file.unlink(missing_ok=True)
            return
        if not listens(self.postgres_dsn):
            raise Failure("postgres: nothing answers at the address given with --postgres-dsn")
        _write_private(self._dsn_file, self.postgres_dsn + "\n")

    def _write_addresses(self) -> None:
        quoted = {
            name: value.replace("\\", "\\\\").replace("'", "\\'")
            for name, value in self.environment().items()
        }
        lines = [f"{name}='{value}'\n" for name, value in quoted.items()]
        _write_private(self.home / "stack.env", "".join(lines))


def _wait_for_start(
    name: Name, port: int, child: "subprocess.Popen[bytes]", launch: Launch
) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while not COMPONENTS[name].answers(port):
        if child.poll() is not None:
            why = process.last_line(launch.log) or "no output"
            raise Failure(f"{name}: died at start: {why} (see {launch.log})")
        if time.monotonic() > deadline:
            raise Failure(
                f"{name}: no answer on port {port} within {START_SECONDS_MAX} s (see {launch.log})"
            )
        time.sleep(process.POLL_SECONDS)


def _write_private(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.new")
    draft.touch(mode=0o600)
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _size_bytes(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += (Path(folder) / name).stat().st_blocks * 512
            except OSError:
                continue  # it was there a moment ago
    return total
