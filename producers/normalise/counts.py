"""Counts by kind on their way to `TokenCounts`: what every provider's reading has in common."""

from typing import Any

from pydantic import ValidationError

from producers.normalise.fields import Fields, Path
from producers.normalise.outcome import Refusal
from schemas.events import TokenCounts

MEDIA = ("audio", "image", "video")


def token_counts(fields: Fields, counts: dict[str, int]) -> TokenCounts | None:
    """The counts as a value; None and a problem when parts exceed totals or a sum is too large."""
    try:
        return TokenCounts(**counts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "inconsistent":
            fields.refuse(Refusal.PARTS_EXCEED_TOTAL, str(first["msg"]))
        else:
            fields.refuse(Refusal.NOT_A_COUNT, "a sum of counts exceeds 1000000000")
        return None


def uncached_media(
    fields: Fields, media: dict[str, int], cached: int, cached_media: dict[str, int] | None
) -> dict[str, int]:
    """Media tokens that were not cached, as `audio_input` and so on: our kinds are disjoint.

    A problem when something was cached beside media and nothing says of which kind it was.
    """
    if cached and cached_media is None and any(media.values()):
        fields.refuse(
            Refusal.OVERLAP_UNKNOWN, "cached tokens beside media, and none says which were cached"
        )
    left = {kind: number - (cached_media or {}).get(kind, 0) for kind, number in media.items()}
    if any(number < 0 for number in left.values()):
        fields.refuse(Refusal.PARTS_EXCEED_TOTAL, "cached media tokens exceed the media tokens")
    return {f"{kind}_input": number for kind, number in left.items() if number > 0}


def check_total(fields: Fields, total: int | None, *sums: int) -> None:
    """A problem when the provider's own total is none of the sums that it may be."""
    if total is not None and total not in sums:
        fields.refuse(Refusal.CONTRADICTING, "the total is not the sum of its parts")


def first_said(fields: Fields, *paths: Path) -> Any:
    """The first value that is said."""
    return next((value for path in paths if (value := fields.value(*path)) is not None), None)
