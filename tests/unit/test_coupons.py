"""What a coupon is worth, by hand-worked figures, and every reason why it is worth nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.coupons import Coupon, CouponKind, CouponRefusal, value_micro

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
CREDIT = 1_000_000
WELCOME100 = Coupon(
    CouponKind.FIXED, 100 * CREDIT, 0, 0, 1_000, 1, NOW + timedelta(30), disabled=False
)
SAVE50 = Coupon(
    CouponKind.PERCENTAGE, 0, 50 * 10**6, 0, 500, 1, NOW + timedelta(60), disabled=False
)


def value(coupon: Coupon, base_micro: int = 0, account_uses: int = 0) -> int | CouponRefusal:
    return value_micro(coupon, base_micro=base_micro, account_uses=account_uses, now=NOW)


def test_a_fixed_coupon_gives_its_amount() -> None:
    assert value(WELCOME100) == 100 * CREDIT


@pytest.mark.parametrize(
    ("base_micro", "given_micro"),
    [(40 * CREDIT, 20 * CREDIT), (3, 2), (1, CouponRefusal.TOO_LITTLE), (5, 2)],
)
def test_a_percentage_is_of_a_purchase_rounded_half_to_even(
    base_micro: int, given_micro: int | CouponRefusal
) -> None:
    assert value(SAVE50, base_micro) == given_micro


@pytest.mark.parametrize(
    ("coupon", "base_micro", "account_uses", "refusal"),
    [
        (replace(WELCOME100, disabled=True), 0, 0, CouponRefusal.DISABLED),
        (replace(WELCOME100, expires_at=NOW), 0, 0, CouponRefusal.EXPIRED),
        (replace(WELCOME100, uses=1_000), 0, 0, CouponRefusal.USED_UP),
        (WELCOME100, 0, 1, CouponRefusal.USED_BY_ACCOUNT),
        (WELCOME100, CREDIT, 0, CouponRefusal.NOT_FOR_PURCHASES),
        (SAVE50, 0, 0, CouponRefusal.NEEDS_PURCHASE),
    ],
)
def test_every_refusal(
    coupon: Coupon, base_micro: int, account_uses: int, refusal: CouponRefusal
) -> None:
    assert value(coupon, base_micro, account_uses) == refusal
    assert refusal.meaning


@given(st.integers(1, 10**15), st.integers(1, 10**9))
def test_a_percentage_is_never_off_by_more_than_half_a_micro_credit(
    base: int, percent: int
) -> None:
    given_micro = value(replace(SAVE50, percent_micro=percent), base)
    exact = base * percent
    micro = 0 if isinstance(given_micro, CouponRefusal) else given_micro
    assert abs(2 * (micro * 10**8 - exact)) <= 10**8
