"""ClickHouse's engine as a local server process."""

import http.client
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from adapters.failures import Failure
from stack.ports import HOST
from stack.process import Launch

MEMORY_SHARE_MAX = 0.3  # of the machine: a greedy query fails, the machine stays usable


def prepare(directory: Path, port: int) -> Launch:
    """Says how to start the server over the data in `directory`, which is kept.

    Raises Failure when the engine is not installed.
    """
    engine_version()
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    memory_bytes_max = int(psutil.virtual_memory().total * MEMORY_SHARE_MAX)
    argv = [sys.executable, "-m", "stack.clickhouse_server", "--path", str(data)]
    argv += ["--host", HOST, "--port", str(port), "--memory-bytes-max", str(memory_bytes_max)]
    return Launch(argv=argv, log=directory / "clickhouse.log", cwd=directory)


def answers(port: int) -> bool:
    """True when the server has executed a statement, or runs and wants a password."""
    link = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        link.request("GET", "/?query=SELECT%201")
        reply = link.getresponse()
        return reply.status in (401, 403) or reply.read() == b"1\n"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


def url(port: int) -> str:
    """The address that a client connects to."""
    return f"http://{HOST}:{port}"


def engine_version() -> str:
    """The version of the engine's package; Failure when it is not installed."""
    try:
        return version("chdb-core")
    except PackageNotFoundError:
        raise Failure(
            "clickhouse: the engine is not installed: `pip install 'tollgate[stack]'`"
        ) from None
