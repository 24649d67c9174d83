"""Credits on the wire: decimals of at most six places in, exact integers inside."""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

MICRO = 1_000_000
CREDITS_MAX = 10**9
_CHARS_MAX = 40


def _decimal(value: Any) -> Any:
    """A JSON number keeps its digits: within 15 of them its shortest text is what was sent."""
    if isinstance(value, bool):
        raise ValueError("an amount of credits is a number")  # noqa: TRY004 - pydantic's contract
    if isinstance(value, str) and len(value) > _CHARS_MAX:
        raise ValueError(f"an amount of credits has at most {_CHARS_MAX} characters")
    return Decimal(repr(value)) if isinstance(value, float) else value


def _micro(value: Decimal) -> Decimal:
    if value != value.quantize(Decimal("0.000001")):
        raise ValueError("an amount of credits has at most 6 decimals")
    return value


def _described(schema: dict[str, Any]) -> None:
    """The document says what `_decimal` demands of text."""
    for each in schema["anyOf"]:
        if each["type"] == "string":
            each["maxLength"] = _CHARS_MAX


Credits = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(gt=0, le=CREDITS_MAX, allow_inf_nan=False, examples=["12.5"]),
    Field(json_schema_extra=_described),
    AfterValidator(_micro),
]
NonNegativeCredits = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(ge=0, le=CREDITS_MAX, allow_inf_nan=False, examples=["12.5"]),
    Field(json_schema_extra=_described),
    AfterValidator(_micro),
]
SignedCredits = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(ge=-CREDITS_MAX, le=CREDITS_MAX, allow_inf_nan=False, examples=["-2.25"]),
    Field(json_schema_extra=_described),
    AfterValidator(_micro),
]


def to_micro(amount: Decimal) -> int:
    """Whole micro-credits of an amount that one of the types above let in."""
    return int(amount * MICRO)


def shown(amount_micro: int) -> str:
    """The amount in credits as exact decimal text, without trailing zeros: 3750 is "0.00375"."""
    sign = "-" if amount_micro < 0 else ""
    whole, rest = divmod(abs(amount_micro), MICRO)
    digits = f"{rest:06d}".rstrip("0")
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


# In answers: an integer of micro-credits inside, exact decimal text of credits outside.
ShownCredits = Annotated[
    int,
    PlainSerializer(shown, return_type=str),
    Field(json_schema_extra={"type": "string", "examples": ["12.5"]}),
]
OptionalShownCredits = Annotated[
    int | None,
    PlainSerializer(lambda micro: None if micro is None else shown(micro), return_type=str | None),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}], "examples": ["100"]}),
]
# As the source documents show it: a JSON number. At most 15 digits, so it is the exact decimal.
NumberCredits = Annotated[
    int,
    PlainSerializer(lambda micro: micro / MICRO, return_type=float),
    Field(json_schema_extra={"type": "number", "examples": [12.5]}),
]
OptionalNumberCredits = Annotated[
    int | None,
    PlainSerializer(
        lambda micro: None if micro is None else micro / MICRO, return_type=float | None
    ),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}], "examples": [100.0]}),
]
