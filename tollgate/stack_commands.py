"""`tollgate up | down | status`: the local stack from the command line."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stack.local import State

Home = Annotated[
    Path, typer.Option(envvar="TOLLGATE_HOME", help="Directory of the data, logs and addresses.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
Port = Annotated[
    int | None, typer.Option(min=1, max=65_535, help="TCP port; else TOLLGATE_..._PORT.")
]
DEFAULT_HOME = Path(".tollgate")


def register(app: typer.Typer) -> None:
    """Adds the three commands to the command line."""
    example = "Example: tollgate up --home /var/tmp/tollgate --kafka-port 29092"
    app.command("up", epilog=example)(up)
    app.command("down", epilog="Example: tollgate down")(down)
    app.command("status", epilog="Example: tollgate status --json")(status)


def up(
    home: Home = DEFAULT_HOME,
    *,
    kafka_port: Port = None,
    postgres_port: Port = None,
    clickhouse_port: Port = None,
    postgres_dsn: Annotated[
        str | None,
        typer.Option(help="Use this PostgreSQL from now on, start none; empty: our own again."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start Kafka, PostgreSQL and ClickHouse's engine here, without Docker.

    What runs already is left alone. Data, logs and the file with the addresses (stack.env) are in
    the home directory; everything listens on this machine only.
    """
    from stack.local import Stack
    from stack.ports import Name, Ports, port_from_environment
    from tollgate.output import print_json, say

    chosen = (kafka_port, postgres_port, clickhouse_port)
    ports = [port or port_from_environment(name) for name, port in zip(Name, chosen, strict=True)]
    stack = Stack(home, Ports(*ports), postgres_dsn=postgres_dsn)
    started = stack.up()
    addresses = {name: _redacted(stack.address(name)) for name in Name}
    if as_json:
        print_json({"started": started, "addresses": addresses, "home": str(stack.home)})
        return
    for name, address in addresses.items():
        word = "started" if name in started else "running"
        say(f"{name:<11}{word}  {address}")
    say(f"addresses are in {os.path.relpath(stack.home / 'stack.env')}")


def down(home: Home = DEFAULT_HOME, *, as_json: Json = False) -> None:
    """Stop everything that `up` started; the data stays for the next `up`."""
    from stack.local import Stack
    from tollgate.output import print_json, say

    stopped = Stack(home).down()
    if as_json:
        print_json({"stopped": stopped})
    else:
        say(f"stopped {', '.join(stopped)}" if stopped else "nothing was running")


def status(home: Home = DEFAULT_HOME, *, as_json: Json = False) -> None:
    """Show each component: does it answer, its process, address, version, memory and data.

    Exits with 1 unless every component answers.
    """
    from stack.local import Stack
    from stack.ports import Name, Ports, port_from_environment
    from tollgate.output import print_json, say

    ports = Ports(*(port_from_environment(name) for name in Name))
    states = Stack(home, ports).status()
    if as_json:
        print_json([_document(state) for state in states])
    else:
        say(f"{'component':<11}{'state':<11}{'pid':>8}{'memory':>10}{'data':>10}  version, address")
        for state in states:
            say(_row(state))
    if not all(state.answers for state in states):
        raise typer.Exit(1)


def _word(state: "State") -> str:
    if state.answers:
        return "running"
    return "stopped" if state.pid is None else "no answer"


def _row(state: "State") -> str:
    memory, data = (f"{size // 1_000_000} MB" for size in (state.memory_bytes, state.data_bytes))
    pid = "-" if state.pid is None else str(state.pid)
    figures = f"{state.name:<11}{_word(state):<11}{pid:>8}{memory:>10}{data:>10}"
    return f"{figures}  {state.version}, {_redacted(state.address)}"


def _document(state: "State") -> dict[str, str | int | None]:
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
