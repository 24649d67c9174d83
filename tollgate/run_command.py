"""`tollgate run`: one stage as a process, until it is told to stop."""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, assert_never

import typer

if TYPE_CHECKING:
    from adapters.settings import Settings


class Stage(StrEnum):
    """The stages that run as processes; a stage has this name everywhere."""

    RATER = "rater"
    WAREHOUSE = "warehouse"
    API = "api"
    SCHEDULER = "scheduler"
    CLOCK = "clock"

    @property
    def in_bulk(self) -> bool:
        """Whether nobody waits for one answer of it: it lets the API go first."""
        return self in {Stage.RATER, Stage.WAREHOUSE, Stage.SCHEDULER}


def register(app: typer.Typer) -> None:
    """Adds `run`."""
    app.command("run", epilog="Example: tollgate run rater --probe-port 9101")(run)


def run(
    stage: Annotated[Stage, typer.Argument(help="What to run.", show_default=False)],
    probe_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            help="Port of /healthz, /readyz and /metrics; 0: none.",
            show_default="TOLLGATE_PROBE_PORT, else 0",
        ),
    ] = None,
) -> None:
    """Run a stage in the foreground until SIGTERM or Ctrl-C; several may run at once.

    Logs go to stderr. Exit codes: 0 stopped as asked, 1 halted with a reason, 70 the watchdog saw
    no progress.
    """
    import gc

    import uvloop

    from adapters.logs import configure_logs
    from adapters.priority import step_back
    from adapters.settings import load_settings

    overrides = {} if probe_port is None else {"probe_port": probe_port}
    settings = load_settings(**overrides)
    configure_logs(settings, stage=stage.value)
    if stage.in_bulk:
        step_back(settings.bulk_niceness)
    # A batch is tens of thousands of objects without cycles. By default Python looks through them
    # again and again: a sixth of a rater's processor time.
    gc.set_threshold(20_000, 20, 50)
    uvloop.run(_run(stage, settings))


async def _run(stage: Stage, settings: "Settings") -> None:
    import structlog

    from adapters.failures import Failure

    log = structlog.get_logger()
    main = _main_of(stage)
    log.info("started")
    try:
        await main(settings)
    except Failure as failure:
        log.error("stopped", failure=str(failure))  # noqa: TRY400 - a reason, not a defect
        raise
    except Exception as error:
        log.exception("stopped")
        raise Failure(f"{stage} stopped: {type(error).__name__}: {error}") from error
    log.info("stopped as asked")


def _main_of(stage: Stage) -> "Callable[[Settings], Awaitable[None]]":
    match stage:
        case Stage.RATER:
            from consumers.app import run as rater

            return rater
        case Stage.WAREHOUSE:
            from consumers.warehouse import run as warehouse

            return warehouse
        case Stage.API:
            from api.server import run as api

            return api
        case Stage.SCHEDULER:
            from consumers.scheduler import run as scheduler

            return scheduler
        case Stage.CLOCK:
            from tollgate.clock_stage import run as clock

            return clock
        case _:
            assert_never(stage)
