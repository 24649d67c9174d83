"""From what a provider answered to what is published: one call, a value, never an exception."""

import re
from dataclasses import replace
from typing import Any, Final

from producers.normalise.fields import Fields
from producers.normalise.hosts import model_in_path, model_name, provider_name
from producers.normalise.lines import Call, counted_names, form_of, lines_of
from producers.normalise.locate import Found, find
from producers.normalise.outcome import Line, Normalised, Refusal, Refused

_NOTED: Final = re.compile(r"[!-~]{1,256}")


def normalise(
    response: Any,
    *,
    provider: str = "",
    host: str = "",
    path: str = "",
    request_model: str = "",
    service_tier: str = "",
) -> Normalised | Refused:
    """What a response bills, or the one reason why that cannot be known. Pure; never raises.

    `response` is a response of a provider as JSON or as its library's object, a usage object
    alone, or the list of the events of a stream. The provider is named, or follows from the
    `host`; the model is the response's, else `request_model`, else the one in the `path`.
    `service_tier` overrules what the response says: a batch's answers do not say that they are
    of a batch. The same arguments give the same lines in the same order.
    """
    try:
        found = find(response)
        if isinstance(found, Refused):
            return found
        name = provider_name(provider, host)
        asked = request_model or model_in_path(path)
        return _normalised(found, name, asked, service_tier)
    except (RecursionError, ArithmeticError, ValueError, TypeError, AttributeError) as error:
        # An object of somebody else's that behaves like no JSON. JSON itself never comes here.
        return Refused(Refusal.UNREADABLE, f"it cannot be read: {type(error).__name__}")


def _normalised(found: Found, provider: str, asked: str, tier: str) -> Normalised | Refused:
    form = form_of(found.usage, provider)
    if form is None:
        if counted_names(found.usage):
            return Refused(Refusal.UNKNOWN_UNITS, "what it counts is not known")
        return Refused(Refusal.USAGE_MISSING, "its usage says nothing")
    if not provider:
        return Refused(Refusal.UNKNOWN_PROVIDER, "neither a provider nor a host that is known")
    call = Call(
        provider,
        model_name(provider, found.model, asked),
        (tier,) if tier else (_tier_name(found.service_tier),),
        _attributes(found, asked, provider),
    )
    fields = Fields(found.usage)
    lines = lines_of(form, fields, call)
    if fields.refused is not None:
        return fields.refused
    return Normalised(_numbered(lines), found.response_id)


def _tier_name(said: Any) -> Any:
    """Bedrock says it in an object."""
    return said.get("type", said) if isinstance(said, dict) else said


def _attributes(found: Found, asked: str, provider: str) -> dict[str, str]:
    """What is worth looking up later, where it fits into an attribute."""
    other = found.model if provider == "aws" else asked
    named = {
        "response_id": found.response_id,
        "response_model" if provider == "aws" else "request_model": other,
    }
    model = model_name(provider, found.model, asked)
    return {name: text for name, text in named.items() if text != model and _NOTED.fullmatch(text)}


def _numbered(lines: list[Line]) -> tuple[Line, ...]:
    return tuple(
        replace(line, suffix=f".{number}") if number > 1 else line
        for number, line in enumerate(lines, start=1)
    )
