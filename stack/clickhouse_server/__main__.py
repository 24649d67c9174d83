"""Starts the server: `python -m stack.clickhouse_server --path DIRECTORY --port PORT`."""

import argparse
import logging
import os
import signal
import threading
from pathlib import Path

from adapters.priority import step_back
from stack.clickhouse_server.engine import Engine
from stack.clickhouse_server.protocol import Access
from stack.clickhouse_server.server import Server

NICENESS = 10  # as that of the stages: its merges can wait, who asks the gate can not
STATEMENT_SECONDS_MAX = 10  # after a request to stop; a supervisor kills a little later


def main() -> None:
    """Serves until SIGTERM or SIGINT, then closes the engine's files."""
    parser = argparse.ArgumentParser(prog="stack.clickhouse_server", description=__doc__)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--memory-bytes-max", type=int, required=True)
    chosen = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    access = Access(
        user=os.environ.get("TOLLGATE_CLICKHOUSE_USER", "default"),
        password=os.environ.get("TOLLGATE_CLICKHOUSE_PASSWORD", ""),
    )
    step_back(NICENESS)  # before the engine starts its threads
    engine = Engine(chosen.path, memory_bytes_max=chosen.memory_bytes_max)
    server = Server((chosen.host, chosen.port), engine, access)
    for number in (signal.SIGTERM, signal.SIGINT):
        # shutdown() waits for serve_forever(), which runs in this very thread.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    if not engine.close(wait_seconds=STATEMENT_SECONDS_MAX):
        os._exit(0)  # Python would wait for the threads that still run


if __name__ == "__main__":
    main()
