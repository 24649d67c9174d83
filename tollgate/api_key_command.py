"""`tollgate api-key create | list | revoke | rotate`: keys for services, admins and accounts."""

import asyncio
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from adapters.api_keys import IssuedKey
    from adapters.postgres import Connection

Answer = TypeVar("Answer")
KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id: what is after tg_.")]
Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON.")]
_CREATE = "Example: tollgate api-key create chat --scope gate --scope usage"


def register(app: typer.Typer) -> None:
    """Adds `api-key create`, `api-key list`, `api-key revoke` and `api-key rotate`."""
    group = typer.Typer(
        help="Make, list, revoke and rotate keys of the API.", no_args_is_help=True, epilog=_CREATE
    )
    group.command("create", epilog=_CREATE)(create)
    group.command("list", epilog="Example: tollgate api-key list --usable")(list_)
    group.command(
        "revoke", epilog="Example: tollgate api-key revoke 5f0c9a1be2d34417 --reason 'laptop lost'"
    )(revoke)
    group.command(
        "rotate", epilog="Example: tollgate api-key rotate 5f0c9a1be2d34417 --overlap-seconds 3600"
    )(rotate)
    app.add_typer(group, name="api-key")


def create(
    name: Annotated[str, typer.Argument(help="What the key is for; not its secret.")],
    scope: Annotated[
        list[str],
        typer.Option(
            help="Group of routes: gate, usage, accounts, purchases, provider-keys, admin."
        ),
    ],
    role: Annotated[str, typer.Option(help="user, service or admin.")] = "service",
    account: Annotated[
        str | None, typer.Option(help="The one account of a key of the role user.")
    ] = None,
    expires: Annotated[
        str, typer.Option(help="Until when it can be used: a date or time in UTC. Empty: ever.")
    ] = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Make a key and print it. It can not be shown again."""
    from adapters.api_keys import NewKey, create_key, parse_scopes
    from tollgate.arguments import actor, parse_time

    wanted = NewKey(
        name=name,
        role=role,
        scopes=parse_scopes(scope),
        actor=actor(),
        account_id=account,
        expires_at=parse_time(expires) if expires else None,
        reason=reason,
    )
    _print_issued(_with_postgres(lambda connection: create_key(connection, wanted)), as_json)


def list_(
    usable: Annotated[
        bool, typer.Option("--usable", help="Only keys that can be used now.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 100,
    as_json: Json = False,
) -> None:
    """List keys, newest first, without their secrets."""
    from adapters.api_keys import list_keys
    from tollgate.output import print_json, print_table

    rows = _with_postgres(lambda connection: list_keys(connection, usable=usable, keys_max=limit))
    if as_json:
        print_json(rows)
        return
    print_table(
        ("id", "name", "role", "account", "scopes", "created", "expires", "revoked", "acts as"),
        (
            (row["key_id"], row["name"], row["role"], row["account_id"],
             " ".join(row["scopes"]), row["created_at"], row["expires_at"], row["revoked_at"],
             row["principal"])
            for row in rows
        ),
    )  # fmt: skip


def revoke(key_id: KeyId, reason: Reason = "", as_json: Json = False) -> None:
    """End a key at once: it is refused everywhere within three seconds."""
    from adapters.api_keys import revoke_key
    from tollgate.arguments import actor
    from tollgate.output import print_json, say, time_text

    revoked_at = _with_postgres(
        lambda connection: revoke_key(connection, key_id, actor=actor(), reason=reason)
    )
    if as_json:
        print_json({"key_id": key_id, "revoked_at": revoked_at})
    else:
        say(f"key {key_id} was revoked at {time_text(revoked_at)}")


def rotate(
    key_id: KeyId,
    overlap_seconds: Annotated[
        int, typer.Option(min=0, max=2_592_000, help="So long the old key can still be used.")
    ] = 86_400,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Make a successor with the same rights and print it; the old key ends after the overlap."""
    from adapters.api_keys import rotate_key
    from tollgate.arguments import actor

    issued = _with_postgres(
        lambda connection: rotate_key(
            connection, key_id, overlap_seconds=overlap_seconds, actor=actor(), reason=reason
        )
    )
    _print_issued(issued, as_json)


def _with_postgres(work: "Callable[[Connection], Awaitable[Answer]]") -> Answer:
    from adapters.reach import postgres
    from adapters.settings import load_settings

    async def run() -> Answer:
        async with postgres(load_settings(), "api-key") as connection:
            return await work(connection)

    return asyncio.run(run())


def _print_issued(issued: "IssuedKey", as_json: bool) -> None:
    from dataclasses import asdict

    from tollgate.output import print_json, remark, say

    if as_json:
        print_json(asdict(issued))
        return
    say(issued.credential)
    remark(f"key {issued.key_id}: keep it now, it can not be shown again")
