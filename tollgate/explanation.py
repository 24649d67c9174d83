"""How an explanation of a price is printed."""

from fractions import Fraction

from core.explain import Explanation
from core.fixed_point import exact_text
from tollgate.output import MICRO, credits_text, print_table, say, time_text

_DECIMALS_SHOWN = 12


def print_explanation(found: Explanation) -> None:
    """The version and rule, a table of components, the multipliers, the rounding and the total."""
    since = time_text(found.effective_from)
    say(f"rule        {found.rule} ({found.charge_model}), price version {found.price_version}")
    say(f"            in force from {since} UTC" + "".join(f"; {c}" for c in found.conditions))
    if found.counter:
        say(
            f"counter     {found.counter}: {found.counter_units:,} units after"
            f" {found.counter_before:,} of the month"
        )
    print_table(
        ("component", "quantity", "unit", "price", "for each", "amount", "in"),
        [
            (
                line.component,
                _shown(line.quantity),
                line.unit,
                _shown(line.unit_price),
                line.per,
                _shown(line.amount),
                line.currency,
            )
            for line in found.lines
        ],
    )
    for scale in found.scales:
        say(f"x {_shown(scale.value):<9} {scale.name}")
    say(f"= {_shown(found.exact_micro / MICRO)} credits exactly")
    if found.rounding_micro:
        way = (
            "the month's price before and after, half to even" if found.counter else "half to even"
        )
        say(f"rounding    {_signed(found.rounding_micro)} micro-credits ({way})")
    say(f"price       {credits_text(found.rated_micro)} credits")


def _shown(value: Fraction) -> str:
    """Exact, or for a ratio without an end the ratio with its first decimals."""
    text = exact_text(value)
    if "/" not in text:
        return text
    scaled = round(value * 10**_DECIMALS_SHOWN)
    return f"{text} (about {exact_text(Fraction(scaled, 10**_DECIMALS_SHOWN))})"


def _signed(value: Fraction) -> str:
    return ("+" if value > 0 else "") + _shown(value)
