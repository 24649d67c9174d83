"""`python -m bench.gate`: how long a check and a hold take, and what happens without PostgreSQL.

The API is a process of its own; so is a rater that charges other accounts meanwhile. Requests are
sent at their time, whatever became of those before them, and a latency counts from that time: a
queue in front of the API is part of it. At last PostgreSQL is frozen: every answer must be a no.
"""

import argparse
import asyncio
import gc
import json
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import psutil
import uvloop

from adapters.failures import Failure
from adapters.postgres import connect
from adapters.queries import parse
from bench.machine import machine
from bench.processes import Fleet, fleet, spent
from bench.site import Place, Site, open_site
from bench.wire import Wire
from stack.ports import Name, Ports

SQL = parse(Path(__file__).with_name("gate.sql").read_text(encoding="utf-8"), "gate.sql")
ACCOUNTS = 200
FROZEN_SECONDS = 3.0
START_SECONDS_MAX = 30.0
WARM_UP_SECONDS = 2.0
LOADED_SECONDS = 8.0  # until Kafka and the rater run as they do in the long run
BODY = {"check": b'{"credits": 5}', "holds": b'{"credits": 1}'}
ANSWER_SECONDS_MAX = 30.0


@dataclass(slots=True)
class Answers:
    """What came back, and how long after the time at which it should have been sent."""

    seconds: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    allowed: int = 0

    def document(self, lasted_seconds: float) -> dict[str, Any]:
        """As JSON; latencies in milliseconds. A lag is the client's own: due, and not yet sent."""
        ordered, lags = sorted(self.seconds), sorted(self.lags)
        return {
            "requests": len(ordered),
            "per_second": round(len(ordered) / lasted_seconds),
            "allowed": self.allowed,
            "statuses": dict(self.statuses),
            **{f"p{share}_ms": _ms(ordered, share) for share in (50, 90, 99, 100)},
            **{f"client_lag_p{share}_ms": _ms(lags, share) for share in (50, 99, 100)},
        }


def _ms(ordered: list[float], share: int) -> float:
    return round(1000 * ordered[max(0, len(ordered) * share // 100 - 1)], 2)


class Client:
    """Sends requests at their time over as many connections as that takes."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def send(self, operations: tuple[str, ...], rate: int, seconds: float) -> dict[str, Any]:
        """So many requests a second, of the operations by turns and on all accounts by turns."""
        answers = Answers()
        tasks = []
        gc.collect()
        gc.freeze()  # else Python looks through all that the process has, and nothing is sent
        began = time.perf_counter()
        for n in range(round(rate * seconds)):
            due = began + n / rate
            if due > time.perf_counter():
                await asyncio.sleep(due - time.perf_counter())
            operation = operations[n % len(operations)]
            path = f"/api/v1/accounts/bench-{n % ACCOUNTS + 1}/{operation}"
            tasks.append(asyncio.create_task(self._one(path, BODY[operation], due, answers)))
        await asyncio.gather(*tasks)
        return answers.document(time.perf_counter() - began)

    async def _one(self, path: str, body: bytes, due: float, answers: Answers) -> None:
        answers.lags.append(time.perf_counter() - due)
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                code, text = await self._wire.ask("POST", path, body)
            status = str(code)
            answers.allowed += code == 201 or (code == 200 and json.loads(text)["sufficient"])
        except OSError as error:
            status = type(error).__name__
        answers.statuses[status] += 1
        answers.seconds.append(time.perf_counter() - due)


async def gate(site: Site, rate: int, seconds: float, events: int) -> dict[str, Any]:
    """Checks, then holds, then both without PostgreSQL. Failure when a hold is lost or doubled."""
    place = await site.new_place("gate")
    place, secret, port = _with_api(place)
    connection = await connect(place.settings, application_name="bench", unlimited=True)
    try:
        await connection.execute(SQL.make_accounts, ACCOUNTS)
        with fleet(site.stack, site.stack.home / "bench-logs") as running:
            running.start("api", place, "tollgate", "run", "api")
            running.start("rater", place, "tollgate", "run", "rater")
            found: dict[str, Any] = {"rate": rate, "events_per_second": events}
            async with _wire(port, secret) as wire:
                await _listening(wire, running.require)
                client = Client(wire)
                await client.send(("check", "holds"), rate // 4, WARM_UP_SECONDS)
                with _load(place, events, 2 * seconds + LOADED_SECONDS + WARM_UP_SECONDS):
                    if events:
                        await client.send(("check", "holds"), rate, LOADED_SECONDS)
                    for operation in ("check", "holds"):
                        idle = _cpu_seconds(running)
                        found[operation] = await client.send((operation,), rate, seconds)
                        busy = spent(idle, _cpu_seconds(running))
                        found[operation]["cpu_ms_a_request"] = {
                            name: round(1000 * busy[name] / (rate * seconds), 2)
                            for name in ("api", "postgres", "rater", "client")
                        }
                        running.weigh()
                before = await connection.fetchrow(SQL.holds)
                with _frozen(site):
                    found["frozen"] = await client.send(("check", "holds"), rate, FROZEN_SECONDS)
                await asyncio.sleep(1)
                found["thawed"] = await client.send(("check",), rate // 10, 1)
        after = await connection.fetchrow(SQL.holds)
    finally:
        await connection.close()
    if found["frozen"]["allowed"]:
        raise Failure(f"allowed without PostgreSQL: {found['frozen']}")
    if after["promised_micro"] != after["held_micro"]:
        raise Failure(f"held and promised differ: {dict(after)}")
    found["peak_mib"] = {"api": round(running.peak_bytes["api"] / 2**20)}
    found["holds_by_unanswered_requests"] = after["holds"] - before["holds"]
    return found


def _cpu_seconds(running: Fleet) -> dict[str, float]:
    """By process; the client is this one."""
    return {**running.cpu_seconds(), "client": time.process_time()}


def _with_api(place: Place) -> tuple[Place, str, int]:
    secret, port = secrets.token_hex(32), Ports.free().kafka
    added = {"TOLLGATE_JWT_SECRET": secret, "TOLLGATE_API_PORT": str(port)}
    return Place(place.settings, {**place.environment, **added}), secret, port


def _wire(port: int, secret: str) -> Wire:
    claims = {"sub": "bench", "role": "service", "iss": "tollgate", "aud": "tollgate"}
    expires = datetime.now(UTC) + timedelta(hours=1)
    bearer = jwt.encode({**claims, "exp": expires}, secret, algorithm="HS256")
    return Wire(f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {bearer}"})


async def _listening(wire: Wire, require: Any) -> None:
    end = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < end:
        require()
        with suppress(OSError):
            if (await wire.ask("GET", "/ready"))[0] == 200:
                return
        await asyncio.sleep(0.1)
    raise Failure(f"the API was not ready within {START_SECONDS_MAX:.0f} s")


@contextmanager
def _load(place: Place, rate: int, seconds: float) -> Iterator[None]:
    if rate == 0:
        yield
        return
    command = f"-m tollgate load --rate {rate} --duration {seconds} --steady --json"
    child = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, *command.split()],
        env=place.environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
        if child.poll():
            raise Failure(f"tollgate load ended with exit code {child.returncode}")
    finally:
        child.terminate()
        child.wait()


@contextmanager
def _frozen(site: Site) -> Iterator[None]:
    """All of PostgreSQL is stopped where it stands, and goes on afterwards."""
    running = site.stack.running(Name.POSTGRES)
    if running is None:
        raise Failure("PostgreSQL does not run")
    server = psutil.Process(running.pid)
    stopped = [server, *server.children(recursive=True)]
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in stopped:
            process.send_signal(signal.SIGCONT)


def main() -> int:
    """Prints the document as JSON. Exit code 1, with one line, when something fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("--rate", type=int, default=500, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each operation")
    parser.add_argument("--events", type=int, default=2_000, help="events a second meanwhile; 0")
    chosen = parser.parse_args()
    if chosen.rate < 20 or chosen.seconds < 1 or chosen.events < 0:
        parser.error("at least 20 requests a second, 1 second and 0 events")
    try:
        with (
            tempfile.TemporaryDirectory(prefix="tollgate-bench-") as directory,
            open_site(Path(directory) / "stack") as site,
        ):
            found = uvloop.run(gate(site, chosen.rate, chosen.seconds, chosen.events))
    except Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    print(json.dumps({"machine": machine(), "gate": found}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
