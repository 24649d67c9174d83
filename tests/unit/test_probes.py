"""Liveness that tells the truth about progress, and the watchdog that acts on it."""

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest

from adapters.failures import Failure
from adapters.metrics import Metrics
from adapters.settings import Settings
from consumers import progress as progress_module
from consumers.probes import serve_probes
from consumers.progress import Progress


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def fetch(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_lag_without_a_finished_batch_is_not_alive() -> None:
    progress = Progress(Settings(stalled_seconds_max=60))
    now = time.monotonic()
    progress.lag = 5
    progress.tick()
    assert progress.alive(now)
    assert progress.idle_seconds(now + 61) > 60
    assert progress.stall(now + 61) is not None


def test_an_idle_hour_is_no_stall() -> None:
    progress = Progress(Settings(stalled_seconds_max=60))
    progress._moved_at -= 3_600
    progress.tick()
    assert progress.alive(time.monotonic())
    progress.lag = 1
    assert progress.alive(time.monotonic())
    progress._moved_at -= 61
    assert not progress.alive(time.monotonic())


def test_a_finished_batch_starts_the_clock_anew() -> None:
    progress = Progress(Settings(stalled_seconds_max=60))
    progress.lag = 1
    progress._moved_at -= 61
    assert not progress.alive(time.monotonic())
    progress.batch_done(1)
    assert progress.alive(time.monotonic())
    assert progress.records == 1


def test_an_event_loop_that_does_not_turn_is_not_alive() -> None:
    before = time.monotonic()
    progress = Progress(Settings(session_timeout_ms=6_000))
    after = time.monotonic()
    assert progress.alive(before + 1.9)
    assert not progress.alive(after + 2.1)


async def test_the_probes_answer_while_the_loop_is_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os._exit", lambda _status: None)  # the watchdog sees the stall as well
    settings = Settings(probe_port=free_port(), stalled_seconds_max=0.2)
    progress, metrics = Progress(settings), Metrics("rater")

    async with serve_probes(settings, "rater", progress, metrics):
        assert (await asyncio.to_thread(fetch, settings.probe_port, "/healthz"))[0] == 200
        assert (await asyncio.to_thread(fetch, settings.probe_port, "/readyz"))[0] == 503
        progress.ready = True
        status, body = fetch(settings.probe_port, "/readyz")  # blocks the loop on purpose
        assert status == 200
        assert json.loads(body)["stage"] == "rater"
        status, body = fetch(settings.probe_port, "/metrics")
        assert status == 200
        assert b"tollgate_batch_seconds" in body
        assert fetch(settings.probe_port, "/")[0] == 404
        progress.lag = 1
        progress._moved_at -= 0.3
        assert fetch(settings.probe_port, "/healthz")[0] == 503
        progress.batch_done(1)


async def test_a_taken_port_is_one_clear_line() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        settings = Settings(probe_port=listener.getsockname()[1])
        with pytest.raises(Failure, match="TOLLGATE_PROBE_PORT"):
            async with serve_probes(settings, "rater", Progress(settings), Metrics("rater")):
                pass


@pytest.mark.parametrize(("session_ms", "slept"), [(6_000, 3.0), (15_000, 6.0), (60_000, 25.0)])
def test_who_slept_himself_knows_nothing_of_the_loops_silence(
    monkeypatch: pytest.MonkeyPatch, session_ms: int, slept: float
) -> None:
    """A machine that stood still for longer than the loop may be silent, and not for 5 s, ended
    each worker: its watchdog woke before its loop.
    """
    assert _exit_status(monkeypatch, session_ms, [0.5, slept]) is None


def test_a_loop_that_is_silent_while_the_watchdog_is_awake_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for session_ms, looks in ((6_000, 5), (15_000, 11), (60_000, 41)):
        assert _exit_status(monkeypatch, session_ms, [0.5] * (looks - 1)) is None
        assert _exit_status(monkeypatch, session_ms, [0.5] * looks) == 70


def test_a_worker_that_hangs_ends_although_its_watchdog_oversleeps_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of its sleeps began the time anew in which something must be finished."""
    half_a_minute = [2.0, *[0.5] * 56]
    stalled = partial(_exit_status, monkeypatch, 6_000, lag=1, ticks=True)
    assert stalled(half_a_minute * 2) is None
    assert stalled(half_a_minute * 3) == 70


class _Looks:
    """In place of the event that ends a watchdog: it moves the clock, and ends after the last."""

    def __init__(
        self, clock: list[float], sleeps: list[float], tick: Callable[[], None] | None
    ) -> None:
        self._clock, self._sleeps, self._tick = clock, list(sleeps), tick

    def wait(self, _: float) -> bool:
        if not self._sleeps:
            return True
        self._clock[0] += self._sleeps.pop(0)
        if self._tick is not None:
            self._tick()
        return False


def _exit_status(
    monkeypatch: pytest.MonkeyPatch,
    session_ms: int,
    sleeps: list[float],
    *,
    lag: int = 0,
    ticks: bool = False,
) -> int | None:
    """With what a watchdog that sleeps so ends a process; None: not. Its loop turns as `ticks`."""
    clock = [1_000.0]
    statuses: list[int] = []
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr("os._exit", statuses.append)
    progress = Progress(Settings(session_timeout_ms=session_ms, stalled_seconds_max=60))
    progress.lag = lag
    looks = _Looks(clock, sleeps, progress.tick if ticks else None)
    progress_module._watch(progress, looks)  # type: ignore[arg-type]
    return statuses[0] if statuses else None


BLOCKED = """
import asyncio, time
from adapters.settings import Settings
from adapters.metrics import Metrics
from consumers.probes import serve_probes
from consumers.progress import Progress

async def main():
    settings = Settings(stalled_seconds_max={stalled}, session_timeout_ms={session})
    progress = Progress(settings)
    progress.lag = {lag}
    async with serve_probes(settings, "rater", progress, Metrics("rater")):
        {work}
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("lag", "stalled", "session", "work", "status"),
    [
        (1, 0.5, 60_000, "await asyncio.sleep(60)", 70),
        (0, 60, 6_000, "time.sleep(60)", 70),
        (0, 0.5, 60_000, "await asyncio.sleep(2)", 0),
    ],
    ids=["work waits and nothing is finished", "the loop is blocked", "idle"],
)
def test_the_watchdog_ends_a_worker_that_hangs(
    lag: int, stalled: float, session: int, work: str, status: int
) -> None:
    program = BLOCKED.format(lag=lag, stalled=stalled, session=session, work=work)
    done = subprocess.run([sys.executable, "-c", program], timeout=120, check=False)
    assert done.returncode == status
