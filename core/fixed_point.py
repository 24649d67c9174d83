"""Exact decimal arithmetic on integers: how text becomes a scaled integer, and the one rounding."""

import re
from fractions import Fraction

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


def rounded_half_up(numerator: int, denominator: int) -> int:
    """The nearest integer to a non-negative ratio; a tie goes up.

    So the difference of two of them is off by less than one, always (core.counted).
    """
    return (2 * numerator + denominator) // (2 * denominator)


def rounded_half_even(numerator: int, denominator: int) -> int:
    """The nearest integer to a non-negative ratio; a tie goes to the even neighbour."""
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    if twice > denominator or (twice == denominator and quotient & 1):
        return quotient + 1
    return quotient


def exact_text(value: Fraction) -> str:
    """The value without loss: a decimal where it has an end ("0.00375"), else a ratio ("1/3")."""
    denominator = value.denominator
    twos = _divisions(denominator, 2)
    fives = _divisions(denominator, 5)
    if 2**twos * 5**fives != denominator:
        return str(value)
    decimals = max(twos, fives)
    digits = str(abs(value.numerator) * (10**decimals // denominator)).rjust(decimals + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits)


def _divisions(number: int, divisor: int) -> int:
    count = 0
    while number % divisor == 0:
        number //= divisor
        count += 1
    return count
