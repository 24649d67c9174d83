"""The processes of a measurement: starting workers, and what each process costs."""

import resource
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil

from adapters.failures import Failure
from bench.site import Place
from stack.local import Stack
from stack.ports import Name

STOP_SECONDS_MAX = 30.0
Number = TypeVar("Number", int, float)


class Fleet:
    """Worker processes and the stack's, watched together."""

    def __init__(self, stack: Stack, logs: Path) -> None:
        self._logs = logs
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._watched: dict[str, psutil.Process] = {}
        self.peak_bytes: dict[str, int] = defaultdict(int)
        for name in Name:
            running = stack.running(name)
            if running:
                self._watched[name.value] = psutil.Process(running.pid)

    def start(self, name: str, place: Place, *arguments: str) -> None:
        """Starts `python -m ARGUMENTS` under a name, with a log of its own.

        In a session of its own, as a service of systemd or a container is one: Linux shares the
        processor between sessions first, so that a stage that works hard is not in another's way.
        """
        with (self._logs / f"{name}.log").open("wb") as log:
            child = subprocess.Popen(  # noqa: S603 - our own programs
                [sys.executable, "-m", *arguments],
                env=place.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._workers[name] = child
        self._watched[name] = psutil.Process(child.pid)

    def require(self) -> None:
        """Raises Failure, with the last line of its log, when a worker ended with an error."""
        for name, child in self._workers.items():
            if child.poll():
                lines = (self._logs / f"{name}.log").read_text(errors="replace").splitlines()
                raise Failure(f"{name} ended: {lines[-1] if lines else 'it said nothing'}")

    def ended(self, name: str) -> bool:
        """Whether a worker has ended by itself."""
        return self._workers[name].poll() is not None

    def kill(self, name: str) -> None:
        """At once, in the middle of whatever it does; it is no longer watched."""
        del self._watched[name]
        child = self._workers.pop(name)
        child.kill()
        child.wait()

    def stop(self) -> None:
        """Asks every worker to stop, and waits for all of them."""
        for child in self._workers.values():
            child.send_signal(signal.SIGTERM)
        for child in self._workers.values():
            try:
                child.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time so far by process that runs; PostgreSQL's backends count as one."""
        return {
            name: _sum(process, _cpu_seconds)
            for name, process in self._watched.items()
            if process.is_running()
        }

    def workers_cpu_seconds(self) -> float:
        """Processor time of this process's children so far, those included that have ended: only
        the difference of two readings means something.
        """
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        alive = [name for name, child in self._workers.items() if child.poll() is None]
        running = sum(_cpu_seconds(self._watched[name]) for name in alive)
        return ended.ru_utime + ended.ru_stime + running

    def weigh(self) -> None:
        """Takes the memory of this moment into `peak_bytes`; see `resident_bytes`."""
        for name, process in self._watched.items():
            with suppress(psutil.NoSuchProcess):  # it has just ended
                self.peak_bytes[name] = max(self.peak_bytes[name], _sum(process, resident_bytes))


@contextmanager
def fleet(stack: Stack, logs: Path) -> Iterator[Fleet]:
    """A fleet whose workers are stopped at the end."""
    logs.mkdir(parents=True, exist_ok=True)
    watched = Fleet(stack, logs)
    try:
        yield watched
    finally:
        watched.stop()


def spent(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Processor seconds by process between two readings."""
    return {name: after[name] - before.get(name, 0.0) for name in after}


def resident_bytes(process: psutil.Process) -> int:
    """Memory of one process. PostgreSQL's shared buffers are divided by who shares them."""
    if process.name().startswith("postgres"):
        full = process.memory_full_info()
        return int(getattr(full, "pss", full.rss))
    return int(process.memory_info().rss)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _sum(process: psutil.Process, measure: Callable[[psutil.Process], Number]) -> Number:
    total = measure(process)
    if process.name().startswith("postgres"):
        for child in process.children():
            with suppress(psutil.NoSuchProcess):
                total += measure(child)
    return total
