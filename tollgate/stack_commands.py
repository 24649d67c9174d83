"""`tollgate up | down | status`: the local stack from the command line."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from stack.local import Stack, State
from stack.ports import Name, Ports, port_from_environment

Home = Annotated[
    Path, typer.Option(envvar="TOLLGATE_HOME", help="Directory of the data, logs and addresses.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


def up(
    home: Home = Path(".tollgate"),
    *,
    kafka_port: Annotated[int | None, typer.Option(min=1, max=65_535)] = None,
    postgres_port: Annotated[int | None, typer.Option(min=1, max=65_535)] = None,
    clickhouse_port: Annotated[int | None, typer.Option(min=1, max=65_535)] = None,
    postgres_dsn: Annotated[str, typer.Option(help="Use this PostgreSQL, start none.")] = "",
    as_json: Json = False,
) -> None:
    """Start Kafka, PostgreSQL and ClickHouse's engine here; what runs already is left alone.

    Example: tollgate up --home /var/tmp/tollgate --kafka-port 29092
    """
    chosen = {
        Name.KAFKA: kafka_port,
        Name.POSTGRES: postgres_port,
        Name.CLICKHOUSE: clickhouse_port,
    }
    ports = Ports(*(chosen[name] or port_from_environment(name) for name in Name))
    stack = Stack(home, ports, postgres_dsn=postgres_dsn)
    started = stack.up()
    if as_json:
        document = {"started": [name.value for name in started], **stack.environment()}
        typer.echo(json.dumps(document))
        return
    for name in Name:
        word = "started" if name in started else "running"
        typer.echo(f"{name:<11}{word}  {_redacted(stack.address(name))}")
    typer.echo(f"addresses in {os.path.relpath(stack.home / 'stack.env')}")


def down(home: Home = Path(".tollgate"), *, as_json: Json = False) -> None:
    """Stop everything that `up` started; the data stays for the next `up`.

    Example: tollgate down
    """
    stopped = [name.value for name in Stack(home).down()]
    if as_json:
        typer.echo(json.dumps({"stopped": stopped}))
    else:
        typer.echo(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


def status(home: Home = Path(".tollgate"), *, as_json: Json = False) -> None:
    """Show each component: does it answer, its process, address, version, memory and data.

    Exits with 1 unless every component answers. Example: tollgate status --json
    """
    ports = Ports(*(port_from_environment(name) for name in Name))
    states = Stack(home, ports).status()
    if as_json:
        typer.echo(json.dumps([_document(state) for state in states]))
    else:
        typer.echo(
            f"{'component':<11}{'state':<13}{'pid':>8}{'memory':>10}{'data':>10}  version, address"
        )
        for state in states:
            typer.echo(_row(state))
    if not all(state.answers for state in states):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the three commands to the command line."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)


def _word(state: State) -> str:
    if state.answers:
        return "running"
    return "stopped" if state.pid is None else "no answer"


def _row(state: State) -> str:
    memory, data = (f"{size // 1_000_000} MB" for size in (state.memory_bytes, state.data_bytes))
    pid = "-" if state.pid is None else str(state.pid)
    address = _redacted(state.address)
    return f"{state.name:<11}{_word(state):<13}{pid:>8}{memory:>10}{data:>10}  {state.version}, {address}"


def _document(state: State) -> dict[str, str | int | None]:
    return {
        "component": state.name.value,
        "state": _word(state),
        "pid": state.pid,
        "address": _redacted(state.address),
        "version": state.version,
        "memory_bytes": state.memory_bytes,
        "data_bytes": state.data_bytes,
        "log": str(state.log),
    }


def _redacted(address: str) -> str:
    """The address without the password that a DSN may carry."""
    scheme, separator, rest = address.partition("://")
    login, at, host = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}{separator}{user}{colon and ':***'}{at}{host}"
