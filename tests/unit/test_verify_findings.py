"""What an audit says about one account's day, and that it keeps only so much of it."""

from dataclasses import replace
from datetime import date

from core.audit import FINDINGS_MAX, Check, Day, Finding, Result, compare_day

DAY = Day("a", date(2026, 11, 20), rows=3, sum_micro=12, content=-1)


def found(ledger: Day | None, copied: Day | None) -> list[Finding]:
    return list(compare_day(Check.COPIED_CHARGES, ledger, copied))


def test_equal_days_are_no_finding() -> None:
    assert found(DAY, replace(DAY)) == []
    assert found(None, None) == []


def test_a_finding_has_both_sides_figures() -> None:
    [finding] = found(DAY, replace(DAY, rows=4, content=16))
    assert finding.subject == "a on 2026-11-20"
    assert finding.expected == "3 rows, 12 micro-credits, hash ffffffffffffffff"
    assert finding.found == "4 rows, 12 micro-credits, hash 0000000000000010"


def test_a_swap_that_sums_hide_is_found() -> None:
    assert len(found(DAY, replace(DAY, content=2))) == 1


def test_a_missing_day_is_found_on_either_side() -> None:
    assert found(DAY, None)[0].found == "no rows"
    assert found(None, DAY)[0].expected == "no rows"


def test_days_are_ordered_by_bytes_as_both_databases_do() -> None:
    names = ["a", "Z", "é", "a0", "\U0001f600", "\uffff"]
    days = [replace(DAY, account_id=name) for name in names]
    ordered = [day.account_id for day in sorted(days, key=lambda day: day.place)]
    assert ordered == ["Z", "a", "a0", "é", "\uffff", "\U0001f600"]


def test_every_finding_is_counted_and_a_bounded_number_kept() -> None:
    many = [Finding(Check.HOLDS, str(n), "", "") for n in range(FINDINGS_MAX + 5)]
    result = Result(Check.HOLDS, 0, "open holds").add(many)
    assert result.found == FINDINGS_MAX + 5
    assert result.findings == many[:FINDINGS_MAX]
