"""`tollgate provider-key reencrypt`: accounts' own keys under a new secret."""

import asyncio
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds `provider-key reencrypt`."""
    example = "Example: tollgate provider-key reencrypt"
    group = typer.Typer(
        help="Accounts' own keys at providers.", no_args_is_help=True, epilog=example
    )
    group.callback()(_group)
    group.command("reencrypt", epilog=example)(reencrypt)
    app.add_typer(group, name="provider-key")


def _group() -> None:
    """Accounts' own keys at providers."""


def reencrypt(
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Put every stored key under the first of TOLLGATE_PROVIDER_KEY_SECRETS; safe to repeat."""
    from adapters.provider_keys import Vault
    from adapters.provider_keys import reencrypt as work
    from adapters.reach import postgres
    from adapters.settings import load_settings
    from tollgate.output import print_json, progress, say

    settings = load_settings()
    vault = Vault(settings.provider_key_secrets)

    async def run() -> int:
        async with postgres(settings, "provider-key") as connection:
            with progress("keys") as steps:
                return await work(connection, vault, steps.advance)

    done = asyncio.run(run())
    if as_json:
        print_json({"reencrypted": done})
    else:
        say(f"{done} keys are under the first secret")
