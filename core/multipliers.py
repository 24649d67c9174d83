"""What scales a price besides the counts: power level, account tier, own key, credits a dollar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from core.charge_models import MICRO, MULTIPLIER_DECIMALS, RATE_DECIMALS, Multiplier
from schemas.usage import PowerLevel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.document import Node

ONE = 10**MULTIPLIER_DECIMALS
# What an integer factor is divided by: power level, tier and share of the own key, and a rate.
FACTOR_ONE = ONE**3 * 10**RATE_DECIMALS

FactorKey: TypeAlias = tuple[Multiplier, str, str, bool]


@dataclass(frozen=True, slots=True)
class Multipliers:
    """The multipliers of a book, each an integer of 10**-MULTIPLIER_DECIMALS."""

    power_levels: Mapping[str, int]
    tiers: Mapping[str, int]
    own_key_share: int

    def factors(self, credits_per_usd: int) -> dict[FactorKey, int]:
        """Every product that does not depend on the counts, out of FACTOR_ONE, done once.

        By (multipliers, power level, tier, own key).
        """
        shares = {False: ONE, True: self.own_key_share}
        factors = {}
        for tier, by_tier in self.tiers.items():
            for power, by_power in self.power_levels.items():
                for kinds in range(8):
                    flags = Multiplier(kinds)
                    factor = by_power if Multiplier.POWER_LEVEL in flags else ONE
                    factor *= by_tier if Multiplier.TIER in flags else ONE
                    factor *= credits_per_usd if Multiplier.USD in flags else 10**RATE_DECIMALS
                    for own_key, share in shares.items():
                        factors[flags, power, tier, own_key] = factor * share
        return factors


def parse_multipliers(fields: Mapping[str, Node]) -> Multipliers:
    """From the sections power_levels, tiers and own_key_share.

    Raises:
        BookError: a figure is missing or out of its limits; the message names the place.
    """
    powers = fields["power_levels"].fields(frozenset(PowerLevel), frozenset())
    share = fields["own_key_share"].scaled(MULTIPLIER_DECIMALS)
    if share > ONE:
        raise fields["own_key_share"].error("is a share: at most 1")
    return Multipliers(
        {power: _positive(node) for power, node in powers.items()},
        {tier: _positive(node) for tier, node in fields["tiers"].items()},
        share,
    )


def _positive(node: Node) -> int:
    value = node.scaled(MULTIPLIER_DECIMALS)
    if not 0 < value <= MICRO * ONE:
        raise node.error("must be more than 0 and at most 1000000")
    return value
