"""Rows in credits: actions, counted prices and the provider's own bill, read into rules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from core.charge_models import (
    MULTIPLIER_DECIMALS,
    PRICE_DECIMALS,
    BilledRule,
    ChargeModel,
    Multiplier,
    UnitRule,
)
from core.counted import CountedRule, Graduated, Package, Step, Volume
from core.rules import charge_model, multipliers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.counted import Shape
    from core.document import Node
    from schemas.usage import UsageData

COUNTED_MODELS = (ChargeModel.PACKAGE, ChargeModel.GRADUATED, ChargeModel.VOLUME)
_COUNTED_FIELDS = frozenset({"charge", "counter", "multipliers"})
# As schemas.usage.Unit has it.
_UNIT = re.compile(r"[a-z0-9_]{1,32}")
_COUNTER = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_GATEWAY = "litellm"
EVERY_PROVIDER = "*"


def action_rule(action: str, node: Node) -> UnitRule | CountedRule:
    """The price of one action: for each unit, or counted over the account's month."""
    name = f"action:{action}"
    model = charge_model(dict(node.items()), ChargeModel.PER_UNIT, *COUNTED_MODELS)
    if model is not ChargeModel.PER_UNIT:
        return counted_rule(name, node, of_tokens=False)
    fields = node.fields(
        frozenset({"credits"}), frozenset({"charge", "free", "multipliers", "per", "unit"})
    )
    credits_per = fields["credits"].scaled(PRICE_DECIMALS)
    free = "free" in fields and fields["free"].flag()
    if free != (credits_per == 0):
        raise fields["credits"].error("is zero exactly when the action is free: true")
    return UnitRule(
        name, multipliers(fields, Multiplier.NONE), credits_per, _per(fields), _unit(fields)
    )


def counted_rule(
    name: str, node: Node, *, of_tokens: bool, beside: frozenset[str] = frozenset()
) -> CountedRule:
    """A package, graduated or volume price; `beside` are fields that the caller reads."""
    model = charge_model(dict(node.items()), *COUNTED_MODELS)
    optional = _COUNTED_FIELDS | beside | (frozenset() if of_tokens else frozenset({"unit"}))
    if model is ChargeModel.PACKAGE:
        fields = node.fields(frozenset({"credits", "size"}), optional | {"free_units"})
        shape: Shape = _package(fields)
    else:
        fields = node.fields(frozenset({"steps"}), optional | {"per"})
        steps = _steps(fields["steps"])
        shape = Graduated(steps) if model is ChargeModel.GRADUATED else Volume(steps)
    scaled_by = multipliers(fields, Multiplier.NONE)
    if isinstance(shape, Volume) and scaled_by:
        # What a step gives back was charged to earlier events, perhaps with another multiplier.
        raise fields["multipliers"].error("a volume price has no multipliers")
    if isinstance(shape, Package) and scaled_by & Multiplier.POWER_LEVEL:
        # A package is begun by one event and used up by others, perhaps of a dearer level.
        raise fields["multipliers"].error("a package has no power_level multiplier")
    return CountedRule(
        name=name,
        counter=_counter(fields["counter"]) if "counter" in fields else name,
        multipliers=scaled_by,
        shape=shape,
        per=_per(fields),
        unit=_unit(fields),
        of_tokens=of_tokens,
    )


@dataclass(frozen=True, slots=True)
class BilledPrices:
    """For which providers their own bill is the price, and what is put on it."""

    providers: frozenset[str]
    multipliers: Multiplier
    markup: int

    def rule(self, data: UsageData) -> BilledRule | None:
        """The rule for usage that carries a bill, or None where its model or action prices it.

        A bill of zero is no price: gateways write 0 for a model that they do not know.
        """
        if data.billed is None or not data.billed.amount.strip("0."):
            return None
        provider = _seller(data)
        if not self.providers & {provider, EVERY_PROVIDER}:
            return None
        return BilledRule(f"billed:{provider or EVERY_PROVIDER}", self.multipliers, self.markup)


def billed_prices(node: Node) -> BilledPrices:
    """The `billed` section: pass-through of what providers billed."""
    fields = node.fields(frozenset({"providers"}), frozenset({"charge", "markup", "multipliers"}))
    charge_model(fields, ChargeModel.BILLED)
    markup = 10**MULTIPLIER_DECIMALS
    if "markup" in fields:
        markup = fields["markup"].scaled(MULTIPLIER_DECIMALS)
        if not 0 < markup <= 10 ** (2 * MULTIPLIER_DECIMALS):
            raise fields["markup"].error("must be more than 0 and at most 1000000")
    providers = frozenset(entry.text().lower() for entry in fields["providers"].elements())
    return BilledPrices(providers, multipliers(fields, Multiplier.NONE), markup)


def _seller(data: UsageData) -> str:
    """Who billed: the provider, or where none is named (or a gateway's), the model's prefix."""
    provider = data.provider.lower()
    if provider and provider != _GATEWAY:
        return provider
    prefix, slash, _ = data.model.lower().partition("/")
    return prefix if slash else provider


def _package(fields: Mapping[str, Node]) -> Package:
    size, price = fields["size"].scaled(0), fields["credits"].scaled(PRICE_DECIMALS)
    if size == 0:
        raise fields["size"].error("must be at least 1")
    if price == 0:
        raise fields["credits"].error("must be more than 0")
    free_units = fields["free_units"].scaled(0) if "free_units" in fields else 0
    return Package(size, free_units, price)


def _steps(node: Node) -> tuple[Step, ...]:
    entries = node.elements()
    if not entries:
        raise node.error("expected at least one step")
    steps: list[Step] = []
    for entry in entries:
        last = entry is entries[-1]
        needed = frozenset({"credits"} if last else {"credits", "up_to"})
        fields = entry.fields(needed, frozenset({"fee"}))
        up_to = None if last else fields["up_to"].scaled(0)
        if up_to is not None and up_to <= (steps[-1].up_to or 0 if steps else 0):
            raise fields["up_to"].error("must be more than that of the step before")
        fee = fields["fee"].scaled(PRICE_DECIMALS) if "fee" in fields else 0
        steps.append(Step(up_to, fields["credits"].scaled(PRICE_DECIMALS), fee))
    if not any(step.credits_per or step.fee for step in steps):
        raise node.error("at least one step must cost something")
    return tuple(steps)


def _per(fields: Mapping[str, Node]) -> int:
    if "per" not in fields:
        return 1
    per = fields["per"].scaled(0)
    if per == 0:
        raise fields["per"].error("must be at least 1")
    return per


def _unit(fields: Mapping[str, Node]) -> str:
    if "unit" not in fields:
        return ""
    unit = fields["unit"].text()
    if _UNIT.fullmatch(unit) is None:
        raise fields["unit"].error("no event can name it: up to 32 of a-z, 0-9 and _")
    return unit


def _counter(node: Node) -> str:
    name = node.text()
    if _COUNTER.fullmatch(name) is None:
        raise node.error("a counter is named with up to 128 letters, digits and _ . : / -")
    return name
