"""Daemons that outlive the command that started them, found again by a later one."""

import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

POLL_SECONDS = 0.05
ERROR_WORDS = ("FATAL", "ERROR", "Exception", "Error:")
START_TOLERANCE_SECONDS = 1.0  # clock ticks and NTP steps move a start time by less


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a daemon: everything it prints goes to the end of `log`."""

    argv: Sequence[str]
    log: Path
    cwd: Path
    stop_signal: signal.Signals = signal.SIGTERM
    environment: Mapping[str, str] = field(default_factory=dict)
    user_id: int | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A daemon that runs: its process id and what it was started with."""

    pid: int
    port: int
    stop_signal: signal.Signals


def spawn(launch: Launch) -> "subprocess.Popen[bytes]":
    """Starts the daemon in a session of its own, so that neither Ctrl-C nor the end of the caller
    reaches it. The returned handle is for noticing an early death only.
    """
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    with launch.log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - argv is built by this package
            list(launch.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=launch.cwd,
            env={**os.environ, **launch.environment},
            start_new_session=True,
            user=launch.user_id,
            group=group_of(launch.user_id),
            extra_groups=None if launch.user_id is None else [],
        )


def group_of(user_id: int | None) -> int | None:
    """The main group of a user; None for None, who is the present user."""
    return None if user_id is None else pwd.getpwuid(user_id).pw_gid


def detach(child: "subprocess.Popen[bytes]") -> None:
    """Gives the handle of a daemon up: it lives on, and nobody here waits for its end."""
    child.returncode = 0  # else the handle warns, when it is dropped, that the process runs


def remember(path: Path, *, pid: int, port: int, stop_signal: signal.Signals) -> None:
    """Writes the pid file, with the start time that tells this process from a later one of the
    same id. Atomic: a reader sees the old file or the new one.
    """
    record = {
        "pid": pid,
        "port": port,
        "stop_signal": stop_signal.name,
        "started": psutil.Process(pid).create_time(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(record), encoding="utf-8")
    draft.replace(path)


def recall(path: Path) -> Running | None:
    """The process of a pid file, if it still runs; None for a reused id or an unreadable file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        process = psutil.Process(int(record["pid"]))
        same = abs(process.create_time() - record["started"]) < START_TOLERANCE_SECONDS
        if same and process.status() != psutil.STATUS_ZOMBIE:
            stop_signal = signal.Signals[record["stop_signal"]]
            return Running(pid=process.pid, port=int(record["port"]), stop_signal=stop_signal)
    except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
        return None
    return None


def stop(running: Running, *, wait_seconds: float) -> None:
    """Asks the daemon to end, then kills it and its children; returns when none of them runs.

    A stopped (SIGSTOP) process is continued first, else it could not obey.
    """
    family = _family(running.pid)
    _signal(running.pid, signal.SIGCONT)
    _signal(running.pid, running.stop_signal)
    _, alive = psutil.wait_procs(family, timeout=wait_seconds)
    for process in alive:
        _signal(process.pid, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def kill(running: Running) -> None:
    """Ends the daemon at once, as a crash would (SIGKILL); returns when it and its children are
    gone. PostgreSQL's children notice the death of their parent by themselves.
    """
    family = _family(running.pid)
    _signal(running.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=5)
    for process in alive:
        _signal(process.pid, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def memory_bytes(pid: int) -> int:
    """Resident memory of a process and its children; shared pages are counted once each (USS of
    the children), so that PostgreSQL's shared buffers do not count per connection.
    """
    family = _family(pid)
    total = 0
    for number, process in enumerate(family):
        try:
            total += process.memory_full_info().uss if number else process.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def last_line(log: Path) -> str:
    """The last line of a log that names an error, else its last line, shortened; empty when there
    is none.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip()[:300] for line in text.split("\n") if line.strip()]
    errors = [line for line in lines if any(word in line for word in ERROR_WORDS)]
    return (errors or lines or [""])[-1]


def wait_until_gone(pid: int, *, wait_seconds: float) -> bool:
    """True when the process has ended within the time."""
    deadline = time.monotonic() + wait_seconds
    while psutil.pid_exists(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
