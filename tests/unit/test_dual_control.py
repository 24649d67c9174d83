"""Which gift needs a second admin, and who may decide on it."""

import pytest

from core.dual_control import (
    ProposalRefusal,
    ProposalState,
    names_of,
    needs_another,
    person,
    refusal,
)


@pytest.mark.parametrize(
    ("limit", "alone", "amount", "needed"),
    [
        (0, 0, 10**15, False),
        (100, 0, 100, False),
        (100, 0, 101, True),
        (100, 0, -101, True),
        (100, 60, 40, False),
        (100, 60, 41, True),
        (100, 60, -41, True),
    ],
)
def test_above_the_limit_another_is_needed(
    limit: int, alone: int, amount: int, *, needed: bool
) -> None:
    assert needs_another(limit, alone, amount) is needed


def test_a_name_is_one_person_on_the_command_line_and_in_the_api() -> None:
    assert person("cli:anna") == person("anna") == "anna"
    assert names_of("anna") == names_of("cli:anna") == ["anna", "cli:anna"]


@pytest.mark.parametrize("own", ["anna", "cli:anna"])
def test_nobody_approves_the_own_proposal_and_everybody_withdraws_it(own: str) -> None:
    pending = ProposalState.PENDING
    assert refusal(pending, "anna", own, approves=True) is ProposalRefusal.OWN
    assert refusal(pending, "anna", own, approves=False) is None
    assert refusal(pending, "anna", "bob", approves=True) is None


@pytest.mark.parametrize("approves", [True, False])
def test_what_is_decided_or_over_stays(*, approves: bool) -> None:
    for state in ProposalState:
        found = refusal(state, "anna", "bob", approves=approves)
        wanted = {
            ProposalState.PENDING: None,
            ProposalState.EXPIRED: ProposalRefusal.EXPIRED,
        }.get(state, ProposalRefusal.DECIDED)
        assert found is wanted
    assert all(each.meaning for each in ProposalRefusal)
