"""What a person types, turned into values: amounts, times, and who is asking.

Wrong input is a usage error: one line, exit code 2.
"""

import getpass
import os
import re
from datetime import UTC, datetime, timedelta

import typer

from tollgate.output import MICRO

# A comma only as the output writes it: whoever means a point by it would get ten times as much.
_CREDITS = re.compile(r"([0-9]{1,12}|[1-9][0-9]{0,2}(?:,[0-9]{3}){1,3})(?:\.([0-9]{1,6}))?")
_AGO = re.compile(r"([0-9]{1,5})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_credits(text: str) -> int:
    """Credits with up to six decimals as micro-credits, exactly; a comma is only for thousands."""
    match = _CREDITS.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is not an amount like 250, 1,000 or 0.003750; decimals follow a point"
        )
    whole, decimals = match[1].replace(",", ""), (match[2] or "").ljust(6, "0")
    return int(whole) * MICRO + int(decimals)


def parse_time(text: str) -> datetime:
    """A date or time in ISO 8601, in UTC unless it says otherwise; or how long ago: 90m, 2h, 7d."""
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a time like 2026-11-21, 2026-11-21T09:00:00Z or 2h (ago)"
        ) from None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def actor() -> str:
    """Who is asking, for the ledger: the user of this machine."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"cli:{name}"
