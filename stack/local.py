"""The local stack: real Kafka, PostgreSQL and ClickHouse's engine, without Docker."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapters.failures import Failure
from stack import clickhouse, java, kafka, postgres, process
from stack.ports import HOST, Name, Ports, require_free
from stack.process import Launch, Running

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 20
DISK_BYTES_MIN = 1 << 30  # an empty stack takes 150 MB; Kafka and PostgreSQL reserve ahead


@dataclass(frozen=True, slots=True)
class State:
    """What is known of one component at one moment. `pid` is None when it does not run here,
    `answers` tells whether it serves right now.
    """

    name: Name
    pid: int | None
    answers: bool
    address: str
    version: str
    memory_bytes: int
    data_bytes: int
    log: Path | None


@dataclass(frozen=True, slots=True)
class _Kind:
    prepare: Callable[[Path, int], Launch]
    answers: Callable[[int], bool]
    address: Callable[[int], str]
    version: Callable[[], str]


_KINDS = {
    Name.KAFKA: _Kind(
        kafka.prepare, kafka.answers, lambda port: f"{HOST}:{port}", java.kafka_version
    ),
    Name.POSTGRES: _Kind(postgres.prepare, postgres.answers, postgres.dsn, postgres.version),
    Name.CLICKHOUSE: _Kind(
        clickhouse.prepare, clickhouse.answers, clickhouse.url, clickhouse.engine_version
    ),
}


class Stack:
    """The components whose data lives under `home`, running or not.

    Nothing is held in memory: two Stack objects of one home, in two processes, see the same.
    With `postgres_dsn`, PostgreSQL is somebody else's and never started or stopped.
    """

    def __init__(self, home: Path, ports: Ports | None = None, *, postgres_dsn: str = "") -> None:
        self.home = home.absolute()
        self.ports = ports or Ports()
        self.postgres_dsn = postgres_dsn
        self.names = [name for name in Name if not (postgres_dsn and name is Name.POSTGRES)]

    def up(self) -> list[Name]:
        """Starts what does not run, all at once, and waits until each component serves.

        Returns what it started; a second call starts nothing. Raises Failure with one line about
        the first component that cannot start; the others stay up for the next try.
        """
        self._require_space()
        with self._lock():
            missing = [name for name in self.names if self.running(name) is None]
            for name in missing:
                require_free(name, self.ports.of(name))
            with ThreadPoolExecutor(len(Name)) as pool:
                for started in [pool.submit(self._start, name) for name in missing]:
                    started.result()
            for name in self.names:
                self._wait(name, START_SECONDS_MAX)
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
        self._wait(component, START_SECONDS_MAX)

    def stop(self, name: Name | str) -> None:
        """Stops one component in order; returns when its processes are gone."""
        component = Name(name)
        running = self.running(component)
        if running:
            process.stop(running, wait_seconds=STOP_SECONDS_MAX)
        self._pid_file(component).unlink(missing_ok=True)

    def kill(self, name: Name | str) -> None:
        """Ends one component as a crash would (SIGKILL); its pid file stays, as after a crash."""
        running = self.running(Name(name))
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
        port = running.port if running else self.ports.of(component)
        return _KINDS[component].address(port)

    def status(self) -> list[State]:
        """What is known of each component that this stack starts, in a fixed order."""
        return [self._state(name) for name in self.names]

    def environment(self) -> dict[str, str]:
        """The addresses under the names that `adapters.settings` reads."""
        return {f"TOLLGATE_{name.value.upper()}": self.address(name) for name in Name}

    def _state(self, name: Name) -> State:
        running, kind = self.running(name), _KINDS[name]
        directory = self.home / name.value
        return State(
            name=name,
            pid=running.pid if running else None,
            answers=bool(running and kind.answers(running.port)),
            address=self.address(name),
            version=kind.version(),
            memory_bytes=process.memory_bytes(running.pid) if running else 0,
            data_bytes=_size_bytes(directory),
            log=directory / f"{name}.log",
        )

    def _start(self, name: Name) -> None:
        port, pid_file = self.ports.of(name), self._pid_file(name)
        launch = _KINDS[name].prepare(self.home / name.value, port)
        child = process.spawn(launch)
        try:
            process.remember(pid_file, pid=child.pid, port=port, stop_signal=launch.stop_signal)
        except BaseException:
            child.kill()
            raise
        deadline = time.monotonic() + START_SECONDS_MAX
        while not _KINDS[name].answers(port):
            if child.poll() is not None:
                pid_file.unlink(missing_ok=True)
                raise Failure(
                    f"{name}: died at start: {process.last_line(launch.log) or 'no output'} "
                    f"(see {launch.log})"
                )
            if time.monotonic() > deadline:
                raise Failure(
                    f"{name}: no answer on port {port} within {START_SECONDS_MAX} s (see {launch.log})"
                )
            time.sleep(process.POLL_SECONDS)

    def _wait(self, name: Name, seconds: float) -> None:
        running = self.running(name)
        port = running.port if running else self.ports.of(name)
        deadline = time.monotonic() + seconds
        while not _KINDS[name].answers(port):
            if time.monotonic() > deadline:
                log = self.home / name.value / f"{name}.log"
                raise Failure(f"{name}: it runs but does not answer on port {port} (see {log})")
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

    def _write_addresses(self) -> None:
        lines = [f"{name}={value}\n" for name, value in self.environment().items()]
        draft = self.home / "stack.env.new"
        draft.write_text("".join(lines), encoding="utf-8")
        draft.chmod(0o600)
        draft.replace(self.home / "stack.env")


def _size_bytes(directory: Path) -> int:
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            try:
                total += (Path(folder) / name).stat().st_blocks * 512
            except OSError:
                continue
    return total
