"""What a worker tells Kubernetes and Prometheus about itself: /healthz, /readyz, /metrics.

Liveness is progress, not a heartbeat: a worker that has work and finishes nothing is not alive.
The answers come from a thread of their own, so that a scrape never delays a batch and a blocked
event loop is seen from outside.
"""

import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from adapters.failures import Failure
from adapters.metrics import Metrics
from adapters.settings import Settings
from consumers.progress import Progress, watchdog

# A client that connects and says nothing is dropped after it.
REQUEST_SECONDS_MAX = 5.0


class _ProbeServer(ThreadingHTTPServer):
    daemon_threads = True
    stage: str
    progress: Progress
    metrics: Metrics


class _Probe(BaseHTTPRequestHandler):
    server: _ProbeServer
    timeout = REQUEST_SECONDS_MAX

    def do_GET(self) -> None:
        """Answers the three paths; everything else is 404."""
        match self.path.partition("?")[0]:
            case "/healthz":
                self._state(good=self.server.progress.alive(time.monotonic()))
            case "/readyz":
                self._state(good=self.server.progress.ready)
            case "/metrics":
                content_type = "text/plain; version=0.0.4; charset=utf-8"
                self._answer(HTTPStatus.OK, content_type, self.server.metrics.text())
            case _:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not found\n")

    def _state(self, *, good: bool) -> None:
        now = time.monotonic()
        progress = self.server.progress
        state = {
            "stage": self.server.stage,
            "ok": good,
            "ready": progress.ready,
            "lag": progress.lag,
            "idle_seconds": round(progress.idle_seconds(now), 3),
            "loop_silent_seconds": round(progress.loop_silent_seconds(now), 3),
        }
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, "application/json", json.dumps(state).encode() + b"\n")

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
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


@asynccontextmanager
async def serve_probes(
    settings: Settings, stage: str, progress: Progress, metrics: Metrics
) -> AsyncIterator[None]:
    """Watches over the stage while the block runs, and serves the probes unless `probe_port` is 0.

    The watchdog ends the process with 70 when it is not alive. Raises Failure when the port is
    taken.
    """
    async with watchdog(progress):
        if settings.probe_port == 0:
            yield
            return
        server = _listen(settings)
        server.stage, server.progress, server.metrics = stage, progress, metrics
        thread = threading.Thread(target=server.serve_forever, name="probes", daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join(REQUEST_SECONDS_MAX)


def _listen(settings: Settings) -> _ProbeServer:
    address = (settings.probe_host, settings.probe_port)
    try:
        return _ProbeServer(address, _Probe)
    except OSError as error:
        raise Failure(
            f"probes cannot listen on {address[0]}:{address[1]} ({error.strerror}): "
            "choose another port with TOLLGATE_PROBE_PORT"
        ) from None
