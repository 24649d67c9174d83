"""Coupons: what a code gives, and why it does not. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from core.fixed_point import rounded_half_even

if TYPE_CHECKING:
    from datetime import datetime

HUNDRED_PERCENT_MICRO = 100 * 10**6


class CouponKind(StrEnum):
    """What a coupon gives: an amount, or a part of a purchase."""

    FIXED = "fixed"
    PERCENTAGE = "percentage"


class CouponRefusal(StrEnum):
    """Why a coupon gives nothing: the closed set."""

    UNKNOWN = "unknown_coupon"
    DISABLED = "coupon_disabled"
    EXPIRED = "coupon_expired"
    USED_UP = "coupon_used_up"
    USED_BY_ACCOUNT = "coupon_used_by_account"
    NEEDS_PURCHASE = "coupon_needs_purchase"
    NOT_FOR_PURCHASES = "coupon_not_for_purchases"
    TOO_LITTLE = "coupon_gives_nothing"

    @property
    def meaning(self) -> str:
        """One sentence for the person with the code."""
        return _MEANINGS[self]


_MEANINGS = {
    CouponRefusal.UNKNOWN: "There is no such coupon",
    CouponRefusal.DISABLED: "The coupon was withdrawn",
    CouponRefusal.EXPIRED: "The coupon has expired",
    CouponRefusal.USED_UP: "The coupon was used as often as it may be",
    CouponRefusal.USED_BY_ACCOUNT: "The account has used the coupon already",
    CouponRefusal.NEEDS_PURCHASE: "The coupon is a part of a purchase: use it with a top-up",
    CouponRefusal.NOT_FOR_PURCHASES: "The coupon is an amount of its own: redeem it alone",
    CouponRefusal.TOO_LITTLE: "The purchase is too small for the coupon to give anything",
}


@dataclass(frozen=True, slots=True)
class Coupon:
    """A code and its limits. `percent_micro` is in millionths of a percent; None is no limit."""

    kind: CouponKind
    amount_micro: int
    percent_micro: int
    uses: int
    uses_max: int | None
    account_uses_max: int
    expires_at: datetime | None
    disabled: bool


def value_micro(
    coupon: Coupon, *, base_micro: int, account_uses: int, now: datetime
) -> int | CouponRefusal:
    """What a redemption gives now, in micro-credits, rounded half to even; or why nothing.

    `base_micro` is the purchase that a percentage is of, 0 without one; `account_uses` how often
    this account has used the code.
    """
    refusal = _unusable(coupon, account_uses, now) or _wrong_use(coupon, base_micro)
    if refusal is not None:
        return refusal
    if coupon.kind is CouponKind.FIXED:
        return coupon.amount_micro
    given_micro = rounded_half_even(base_micro * coupon.percent_micro, HUNDRED_PERCENT_MICRO)
    return given_micro or CouponRefusal.TOO_LITTLE


def _unusable(coupon: Coupon, account_uses: int, now: datetime) -> CouponRefusal | None:
    if coupon.disabled:
        return CouponRefusal.DISABLED
    if coupon.expires_at is not None and coupon.expires_at <= now:
        return CouponRefusal.EXPIRED
    if coupon.uses_max is not None and coupon.uses >= coupon.uses_max:
        return CouponRefusal.USED_UP
    return CouponRefusal.USED_BY_ACCOUNT if account_uses >= coupon.account_uses_max else None


def _wrong_use(coupon: Coupon, base_micro: int) -> CouponRefusal | None:
    if coupon.kind is CouponKind.FIXED:
        return CouponRefusal.NOT_FOR_PURCHASES if base_micro else None
    return None if base_micro else CouponRefusal.NEEDS_PURCHASE
