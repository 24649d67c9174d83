"""What the configuration says about the limits of tiers, as the gate decides by it."""

from adapters.settings import Settings, TierLimit
from core.holds import Limits, TierLimits


def tier_limits(settings: Settings) -> TierLimits:
    """The deployment's limits, and those of the tiers that differ from them."""
    deployment = Limits(settings.minimum_credits_micro, settings.open_holds_max)
    tiers = {tier: _of(said, deployment) for tier, said in settings.tier_limits.items()}
    return TierLimits(deployment, tiers)


def _of(said: TierLimit, deployment: Limits) -> Limits:
    minimum_micro, holds_max = said.minimum_micro, said.open_holds_max
    return Limits(
        minimum_micro=deployment.minimum_micro if minimum_micro is None else minimum_micro,
        open_holds_max=deployment.open_holds_max if holds_max is None else holds_max,
        cap_micro=said.monthly_cap_micro,
    )
