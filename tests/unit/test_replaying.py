"""Where a record stands, and what a replay sends: the whole table, and what must always hold."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.replaying import Letter, Standing, is_sent, standing_of
from schemas.reasons import Reason

UNPRICED = Letter(1, Reason.UNPRICED, requeued=False)
ODD = Letter(1, Reason.UNPROCESSABLE, requeued=False)
GONE = Letter(1, Reason.UNPRICED, requeued=True)


@pytest.mark.parametrize(
    ("claimed", "letter", "waiting", "expected"),
    [
        (7, None, False, Standing.CHARGED),
        (7, ODD, True, Standing.CHARGED),
        (8, None, False, Standing.CONFLICT),
        (8, UNPRICED, True, Standing.CONFLICT),
        (None, UNPRICED, False, Standing.PARKED),
        (None, ODD, False, Standing.DEAD),
        (None, GONE, False, Standing.SENT_AGAIN),
        (None, None, True, Standing.WAITING),
        (None, None, False, Standing.NOT_CHARGED),
    ],
)
def test_the_ledger_says_where_a_record_stands(
    *, claimed: int | None, letter: Letter | None, waiting: bool, expected: Standing
) -> None:
    assert standing_of(7, claimed, letter, waiting=waiting) is expected


def test_what_is_sent() -> None:
    new = {Standing.DEAD, Standing.NOT_CHARGED}
    never = {Standing.UNREADABLE, Standing.CUT}
    assert {each for each in Standing if is_sent(each, everything=False)} == new
    assert {each for each in Standing if not is_sent(each, everything=True)} == never


@given(
    own=st.integers(),
    claimed=st.none() | st.integers(),
    letter=st.none() | st.builds(Letter, st.integers(), st.sampled_from(Reason), st.booleans()),
    waiting=st.booleans(),
)
def test_a_charge_is_never_sent_without_being_asked_for(
    *, own: int, claimed: int | None, letter: Letter | None, waiting: bool
) -> None:
    standing = standing_of(own, claimed, letter, waiting=waiting)
    if claimed is not None:
        assert not is_sent(standing, everything=False)
    else:
        assert standing not in {Standing.CHARGED, Standing.CONFLICT}


def test_every_standing_has_a_meaning_of_its_own() -> None:
    meanings = [standing.meaning for standing in Standing]
    assert all(meanings)
    assert not any(one == other for one, other in itertools.combinations(meanings, 2))
