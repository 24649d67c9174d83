"""The port of a process for those who watch it, apart from what it does for others.

The answers come from a thread of their own, so that a scrape never delays the work and a blocked
event loop is seen from outside.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

from adapters.failures import Failure
from adapters.metrics import Metrics
from adapters.settings import Settings

# A client that connects and says nothing is dropped after it.
REQUEST_SECONDS_MAX = 5.0

Answer: TypeAlias = tuple[HTTPStatus, str, bytes]
Answers: TypeAlias = Mapping[str, Callable[[], Answer]]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answers: Answers


class _Probe(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_SECONDS_MAX

    def do_GET(self) -> None:
        """Answers the paths that there are; everything else is 404."""
        ask = self.server.answers.get(self.path.partition("?")[0])
        status, content_type, body = (
            ask() if ask else (HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")
        )
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """No version of anything is told to a client."""
        return "tollgate"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Probes come every few seconds: they are not logged."""


@contextmanager
def serve_answers(settings: Settings, answers: Answers) -> Iterator[None]:
    """Answers on `probe_host` and `probe_port` while the block runs; with port 0 nowhere.

    Raises Failure when the port is taken.
    """
    if settings.probe_port == 0:
        yield
        return
    server = _listen(settings)
    server.answers = answers
    thread = threading.Thread(target=server.serve_forever, name="probes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(REQUEST_SECONDS_MAX)


def text_of(metrics: Metrics) -> Answer:
    """The process's figures in Prometheus' text format."""
    return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", metrics.text()


def _listen(settings: Settings) -> _Server:
    address = (settings.probe_host, settings.probe_port)
    try:
        return _Server(address, _Probe)
    except OSError as error:
        raise Failure(
            f"probes cannot listen on {address[0]}:{address[1]} ({error.strerror}): "
            "choose another port with TOLLGATE_PROBE_PORT"
        ) from None
