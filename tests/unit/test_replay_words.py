"""What `tollgate replay` claims at its end: no more than is known."""

import pytest

from adapters.replay_proof import Balances, Outcome
from tollgate.replay_command import _print_outcome

BEFORE = Balances(2, 3, "aa")
AFTER = Balances(2, 3, "bb")


def said(
    capsys: pytest.CaptureFixture[str], after: Balances, *, charged: int = 0, others: int = 0
) -> str:
    _print_outcome(Outcome(charged, 7, 1, others, charged + others, BEFORE, after))
    return capsys.readouterr().out


def test_nothing_moved(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, BEFORE)
    assert "zero new charges came of it; 7 duplicates, 1 dead letters" in text
    assert "2 accounts and 3 grants are the same to the byte, SHA-256 aa" in text
    assert "other records" not in text


def test_with_the_traffic_of_others_a_moved_balance_proves_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(capsys, AFTER, others=5)
    assert "zero new charges" in text
    assert "5 other records were applied meanwhile, with 5 charges" in text
    assert "same to the byte" not in text


def test_new_charges_move_balances(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, AFTER, charged=4)
    assert "4 new charges" in text
    assert text.endswith("2 accounts and 3 grants moved\n")


def test_a_balance_that_moved_without_a_charge_is_not_explained_away(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "though nothing was charged" in said(capsys, AFTER)


def test_a_replay_that_did_not_wait_claims_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    _print_outcome(None)
    assert not capsys.readouterr().out
