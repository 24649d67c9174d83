"""From one usage object to what is billed: which form it has, and its lines."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from producers.normalise import anthropic, bedrock, chat, cohere, gemini, terms
from producers.normalise.counts import token_counts
from producers.normalise.fields import Fields, whole_number
from producers.normalise.outcome import Line, Refusal
from schemas.events import BilledCost, ServiceTier


class Form(StrEnum):
    """Whose way of counting a usage object follows; it says nothing of who sent it."""

    CHAT = "chat"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    COHERE = "cohere"
    CONVERSE = "converse"
    INVOKED = "invoked"
    SECONDS = "seconds"
    PAGES = "pages"


# Where a form of OpenAI's counts something beside tokens: the action, and the unit.
_BESIDE: Final = {
    ("num_search_queries",): ("web_search", "searches"),
    ("citation_tokens",): ("citations", "tokens"),
    ("num_sources_used",): ("live_search", "sources"),
}
# A name that tells the form, in the order in which they are looked for: the first that is there.
_MARKS: Final = (
    (Form.GEMINI, frozenset(gemini.MARKS)),
    (Form.CONVERSE, frozenset(bedrock.MARKS)),
    (Form.INVOKED, frozenset(bedrock.INVOKED_MARKS)),
    (Form.COHERE, frozenset({"billed_units"})),
    (Form.CHAT, frozenset({"prompt_tokens", "completion_tokens"})),
    (Form.CHAT, frozenset({"input_tokens_details", "input_token_details"})),
    (Form.ANTHROPIC, frozenset(anthropic.MARKS)),
)
_LAST_MARKS: Final = (
    (Form.CHAT, frozenset({"input_tokens", "output_tokens", "total_tokens"})),
    (Form.PAGES, frozenset({"pages_processed"})),
    (Form.SECONDS, frozenset({"seconds"})),
)
_ANTHROPIC_PROVIDERS: Final = frozenset({"anthropic", "aws", "google"})


@dataclass(frozen=True, slots=True)
class Call:
    """What is known of a call beside its usage."""

    provider: str
    model: str
    service_tier: tuple[Any, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


def form_of(usage: Mapping[str, Any], provider: str) -> Form | None:
    """The form, by the names in it; None when it is none of them.

    Input and output tokens alone are read alike by OpenAI and Anthropic; what may come beside them
    is not, so then the provider decides.
    """
    of_provider: list[tuple[Form, frozenset[str]]] = []
    if provider in _ANTHROPIC_PROVIDERS:
        of_provider.append((Form.ANTHROPIC, frozenset({"input_tokens", "output_tokens"})))
    elif provider == "cohere":
        of_provider.append((Form.COHERE, frozenset({"tokens"})))
    marks = (*_MARKS, *of_provider, *_LAST_MARKS)
    return next((form for form, names in marks if names & usage.keys()), None)


def lines_of(form: Form, fields: Fields, call: Call) -> list[Line]:
    """What is billed. Problems are noted in `fields`; then the lines mean nothing."""
    return _READERS[form](fields, call)


def _gemini(fields: Fields, call: Call) -> list[Line]:
    said = (*call.service_tier, gemini.gemini_tier(fields))
    return _tokens(fields, replace(call, service_tier=said), gemini.gemini_counts(fields))


def _converse(fields: Fields, call: Call) -> list[Line]:
    return _tokens(fields, call, bedrock.converse_counts(fields))


def _invoked(fields: Fields, call: Call) -> list[Line]:
    return _tokens(fields, call, bedrock.invoked_counts(fields))


def _tokens(
    fields: Fields, call: Call, counts: dict[str, int], billed: BilledCost | None = None
) -> list[Line]:
    """One line of tokens; it needs a model."""
    fields.refuse_unread()
    tokens = token_counts(fields, counts)
    if not call.model:
        fields.refuse(Refusal.UNKNOWN_MODEL, "neither the response nor the request names a model")
    tier = terms.service_tier(fields, *call.service_tier)
    if tokens is None:
        return []
    return [Line(call.provider, call.model, tokens, tier, billed, attributes=call.attributes)]


def _units(call: Call, action: str, quantity: int, unit: str, tier: ServiceTier) -> Line:
    """A line of another unit: an action of the provider, the model told beside it."""
    model = {"model": call.model} if call.model else {}
    return Line(
        call.provider,
        action=f"{action}.{call.provider}"[:64],
        quantity=quantity,
        unit=unit,
        service_tier=tier,
        attributes={**call.attributes, **model},
    )


def _chat(fields: Fields, call: Call) -> list[Line]:
    beside = list(_beside(fields))
    billed = terms.provider_bill(fields, call.provider)
    counts = chat.chat_counts(fields, call.provider, call.model)
    said = (*call.service_tier, fields.value("service_tier"))
    lines = _tokens(fields, replace(call, service_tier=said), counts, billed)
    if billed is None:
        return lines + [_units(call, *one, ServiceTier.STANDARD) for one in beside]
    # The provider's bill has them in it: lines of their own would be paid twice.
    noted = {action: str(quantity) for action, quantity, _ in beside}
    return [replace(line, attributes={**line.attributes, **noted}) for line in lines]


def _beside(fields: Fields) -> Iterator[tuple[str, int, str]]:
    for path, (action, unit) in _BESIDE.items():
        if number := fields.count(*path):
            yield action, number, unit
    for name, number in anthropic.tool_uses(fields).items():
        yield _action(name), number, "requests"
    listed = fields.value("server_side_tool_usage_details")
    for name in listed if isinstance(listed, Mapping) else ():
        if number := fields.count("server_side_tool_usage_details", str(name)):
            yield _action(str(name).removesuffix("_calls")), number, "requests"


def _anthropic(fields: Fields, call: Call) -> list[Line]:
    uses = anthropic.tool_uses(fields)
    said = (*call.service_tier, fields.value("service_tier"), fields.value("speed"))
    place = fields.value("inference_geo")
    somewhere = isinstance(place, str) and place.isalnum() and place.lower() != "global"
    attributes = {**call.attributes, **({"inference_geo": str(place)[:32]} if somewhere else {})}
    call = replace(call, service_tier=said, attributes=attributes)
    several = anthropic.iterations(fields, call.model)
    lines: list[Line] = []
    for model, one in several:
        lines += _tokens(one, replace(call, model=model), anthropic.anthropic_counts(one))
        if one.refused is not None:
            fields.refuse(one.refused.reason, one.refused.detail)
    # Read in any case: what stands at the top must be right as well.
    whole = _tokens(fields, call, anthropic.anthropic_counts(fields))
    tier = whole[0].service_tier if whole else ServiceTier.STANDARD
    units = [_units(call, _action(name), number, "requests", tier) for name, number in uses.items()]
    return [*(lines or whole), *units]


def _cohere(fields: Fields, call: Call) -> list[Line]:
    units = cohere.cohere_units(fields)
    counts = cohere.cohere_counts(fields)
    tier = terms.service_tier(fields, *call.service_tier)
    lines = _tokens(fields, call, counts) if counts else []
    lines += [_units(call, unit, number, unit, tier) for unit, number in units.items()]
    if not lines:
        fields.refuse(Refusal.INCOMPLETE, "no unit is billed")
    return lines


def _seconds(fields: Fields, call: Call) -> list[Line]:
    return _counted(fields, call, "seconds", ("transcription", "seconds"))


def _pages(fields: Fields, call: Call) -> list[Line]:
    fields.ignore(("doc_size_bytes",))
    return _counted(fields, call, "pages_processed", ("ocr", "pages"))


def _counted(fields: Fields, call: Call, name: str, what: tuple[str, str]) -> list[Line]:
    quantity = fields.count(name)
    fields.refuse_unread()
    if quantity is None:
        fields.refuse(Refusal.INCOMPLETE, f"{name} is not said")
        return []
    action, unit = what
    tier = terms.service_tier(fields, *call.service_tier)
    return [_units(call, action, quantity, unit, tier)]


def _action(name: str) -> str:
    """The name of a tool as that of an action."""
    plain = "".join(mark if mark.isascii() and mark.isalnum() else "_" for mark in name.lower())
    return plain[:40] or "tool"


def counted_names(usage: Mapping[str, Any]) -> bool:
    """Whether anything in it is a number, so that it is usage, only of an unknown kind."""
    return any(isinstance(whole_number(value), int) for value in usage.values())


_READERS: Final[Mapping[Form, Callable[[Fields, Call], list[Line]]]] = {
    Form.CHAT: _chat,
    Form.ANTHROPIC: _anthropic,
    Form.GEMINI: _gemini,
    Form.COHERE: _cohere,
    Form.CONVERSE: _converse,
    Form.INVOKED: _invoked,
    Form.SECONDS: _seconds,
    Form.PAGES: _pages,
}
