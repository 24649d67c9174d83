"""The demo's first and last act: credits over HTTP, a stream, and a hold that is left behind.

The API runs as a process beside the workers, with a secret of this run.
"""

import asyncio
import json
import os
import secrets
import socket
import time
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError

from adapters.failures import Failure
from tollgate.demo_workers import Command, Workers

START_SECONDS_MAX = 30.0
ESTIMATE, MORE = 40, 20
HOLD_SECONDS = 2  # of this run: a reconciliation examines what is left behind after it
STREAM = {"provider": "openai", "model": "gpt-4o", "tokens": {"input": 12_000, "output": 4_000}}
CUT_OFF = {"provider": "openai", "model": "gpt-4o", "tokens": {"input": 2_000, "output": 500}}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was done, and what it came to: a line of the summary."""

    what: str
    answer: str


class CreditsAct:
    """An account's way through the gate, before and after the events of the demo."""

    def __init__(self, running: Workers) -> None:
        self._running = running
        self._account = f"demo-{int(time.time())}"
        self._address = ""
        self._token = ""
        self.steps: list[Step] = []

    async def open(self) -> None:
        """An account with a grant, a stream that is finalised, and one that is cut off.

        Raises Failure when the API does not come up or refuses what must work.
        """
        await asyncio.to_thread(self._open)

    async def close(self) -> dict[str, Any]:
        """The refresh, and the reconciliation that settles what the cut-off stream had reported.

        Returns the steps of both acts and whether the hold was found.
        """
        return await asyncio.to_thread(self._close)

    def _open(self) -> None:
        Command("account", "create", self._account, "--tier", "pro").result()
        granted = Command("grant", self._account, "250", "--reason", "demo").result()
        self._note(
            "account with welcome credits and a grant of 250", granted, "balance_after_micro"
        )
        self._start_api()
        path = f"/api/v1/accounts/{self._account}"
        too_much = self._ask(f"{path}/check", {"credits": 5_000})
        self.steps.append(Step("may work for 5,000 credits start?", too_much["message"]))
        opened = self._ask(f"{path}/sessions", {"credits": ESTIMATE, "session_id": self._id("a")})
        self.steps.append(
            Step(f"stream opened with {ESTIMATE} held", f"{opened['available']} left")
        )
        self._ask(f"{path}/sessions/{self._id('a')}/extend", {"credits": MORE})
        ended = self._ask(f"{path}/sessions/{self._id('a')}/finalise", {"usage": STREAM})
        self.steps.append(Step("extended, and finalised", f"charged {ended['charged']}"))
        left = {"credits": ESTIMATE, "session_id": self._id("b")}
        self._ask(f"{path}/sessions", left)
        self._ask(f"{path}/sessions/{self._id('b')}/extend", {"credits": 0, "usage": CUT_OFF})
        self.steps.append(Step("another stream, left behind on purpose", f"{ESTIMATE} held"))

    def _close(self) -> dict[str, Any]:
        Command("refresh", "now", self._account, "--reason", "demo").result()
        self.steps.append(Step("refresh: the monthly allowance of tier pro", "20,000 given"))
        os.environ["TOLLGATE_RECONCILE_AFTER_SECONDS"] = "0"
        try:
            ran = Command("job", "reconcile", "--now").result()["figures"]
        finally:
            del os.environ["TOLLGATE_RECONCILE_AFTER_SECONDS"]
        shown = Command("account", "show", self._account).result()
        self.steps.append(
            Step(
                "reconciliation: what the cut-off stream had used is charged",
                f"{ran['reconciled']} settled, {shown['open_holds']} still held",
            )
        )
        return {
            "steps": [[step.what, step.answer] for step in self.steps],
            "settled": bool(ran["reconciled"] and shown["open_holds"] == 0),
        }

    def _id(self, name: str) -> str:
        return f"{self._account}.stream-{name}"

    def _note(self, what: str, document: dict[str, Any], field: str) -> None:
        from tollgate.output import credits_text

        self.steps.append(Step(what, f"balance {credits_text(document[field])}"))

    def _start_api(self) -> None:
        port = _free_port()
        self._running.start(
            "api",
            "api",
            {
                "TOLLGATE_API_PORT": str(port),
                "TOLLGATE_JWT_SECRET": secrets.token_hex(32),
                "TOLLGATE_LOCAL_LOGIN": "true",
                "TOLLGATE_HOLD_SECONDS": str(HOLD_SECONDS),
            },
        )
        self._address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            self._running.require()
            try:
                answer = self._ask("/api/v1/login", {"account": "demo", "role": "service"})
                break
            except (URLError, ConnectionError):
                if time.monotonic() > deadline:
                    raise Failure("the API did not answer within 30 s") from None
                time.sleep(0.1)
        self._token = answer["access_token"]

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - our own server on the loopback
            self._address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310 - the same
            answer: dict[str, Any] = json.load(reply)
        return answer


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port
