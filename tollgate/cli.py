"""The command `tollgate`: one line for every error, and exit codes that a script can trust.

0: done. 1: a failure, told in one line on stderr. 2: wrong usage. 70: a worker's watchdog.
130: interrupted from the keyboard.
"""

import importlib
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from adapters.failures import Failure

# Every module that adds commands through its `register(app)`. They import what they need inside
# the command, so that --help answers at once.
COMMANDS = (
    "tollgate.stack_commands",
    "tollgate.migrate_command",
    "tollgate.run_command",
    "tollgate.publish_command",
    "tollgate.load_command",
    "tollgate.lag_command",
    "tollgate.verify_command",
    "tollgate.prices_command",
    "tollgate.dead_letters_command",
    "tollgate.replay_command",
    "tollgate.stream_command",
    "tollgate.account_command",
    "tollgate.grant_command",
    "tollgate.coupon_command",
    "tollgate.proposal_command",
    "tollgate.hold_command",
    "tollgate.audit_log_command",
    "tollgate.api_key_command",
    "tollgate.provider_key_command",
    "tollgate.charge_command",
    "tollgate.explain_command",
    "tollgate.calculate_cost_command",
    "tollgate.query_command",
    "tollgate.rerate_command",
    "tollgate.rebuild_command",
    "tollgate.demo_command",
    "tollgate.bench_command",
    "tollgate.schemas_command",
    "tollgate.job_command",
    "tollgate.refresh_command",
)


def _print_version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"tollgate {version('tollgate')}")
        raise typer.Exit


def _tollgate(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda asked: _print_version(asked=asked),
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Usage priced exactly once, balances true within a second."""


def build_app() -> typer.Typer:
    """The whole command with every module of COMMANDS registered; no module's work is done yet."""
    app = typer.Typer(
        name="tollgate",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Example: tollgate up && tollgate migrate && tollgate run rater",
    )
    app.callback()(_tollgate)
    for name in COMMANDS:
        importlib.import_module(name).register(app)
    return app


def main() -> None:
    """Runs the command line; every failure is one line on stderr and a status, never a traceback.

    With TOLLGATE_LOG_LEVEL=debug an unexpected error keeps its traceback.
    """
    try:
        status = build_app()(standalone_mode=False)
    except Failure as failure:
        status = _told(str(failure), 1)
    except typer.Abort:
        status = _told("given up: not confirmed", 1)
    except typer.TyperException as error:
        status = _usage_error(error)
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        if os.environ.get("TOLLGATE_LOG_LEVEL", "").lower() == "debug":
            raise
        hint = "TOLLGATE_LOG_LEVEL=debug shows where"
        status = _told(f"unexpected {type(error).__name__}: {error} ({hint})", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _usage_error(error: typer.TyperException) -> int:
    """A line that names the help to read; a bare `tollgate` has shown its help already."""
    message = error.format_message().strip().removesuffix(".")
    if message:
        command = getattr(getattr(error, "ctx", None), "command_path", "tollgate")
        _told(f"{message}; see `{command} --help`", error.exit_code)
    return error.exit_code


def _told(message: str, status: int) -> int:
    from tollgate.output import remark

    remark(f"tollgate: {message}")
    return status


if __name__ == "__main__":
    main()
