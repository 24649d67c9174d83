"""The laws of burn-down; the set-based statement of the rater is held equal to it elsewhere."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.grants import (
    Burn,
    Draw,
    Grant,
    Repayment,
    burn_down,
    burn_order,
    give_back,
    repay,
    spendable,
)

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def _grant(
    grant_id: int,
    remaining_micro: int = 100,
    priority: int = 100,
    expires_at: datetime | None = None,
    created_at: datetime = NOW - DAY,
) -> Grant:
    return Grant(grant_id, priority, expires_at, created_at, remaining_micro)


_DAYS = st.integers(-3, 3).map(lambda days: NOW + days * DAY)
_FIELDS = st.tuples(
    st.integers(0, 10**6), st.integers(-1, 2), st.none() | _DAYS, _DAYS.map(lambda at: at - 9 * DAY)
)
GRANTS = st.lists(_FIELDS, max_size=8).map(
    lambda rows: [_grant(number, *fields) for number, fields in enumerate(rows)]
)
AMOUNTS = st.integers(0, 5 * 10**6)


def _after(grants: list[Grant], burn: Burn) -> list[Grant]:
    taken = dict(burn.draws)
    return [
        replace(grant, remaining_micro=grant.remaining_micro - taken.get(grant.grant_id, 0))
        for grant in grants
    ]


def test_grants_burn_by_priority_then_expiry_then_age_then_number() -> None:
    ordered = [
        _grant(9, priority=10),
        _grant(8, expires_at=NOW + DAY),
        _grant(7, expires_at=NOW + 2 * DAY, created_at=NOW - 3 * DAY),
        _grant(2, expires_at=NOW + 2 * DAY, created_at=NOW - 2 * DAY),
        _grant(3, expires_at=NOW + 2 * DAY, created_at=NOW - 2 * DAY),
        _grant(1, created_at=NOW - 9 * DAY),
    ]
    shuffled = ordered[::-1]
    assert sorted(shuffled, key=burn_order) == ordered
    burn = burn_down(shuffled, 250, NOW)
    assert burn == Burn((Draw(9, 100), Draw(8, 100), Draw(7, 50)), 0)


def test_what_no_grant_covers_is_overdraft() -> None:
    assert burn_down([_grant(1, 30)], 100, NOW) == Burn((Draw(1, 30),), 70)
    assert burn_down([], 100, NOW) == Burn((), 100)


def test_a_grant_is_over_at_the_moment_of_its_expiry() -> None:
    assert not spendable(_grant(1, expires_at=NOW), NOW)
    assert spendable(_grant(1, expires_at=NOW + timedelta(microseconds=1)), NOW)
    assert burn_down([_grant(1, expires_at=NOW)], 5, NOW) == Burn((), 5)


def test_an_amount_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 micro-credits"):
        burn_down([], -1, NOW)


@given(GRANTS, AMOUNTS)
def test_draws_and_overdraft_make_up_the_amount(grants: list[Grant], amount_micro: int) -> None:
    burn = burn_down(grants, amount_micro, NOW)
    assert sum(draw.amount_micro for draw in burn.draws) + burn.overdraft_micro == amount_micro
    assert all(draw.amount_micro > 0 for draw in burn.draws)
    assert all(grant.remaining_micro >= 0 for grant in _after(grants, burn))
    if burn.overdraft_micro:
        assert not any(spendable(grant, NOW) for grant in _after(grants, burn))


@given(GRANTS, AMOUNTS)
def test_an_expired_grant_is_never_drawn(grants: list[Grant], amount_micro: int) -> None:
    drawn = {draw.grant_id for draw in burn_down(grants, amount_micro, NOW).draws}
    expired = {grant.grant_id for grant in grants if grant.expires_at and grant.expires_at <= NOW}
    assert not drawn & expired


@given(GRANTS, AMOUNTS, st.randoms(use_true_random=False))
def test_the_order_of_the_argument_does_not_matter(
    grants: list[Grant], amount_micro: int, chance: Random
) -> None:
    shuffled = list(grants)
    chance.shuffle(shuffled)
    assert burn_down(shuffled, amount_micro, NOW) == burn_down(grants, amount_micro, NOW)


@given(GRANTS, AMOUNTS, AMOUNTS)
def test_two_amounts_one_after_the_other_are_their_sum(
    grants: list[Grant], first_micro: int, second_micro: int
) -> None:
    first = burn_down(grants, first_micro, NOW)
    second = burn_down(_after(grants, first), second_micro, NOW)
    both = burn_down(grants, first_micro + second_micro, NOW)
    assert _after(_after(grants, first), second) == _after(grants, both)
    assert first.overdraft_micro + second.overdraft_micro == both.overdraft_micro


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_new_grant_repays_overdraft_first(granted_micro: int, overdraft_micro: int) -> None:
    after = repay(granted_micro, overdraft_micro)
    assert after.repaid_micro + after.remaining_micro == granted_micro
    assert after.repaid_micro + after.overdraft_micro == overdraft_micro
    assert after.remaining_micro == 0 or after.overdraft_micro == 0
    balance_micro = after.remaining_micro - after.overdraft_micro
    assert balance_micro == granted_micro - overdraft_micro


def test_repaying_by_hand() -> None:
    assert repay(100, 30) == Repayment(30, 70, 0)
    assert repay(100, 130) == Repayment(100, 0, 30)
    for granted_micro, overdraft_micro in ((0, 5), (-1, 5), (5, -1)):
        with pytest.raises(ValueError, match="cannot grant"):
            repay(granted_micro, overdraft_micro)


@given(GRANTS, st.integers(1, 5 * 10**6))
def test_what_was_charged_and_is_given_back_leaves_the_balance_as_it_was(
    grants: list[Grant], amount_micro: int
) -> None:
    def left_micro(some: list[Grant]) -> int:
        return sum(grant.remaining_micro for grant in some)

    burn = burn_down(grants, amount_micro, NOW)
    back = give_back(amount_micro, burn.overdraft_micro)
    assert back.overdraft_micro == 0
    assert left_micro(_after(grants, burn)) + back.remaining_micro == left_micro(grants)


def test_giving_back_by_hand() -> None:
    assert give_back(100, 30) == Repayment(30, 70, 0)
    assert give_back(100, 100) == Repayment(100, 0, 0)
    with pytest.raises(ValueError, match="cannot grant 0"):
        give_back(0, 0)
