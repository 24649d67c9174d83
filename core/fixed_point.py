"""Exact decimal arithmetic on integers: how text becomes a scaled integer, and the one rounding."""

import re

_DECIMAL = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,30}))?")


def scaled(text: str, decimals: int) -> int:
    """Reads a non-negative decimal such as "0.0025" as an integer of 10**-decimals, losing nothing.

    Raises:
        ValueError: the text is not a plain decimal, or has more decimals than can be kept.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a plain decimal such as '0.0025'")
    whole, fraction = match.group(1), (match.group(2) or "").rstrip("0")
    if len(fraction) > decimals:
        raise ValueError(f"{text!r} has more than {decimals} decimals")
    return int(whole + fraction.ljust(decimals, "0"))


def rounded_half_even(numerator: int, denominator: int) -> int:
    """The nearest integer to a non-negative ratio; a tie goes to the even neighbour."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    if twice > denominator or (twice == denominator and quotient & 1):
        return quotient + 1
    return quotient
