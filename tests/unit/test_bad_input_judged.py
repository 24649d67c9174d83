"""Mixed records through the pure half of the rater, under the default book: the oracle holds."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from adapters.model_prices import snapshot
from core.batch import Verdict, judge, rate_all, read
from core.default_book import default_document
from core.prices import PriceHistory, parse_book
from core.rating import AccountFacts
from schemas.events import Reason, TimeWindow
from tests.bad_records import account_names, mixed_records
from tests.bad_rows import Record

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


@dataclass(frozen=True)
class SourceRecord:
    """A mixed record as Kafka would hand it out."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


@pytest.fixture(scope="module")
def history() -> PriceHistory:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    book = parse_book(default_document(snapshot()), version=1, effective_from=start)
    return PriceHistory([book])


def judged(
    records: list[Record], history: PriceHistory, accounts: list[str], batch_records: int
) -> list[Verdict]:
    """Batch by batch, with the claims of earlier batches, as the ledger would hand them in."""
    claimed: dict[tuple[str, str], int] = {}
    facts = defaultdict(lambda: AccountFacts(tier="free", demo=False))
    balances_micro = dict.fromkeys(accounts, 0)
    verdicts = []
    for start in range(0, len(records), batch_records):
        batch = [
            SourceRecord(0, offset, int(NOW.timestamp() * 1000), record.key, record.value)
            for offset, record in enumerate(records[start : start + batch_records], start)
        ]
        entries, dead = read(batch, TimeWindow())
        identities = [(entry.event.subject, entry.event.id) for entry in entries]
        claims = {n: claimed[who] for n, who in enumerate(identities) if who in claimed}
        ratings = rate_all(entries, history, facts)
        verdict = judge(entries, ratings, facts, claims, balances_micro, {})
        verdict.dead.extend(dead)
        for charge in verdict.charges:
            event = charge.entry.event
            claimed[event.subject, event.id] = charge.entry.payload_hash
        verdicts.append(verdict)
    return verdicts


def outcomes(verdicts: list[Verdict]) -> dict[int, str]:
    """What became of each offset; an offset with two outcomes fails."""
    found: list[tuple[int, str]] = []
    for verdict in verdicts:
        found += [(charge.entry.record.offset, "charged") for charge in verdict.charges]
        found += [(entry.record.offset, "duplicate") for entry in verdict.duplicates]
        found += [(dead.record.offset, dead.rejected.reason) for dead in verdict.dead]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize("batch_records", [1, 500, 8_000])
def test_every_record_has_the_expected_outcome(history: PriceHistory, batch_records: int) -> None:
    records = mixed_records(11, 8_000, 0.2, now=NOW, accounts=50, unknown_accounts=True)
    found = outcomes(judged(records, history, account_names(50), batch_records))
    wrong = {
        (record.row, record.expected, found.get(offset))
        for offset, record in enumerate(records)
        if found.get(offset) != record.expected
    }
    assert not wrong
    assert set(found.values()) == {"charged", "duplicate", *Reason} - {Reason.UNPROCESSABLE}


def test_a_batch_of_poison_alone(history: PriceHistory) -> None:
    records = mixed_records(12, 2_000, 1.0, now=NOW)
    verdicts = judged(records, history, account_names(200), 500)
    assert not any(verdict.charges or verdict.duplicates for verdict in verdicts)
    assert sum(len(verdict.dead) for verdict in verdicts) == 2_000


def test_a_batch_of_duplicates_alone(history: PriceHistory) -> None:
    first = next(r for r in mixed_records(13, 50, 0, now=NOW) if r.expected == "charged")
    [verdict] = judged([first] * 1_000, history, account_names(200), 1_000)
    assert (len(verdict.charges), len(verdict.duplicates), len(verdict.dead)) == (1, 999, 0)
