"""What a worker tells Kubernetes and Prometheus about itself: /healthz, /readyz, /metrics.

Liveness is progress, not a heartbeat: a worker that has work and finishes nothing is not alive.
"""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from adapters.metrics import Metrics
from adapters.probe_port import Answer, serve_answers, text_of
from adapters.settings import Settings
from consumers.progress import Progress, watchdog


@asynccontextmanager
async def serve_probes(
    settings: Settings, stage: str, progress: Progress, metrics: Metrics
) -> AsyncIterator[None]:
    """Watches over the stage while the block runs, and serves the probes unless `probe_port` is 0.

    The watchdog ends the process with 70 when it is not alive. Raises Failure when the port is
    taken.
    """
    answers = {
        "/healthz": lambda: _state(stage, progress, good=progress.alive(time.monotonic())),
        "/readyz": lambda: _state(stage, progress, good=progress.ready),
        "/metrics": lambda: text_of(metrics),
    }
    async with watchdog(progress):
        with serve_answers(settings, answers):
            yield


def _state(stage: str, progress: Progress, *, good: bool) -> Answer:
    now = time.monotonic()
    state = {
        "stage": stage,
        "ok": good,
        "ready": progress.ready,
        "lag": progress.lag,
        "idle_seconds": round(progress.idle_seconds(now), 3),
        "loop_silent_seconds": round(progress.loop_silent_seconds(now), 3),
    }
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return status, "application/json", json.dumps(state).encode() + b"\n"
