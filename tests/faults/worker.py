"""Starts stages as real processes, fast: it imports everything once and forks for each order.

Orders come as JSON lines on stdin, answers go as JSON lines to stdout. A fork is a whole process
of its own, with the same code as `tollgate run`; only its import of it is shared. It may be told
to die or to freeze at a named point, and to run without one of its guards.
"""

import gc
import json
import os
import selectors
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import structlog
import uvloop  # noqa: F401 - imported before the fork

import adapters.copy
import adapters.ledger
import adapters.parked
import consumers.app
import consumers.warehouse  # noqa: F401 - imported before the fork
from adapters import (
    logs,  # noqa: F401 - imported before the fork
    price_store,
)
from adapters.failures import Failure
from adapters.model_prices import snapshot
from core.catalog import Catalog, parse_catalog
from core.document import Node
from tests.faults.ablations import ABLATIONS
from tollgate.run_command import Stage, run


class Trap:
    """Does a signal to its own process at the n-th time that a named point is reached."""

    def __init__(self, point: str, nth: int, number: int, marks: Path) -> None:
        self._point, self._left, self._number, self._marks = point, nth, number, marks

    def reached(self, name: str) -> None:
        """Stands in for adapters.faultpoints.reached."""
        if name != self._point:
            return
        self._left -= 1
        if self._left == 0:
            with self._marks.open("a", encoding="utf-8") as marks:
                marks.write(f"{name}\n")
            os.kill(os.getpid(), self._number)


def _set(trap: Trap) -> None:
    """Puts the trap where the stages reach their points, before a batch takes its locks, and where
    PostgreSQL waits for the rows of a COPY.
    """
    for module in (adapters.ledger, adapters.copy, adapters.parked):
        assert hasattr(module, "reached")
        vars(module)["reached"] = trap.reached
    lock = adapters.ledger.BatchTransaction.lock_positions

    async def lock_positions(transaction: Any, *arguments: Any) -> Any:
        trap.reached("before_lock")
        return await lock(transaction, *arguments)

    setattr(adapters.ledger.BatchTransaction, lock.__name__, lock_positions)
    charge_rows = adapters.ledger.charge_rows

    def rows_while_it_waits(*arguments: Any) -> Any:
        columns, rows = charge_rows(*arguments)

        def one_by_one() -> Any:
            trap.reached("in_copy")
            yield from rows

        return columns, one_by_one()

    vars(adapters.ledger)[charge_rows.__name__] = rows_while_it_waits


CATALOG_TEXT = snapshot()
CATALOG = parse_catalog(Node(CATALOG_TEXT, key="book.catalog"))


def read_catalog(text: str) -> Catalog:
    """Stands in for the parse of the models' prices, a third of a second in each process."""
    document = json.loads(text)
    known = document == CATALOG_TEXT
    return CATALOG if known else parse_catalog(Node(document, key="book.catalog"))


def _live(order: dict[str, Any]) -> int:
    """The life of a worker, in the forked process; returns its exit status."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(order["environment"])
    try:
        for name in order["without"]:
            ABLATIONS[name]()
        if order["point"]:
            number = signal.Signals[order["signal"]]
            _set(Trap(order["point"], order["nth"], number, Path(order["marks"])))
        run(Stage(order["stage"]))
    except Failure as failure:
        structlog.get_logger().error("exit", failure=str(failure))
        return 1
    except BaseException:  # noqa: BLE001 - the process ends here
        traceback.print_exc()
        return 3
    return 0


def _fork(order: dict[str, Any]) -> None:
    pid = os.fork()
    if pid:
        _say(order=order["order"], pid=pid)
        return
    status = 3
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        status = _live(order)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _say(**answer: object) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(ended=pid, status=os.waitstatus_to_exitcode(status))


def main() -> None:
    """Serves orders until stdin ends."""
    price_store._read_catalog = read_catalog
    bell, ring = os.pipe()
    os.set_blocking(bell, False)
    os.set_blocking(ring, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(ring)
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ)
    waiting.register(bell, selectors.EVENT_READ)
    gc.collect()
    gc.freeze()
    _say(ready=os.getpid())
    unread = b""
    while True:
        for key, _ in waiting.select():
            if key.fd == bell:
                os.read(bell, 4096)
                _reap()
                continue
            data = os.read(0, 65536)
            if not data:
                return
            *orders, unread = (unread + data).split(b"\n")
            for order in orders:
                _fork(json.loads(order))


if __name__ == "__main__":
    main()
