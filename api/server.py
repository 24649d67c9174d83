"""The API as a process: uvicorn until SIGTERM or SIGINT."""

import gc

import structlog
import uvicorn

from adapters.failures import Failure
from adapters.metrics import Metrics
from adapters.probe_port import serve_answers, text_of
from adapters.settings import Settings
from api.app import create_app
from api.limits import PatientProtocol

log = structlog.get_logger()
GRACE_SECONDS = 5
IDLE_SECONDS = 15
CONNECTIONS_MAX = 2_000


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if self.started:
            # What was made so far stays: looking through it again and again would be pauses of all
            # requests under way.
            gc.collect()
            gc.freeze()
            log.info("listening", host=self.config.host, port=self.config.port)


def configure(settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the API: with limits on connections, and without a name in its answers.

    Raises Failure when the configuration is not safe.
    """
    return uvicorn.Config(
        create_app(settings),
        host=settings.api_host,
        port=settings.api_port,
        http=PatientProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=IDLE_SECONDS,
        limit_concurrency=CONNECTIONS_MAX,
        lifespan="on",
    )


async def run(settings: Settings) -> None:
    """Serves until it is told to stop; requests under way get five seconds.

    The figures are for those who watch the process: on the probes' port, not on the callers'.
    Raises Failure when the configuration is not safe, or when a port is taken.
    """
    config = configure(settings)
    metrics: Metrics = config.app.state.metrics  # type: ignore[union-attr]
    server = _Server(config)
    try:
        with serve_answers(settings, {"/metrics": lambda: text_of(metrics)}):
            await server.serve()
    except SystemExit:
        raise Failure(
            f"the API can not listen on {settings.api_host}:{settings.api_port}"
        ) from None
    if not server.started:
        raise Failure(f"the API can not listen on {settings.api_host}:{settings.api_port}")
