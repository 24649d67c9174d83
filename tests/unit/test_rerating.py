"""Re-rating as a pure function: generated ledgers, priced again by the same book and by others."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.corrections import Kind, month_of
from core.margin import carried, remainder_micro, voided
from core.prices import PriceHistory
from core.rating import AccountFacts, Counting, Rated, rate, rate_with
from core.recorded import USAGE_COLUMNS, facts_of, recorded_event, usage_columns
from core.rerating import (
    Found,
    InsideMonthError,
    Item,
    OpenMonthError,
    Stretch,
    Verdict,
    clash_in_force,
    compare,
    counter_keys,
    price_all,
    refuse_open_months,
    resolve,
    restored,
)
from schemas.reasons import Rejected
from schemas.usage import PowerLevel, TokenCounts, UsageData, UsageEvent
from tests.counted_rows import COUNTED
from tests.drawn_usage import MODELS, token_counts
from tests.priced_usage import EPOCH, book

MONTHS = datetime(2026, 10, 1, tzinfo=UTC)
WHOLE = Stretch(MONTHS, MONTHS + timedelta(days=90), MONTHS + timedelta(days=90))
ACTIONS = ("counted", "also_counted", "scheduled_task")
NUMBERS = count()
SMALL = {"models": {}, "catalog": {"source": "none", "providers": []}}


@st.composite
def events(draw: st.DrawFn) -> UsageEvent:
    """Usage of a real model, or of an action whose price may count the month; of three accounts."""
    when = MONTHS + timedelta(minutes=draw(st.integers(0, 60 * 24 * 60)))
    fields: dict[str, Any] = {"power_level": draw(st.sampled_from(("eco", "balanced")))}
    if draw(st.booleans()):
        provider, model = draw(st.sampled_from(MODELS))
        fields |= {"provider": provider, "model": model, "own_key": draw(st.booleans())}
        fields["tokens"] = TokenCounts(**draw(token_counts(10**5)))
    else:
        fields |= {"action": draw(st.sampled_from(ACTIONS)), "quantity": draw(st.integers(0, 400))}
    return event(draw(st.sampled_from("abc")), when, **fields)


def event(account: str, when: datetime, **fields: Any) -> UsageEvent:
    if "power_level" in fields:
        fields["power_level"] = PowerLevel(fields["power_level"])
    return UsageEvent(
        specversion="1.0",
        id=f"e-{next(NUMBERS)}",
        source="tests",
        type="tollgate.usage.v1",
        subject=account,
        time=when,
        data=UsageData(**fields),
    )


FACTS = {
    "a": AccountFacts("free", demo=False),
    "b": AccountFacts("pro", demo=False),
    "c": AccountFacts("free", demo=True),
}


def charge(event: UsageEvent, rated: Rated, **fields: Any) -> dict[str, Any]:
    """The row of a charge as it stands."""
    facts = FACTS[event.subject]
    return {
        **dict(zip(USAGE_COLUMNS, usage_columns(event), strict=True)),
        "account_id": event.subject,
        "event_id": event.id,
        "occurred_at": event.time,
        "source": event.source,
        "hold_id": None,
        "resource_id": "",
        "attributes": "",
        "tier": facts.tier,
        "demo": facts.demo,
        "sequence": 0,
        "voided": False,
        "price_version": rated.price_version,
        "rule": rated.rule,
        "rated_micro": rated.rated_micro,
        "amount_micro": 0 if facts.demo else rated.rated_micro,
        "counter": rated.counter,
        "counter_units": rated.counter_units,
        "counter_before": rated.counter_before,
        **fields,
    }


def ledger(usages: Sequence[UsageEvent], history: PriceHistory) -> list[dict[str, Any]]:
    """What a rater would charge, one event after the other."""
    rows = []
    counts: dict[tuple[str, str, date], int] = defaultdict(int)
    for usage in usages:
        rating = rate(usage, history, FACTS[usage.subject])
        if isinstance(rating, Counting):
            key = (usage.subject, rating.counter, rating.month)
            rating = rating.rated(counts[key])
            if isinstance(rating, Rated):
                counts[key] += rating.counter_units
        if isinstance(rating, Rated):
            rows.append(charge(usage, rating))
    return rows


def items(rows: Sequence[dict[str, Any]]) -> list[Item]:
    return [Item(recorded_event(row), facts_of(row), row) for row in rows]


def rerate(rows: Sequence[dict[str, Any]], prices: Any, chunk: int = 1000) -> Found:
    """A whole run in chunks of that size, as the adapter does it."""
    counts: dict[tuple[str, str, date], int] = {}
    whole = Found()
    for start in range(0, len(rows), chunk):
        some = items(rows[start : start + chunk])
        ratings = price_all(some, prices)
        assert counter_keys(some, ratings) == {
            (item.event.subject, rating.counter, rating.month)
            for item, rating in zip(some, ratings, strict=True)
            if isinstance(rating, Counting)
        }
        found = compare(some, resolve(some, ratings, counts, WHOLE))
        whole.lines += found.lines
        whole.changes += found.changes
        whole.tally.old_micro += found.tally.old_micro
        whole.tally.new_micro += found.tally.new_micro
    return whole


def by_event_time(history: PriceHistory) -> Any:
    return lambda event, facts: rate(event, history, facts)


COUNTED_BOOKS = st.tuples(COUNTED, COUNTED | st.just({"credits": "0.002"}))


def counted_book(
    rows: tuple[dict[str, Any], dict[str, Any]], version: int = 1, since: datetime = EPOCH
) -> Any:
    actions = {"counted": rows[0], "also_counted": rows[1], "scheduled_task": {"credits": "0.5"}}
    return book(version, since, actions=actions, models={})


@settings(deadline=None, max_examples=40)
@given(st.lists(events(), max_size=30), COUNTED_BOOKS, COUNTED_BOOKS, st.integers(1, 31))
def test_the_same_prices_give_no_difference(
    usages: list[UsageEvent], first: Any, second: Any, chunk: int
) -> None:
    """Two versions, the second from the middle of a month on: every line is what it was."""
    history = PriceHistory(
        [counted_book(first), counted_book(second, 2, MONTHS + timedelta(days=40))]
    )
    rows = ledger(usages, history)
    found = rerate(rows, by_event_time(history), chunk)
    assert {line.verdict for line in found.lines} <= {Verdict.SAME}
    assert found.changes == []
    assert [(line.old_micro, line.old_version) for line in found.lines] == [
        (line.new_micro, line.new_version) for line in found.lines
    ]


@settings(deadline=None, max_examples=40)
@given(st.lists(events(), max_size=30), COUNTED_BOOKS, COUNTED_BOOKS, st.integers(1, 31))
def test_it_does_not_matter_where_a_run_is_cut(
    usages: list[UsageEvent], first: Any, second: Any, chunk: int
) -> None:
    rows = ledger(usages, PriceHistory([counted_book(first)]))
    other = by_event_time(PriceHistory([counted_book(second)]))
    assert rerate(rows, other, chunk) == rerate(rows, other)


@settings(deadline=None, max_examples=40)
@given(st.lists(events(), max_size=30), COUNTED_BOOKS, COUNTED_BOOKS)
def test_charges_made_right_are_what_the_other_book_would_have_charged(
    usages: list[UsageEvent], first: Any, second: Any
) -> None:
    """The new amounts are those of a ledger that was charged by the other book from the start."""
    wrong = PriceHistory([counted_book(first)])
    right = PriceHistory([counted_book(second)])
    rows = ledger(usages, wrong)
    kept = {row["event_id"] for row in rows}
    expected = {
        row["event_id"]: row["amount_micro"]
        for row in ledger([usage for usage in usages if usage.id in kept], right)
    }
    found = rerate(rows, by_event_time(right))
    priced = [line for line in found.lines if line.verdict is not Verdict.UNPRICED]
    assert {line.event_id: line.new_micro for line in priced} == expected


@settings(deadline=None, max_examples=40)
@given(st.lists(events(), min_size=1, max_size=20), COUNTED_BOOKS, st.randoms())
def test_a_void_leaves_the_sum_of_each_month_as_it_is(
    usages: list[UsageEvent], prices: Any, chance: Any
) -> None:
    """Another charge carries what a voided one leaves: priced again, a month's parts only move."""
    history = PriceHistory([counted_book(prices)])
    rows = ledger(usages, history)
    months: dict[tuple[str, str, date], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        months[row["account_id"], row["counter"], month_of(row["occurred_at"])].append(row)
    for row in rows:
        if chance.random() < 0.4:
            standing = months[row["account_id"], row["counter"], month_of(row["occurred_at"])]
            units = sum(each["counter_units"] for each in standing)
            more_micro = remainder_micro(row, history.numbered(row["price_version"]), units)
            standing.remove(row)
            if row["counter"] and standing:
                correct(standing[-1], carried(standing[-1], more_micro), voided=False)
            correct(row, voided(row), voided=True)
    differences: dict[Any, int] = defaultdict(int)
    for row, line in zip(rows, rerate(rows, by_event_time(history)).lines, strict=True):
        assert (line.verdict is Verdict.VOIDED) == row["voided"]
        month = (line.account_id, row["counter"], month_of(line.occurred_at))
        differences[month] += line.new_micro - line.old_micro
    assert not any(differences.values())


def correct(row: dict[str, Any], rated: Rated, *, voided: bool) -> None:
    amount_micro = 0 if row["demo"] else rated.rated_micro
    row |= {"rated_micro": rated.rated_micro, "amount_micro": amount_micro, "voided": voided}
    row |= {"counter_units": rated.counter_units, "counter_before": rated.counter_before}
    row["sequence"] += 1


def one(old: Any = None, **fields: Any) -> Item:
    """1,000 tokens of gpt-4o, charged 3,750 micro-credits."""
    usage = event("a", MONTHS, provider="openai", model="gpt-4o", tokens=TokenCounts(input=1000))
    row = charge(usage, Rated(3750, 1, "model:openai/gpt-4o"), **fields)
    return Item(usage, facts_of(row), None if old == "never" else row)


def verdict_of(item: Item, **sections: Any) -> tuple[Verdict, int, int, int]:
    version = book(7, **sections)
    ratings = price_all([item], lambda event, facts: rate_with(event, version, facts))
    found = compare([item], resolve([item], ratings, {}, WHOLE))
    (line,) = found.lines
    return line.verdict, line.old_micro, line.new_micro, len(found.changes)


DOUBLE = {"currencies": {"USD": [{"credits": "2"}]}}


def test_what_is_said_of_each_event() -> None:
    assert verdict_of(one()) == (Verdict.SAME, 3750, 3750, 0)
    assert verdict_of(one(), **DOUBLE) == (Verdict.CHANGED, 3750, 7500, 1)
    assert verdict_of(one(), **SMALL) == (Verdict.UNPRICED, 3750, 3750, 0)
    assert verdict_of(one("never"), **DOUBLE) == (Verdict.UNCHARGED, 0, 7500, 0)
    assert verdict_of(one("never"), **SMALL) == (Verdict.UNPRICED, 0, 0, 0)
    gone = {"voided": True, "rated_micro": 0, "amount_micro": 0}
    assert verdict_of(one(**gone), **DOUBLE) == (Verdict.VOIDED, 0, 0, 0)


def test_a_demo_account_gets_another_price_and_still_pays_nothing() -> None:
    item = one(demo=True, amount_micro=0)
    assert verdict_of(item, **DOUBLE) == (Verdict.CHANGED, 0, 0, 1)


def test_an_amendment_is_what_is_priced_again() -> None:
    item = one(input_tokens=2000, rated_micro=7500, amount_micro=7500, sequence=3)
    item = item._replace(event=recorded_event(item.row))
    assert verdict_of(item) == (Verdict.SAME, 7500, 7500, 0)


def test_a_change_is_based_on_the_state_it_was_worked_out_from() -> None:
    item = one(sequence=3)
    version = book(7, **DOUBLE)
    found = compare([item], [rate_with(item.event, version, item.facts)])
    (change,) = found.changes
    assert (change.kind, change.based_on, change.voided) == (Kind.RERATE, 3, False)
    assert change.rated == Rated(7500, 7, "model:openai/gpt-4o")
    assert (found.tally.old_micro, found.tally.new_micro) == (3750, 7500)
    assert found.tally.difference_micro == 3750


def test_what_is_taken_back_is_the_state_before() -> None:
    row = one(counter="c", counter_units=7, counter_before=3, rule="old").row
    assert row is not None
    change = restored(row, recorded_event(row), 5)
    assert (change.kind, change.based_on, change.voided) == (Kind.REVERT, 5, False)
    assert change.rated == Rated(3750, 1, "old", "c", 7, 3)


GRADUATED = {"charge": "graduated", "steps": [{"up_to": "10", "credits": "1"}, {"credits": "0.5"}]}
COUNTING = {"actions": {"counted": GRADUATED, "scheduled_task": {"credits": "1"}}, "models": {}}


def counted(when: datetime, price: Rated) -> Item:
    usage = event("a", when, action="counted", quantity=6)
    row = charge(usage, price)
    return Item(usage, facts_of(row), row)


def resolved(
    some: list[Item], since: datetime, until: datetime = MONTHS + timedelta(days=90)
) -> list[Rated | Rejected]:
    version = book(1, **COUNTING)
    ratings = price_all(some, lambda event, facts: rate_with(event, version, facts))
    return resolve(some, ratings, {}, Stretch(since, until, MONTHS + timedelta(days=20)))


def test_a_count_that_began_before_the_stretch_is_not_guessed() -> None:
    item = counted(MONTHS + timedelta(days=9), Rated(1, 1, "x"))
    assert resolved([item], MONTHS)
    with pytest.raises(InsideMonthError, match="begin with --from 2026-10-01"):
        resolved([item], MONTHS + timedelta(seconds=1))


def test_what_the_month_counts_after_the_stretch_may_have_been_counted_before() -> None:
    """Events come in any order: without the later ones the count of these is not known."""
    item = counted(MONTHS + timedelta(days=9), Rated(1, 1, "x"))
    now = MONTHS + timedelta(days=20)
    assert resolved([item], MONTHS, now)
    with pytest.raises(InsideMonthError, match="end with --to 2026-11-01 or after"):
        resolved([item], MONTHS, now - timedelta(seconds=1))
    last_month = counted(MONTHS - timedelta(days=9), Rated(1, 1, "x"))
    assert resolved([last_month], MONTHS - timedelta(days=60), MONTHS)
    with pytest.raises(InsideMonthError):
        resolved([last_month], MONTHS - timedelta(days=60), MONTHS - timedelta(seconds=1))


def test_counted_charges_of_one_batch_go_in_the_order_in_which_they_were_counted() -> None:
    """An account's events of one batch may come from two partitions, in any order."""
    later = counted(MONTHS, Rated(5_000_000, 1, "action:counted", "action:counted", 6, 6))
    first = counted(MONTHS, Rated(6_000_000, 1, "action:counted", "action:counted", 6, 0))
    again = resolved([later, first], MONTHS)
    assert [rating.counter_before for rating in again if isinstance(rating, Rated)] == [6, 0]
    assert [rating.rated_micro for rating in again if isinstance(rating, Rated)] == [
        5_000_000,
        6_000_000,
    ]


def test_what_is_counted_does_not_change_while_the_month_is_open() -> None:
    uncounted = counted(MONTHS, Rated(1, 1, "x"))
    ratings = resolved([uncounted], MONTHS)
    refuse_open_months([uncounted], ratings, MONTHS + timedelta(days=31))
    with pytest.raises(OpenMonthError, match="2026-10, which is not over"):
        refuse_open_months([uncounted], ratings, MONTHS + timedelta(days=30))
    dearer_only = counted(MONTHS, Rated(1, 1, "action:counted", "action:counted", 6, 0))
    refuse_open_months([dearer_only], resolved([dearer_only], MONTHS), MONTHS)


def test_a_version_is_booked_only_where_its_volume_counters_have_no_other_price() -> None:
    """Pages cost 1 from October on, 2 from the 9th of November, 3 from December."""
    november, december = (datetime(2026, month, 1, tzinfo=UTC) for month in (11, 12))
    books = [
        book(n, when, actions={"page": {"charge": "volume", "steps": [{"credits": str(n)}]}})
        for n, when in enumerate((MONTHS, november + timedelta(days=8), december), 1)
    ]
    versions = PriceHistory(books)

    def clashes(version: int, since: datetime, until: datetime) -> str | None:
        return clash_in_force(books[version - 1], versions, since, until)

    late = timedelta(days=20)
    assert clashes(1, MONTHS + late, november) is None
    assert "of version 2 does" in (clashes(1, MONTHS, november + timedelta(seconds=1)) or "")
    assert "of version 1 does" in (clashes(2, november + late, december) or "")
    assert "of version 1 does" in (clashes(3, MONTHS + late, november) or "")
    assert clashes(3, december, december + late) is None
    assert clashes(2, MONTHS - late, MONTHS) is None
