"""What becomes of one batch of records: read, judged, and turned into what the ledger posts.

Pure: the records, the claims and the balances are arguments. The order of the records decides
which of two equal events is charged, so the same batch always gives the same result.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Protocol, TypeAlias

from core.fixed_point import scaled
from core.prices import PriceHistory
from core.rating import BILLED_DECIMALS, AccountFacts, Counting, Rated, rate
from core.recorded import RARE_KINDS
from schemas.events import (
    Reason,
    Rejected,
    ServiceTier,
    TimeWindow,
    UsageData,
    UsageEvent,
    decode,
    payload_hash,
)
from schemas.usage import priced_as

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
CounterKey: TypeAlias = tuple[str, str, date]
"""Account, name of the counter, first day of the month (UTC)."""


class SourceRecord(Protocol):
    """A record as Kafka hands it out; `timestamp` is the broker's append time in milliseconds."""

    @property
    def partition(self) -> int:
        """The partition that it stands in."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""

    @property
    def timestamp(self) -> int:
        """When the broker appended it, milliseconds since 1970."""

    @property
    def key(self) -> bytes | None:
        """The account, when the producer is well-behaved."""

    @property
    def value(self) -> bytes | None:
        """The event, when the producer is well-behaved."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A valid usage event with the place that it came from."""

    record: SourceRecord
    event: UsageEvent
    payload_hash: int


@dataclass(frozen=True, slots=True)
class Dead:
    """A record that can not be charged, and why."""

    record: SourceRecord
    rejected: Rejected


@dataclass(frozen=True, slots=True)
class Charge:
    """An event to post: what the book says, what is charged, and the balance after it."""

    entry: Entry
    rated: Rated
    facts: AccountFacts
    amount_micro: int
    balance_after_micro: int


@dataclass(slots=True)
class Verdict:
    """Every record of the batch in exactly one of three lists; `counted` is what its charges add
    to the counters of their months.
    """

    charges: list[Charge] = field(default_factory=list)
    duplicates: list[Entry] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)
    counted: dict[CounterKey, int] = field(default_factory=dict)


def read(records: Iterable[SourceRecord], window: TimeWindow) -> tuple[list[Entry], list[Dead]]:
    """Decodes and validates each record by itself; a bad one never affects another."""
    entries: list[Entry] = []
    dead: list[Dead] = []
    for record in records:
        event = decode(record.value, record.key, record.timestamp, window)
        if isinstance(event, Rejected):
            dead.append(Dead(record, event))
        else:
            entries.append(Entry(record, event, payload_hash(event)))
    return entries, dead


def read_again(
    record: SourceRecord, appended_at: datetime | None, window: TimeWindow
) -> Entry | Dead:
    """As `read`, of one record that is a copy of one appended then; None: its own append time."""
    timestamp_ms = record.timestamp if appended_at is None else (appended_at - _EPOCH) // _MS
    event = decode(record.value, record.key, timestamp_ms, window)
    if isinstance(event, Rejected):
        return Dead(record, event)
    return Entry(record, event, payload_hash(event))


def rate_all(
    entries: Iterable[Entry], history: PriceHistory, facts: Mapping[str, AccountFacts]
) -> list[Rated | Counting | Rejected]:
    """Prices each event with its account's facts; `facts` knows every account of the batch."""
    return [rate(entry.event, history, facts[entry.event.subject]) for entry in entries]


def counters_of(
    entries: Iterable[Entry], ratings: Iterable[Rated | Counting | Rejected]
) -> set[CounterKey]:
    """The counters that the prices of these events depend on; empty when none does."""
    return {
        _counter_key(entry, rating)
        for entry, rating in zip(entries, ratings, strict=True)
        if isinstance(rating, Counting)
    }


def judge(
    entries: Sequence[Entry],
    ratings: Sequence[Rated | Counting | Rejected],
    facts: Mapping[str, AccountFacts],
    claims: Mapping[int, int],
    balances_micro: Mapping[str, int],
    counters: Mapping[CounterKey, int],
) -> Verdict:
    """Decides each event: charged, duplicate, conflict or dead.

    `claims` holds, by index into `entries`, the payload hash of an earlier charge of the same
    (account, id). A claim is looked at before the price: an event that was charged stays a
    duplicate even if today's book could not price it. Within the batch the first one wins.
    An account that is not in `balances_micro` does not exist and may not be created.
    `counters` is what was counted before this batch, nothing where a counter is not named; only
    what is charged is counted, so that a month's charges add up to the price of its total.
    """
    verdict = Verdict()
    seen: dict[tuple[str, str], int] = {}
    balances = dict(balances_micro)
    for n, entry in enumerate(entries):
        event = entry.event
        identity = (event.subject, event.id)
        claimed_hash = claims.get(n, seen.get(identity))
        if claimed_hash is not None:
            _judge_claimed(entry, claimed_hash, verdict)
            continue
        rated = ratings[n]
        if not isinstance(rated, Rated):
            rated = _at_the_counter(entry, rated, counters, verdict.counted)
            if isinstance(rated, Rejected):
                verdict.dead.append(Dead(entry.record, rated))
                continue
        balance_micro = balances.get(event.subject)
        if balance_micro is None:
            verdict.dead.append(_dead(entry, Reason.UNKNOWN_ACCOUNT, "no such account"))
            continue
        account = facts[event.subject]
        amount_micro = 0 if account.demo else rated.rated_micro
        seen[identity] = entry.payload_hash
        balances[event.subject] = balance_micro - amount_micro
        verdict.charges.append(
            Charge(entry, rated, account, amount_micro, balance_micro - amount_micro)
        )
        if rated.counter_units:
            _count(entry, rated, verdict.counted)
    return verdict


def _at_the_counter(
    entry: Entry,
    rating: Counting | Rejected,
    counters: Mapping[CounterKey, int],
    counted: Mapping[CounterKey, int],
) -> Rated | Rejected:
    """The price where the counter stands after what this batch has counted so far."""
    if isinstance(rating, Rejected):
        return rating
    key = _counter_key(entry, rating)
    return rating.rated(counters.get(key, 0) + counted.get(key, 0))


def _count(entry: Entry, rated: Rated, counted: dict[CounterKey, int]) -> None:
    key = _counter_key(entry, rated)
    counted[key] = counted.get(key, 0) + rated.counter_units


def _counter_key(entry: Entry, priced: Rated | Counting) -> CounterKey:
    event = entry.event
    return event.subject, priced.counter, event.time.date().replace(day=1)


def _judge_claimed(entry: Entry, claimed_hash: int, verdict: Verdict) -> None:
    if claimed_hash == entry.payload_hash:
        verdict.duplicates.append(entry)
    else:
        detail = "an event with this id was charged with another payload"
        verdict.dead.append(_dead(entry, Reason.DUP_MISMATCH, detail))


def _dead(entry: Entry, reason: Reason, detail: str) -> Dead:
    event = entry.event
    rejected = Rejected(reason, detail, event.subject, event.id, priced_as(event.data))
    return Dead(entry.record, rejected)


def totals_micro(charges: Iterable[Charge]) -> dict[str, int]:
    """What each account is charged in all, accounts whose charges come to nothing left out.

    Less than nothing when a counted price fell by more than the batch charges.
    """
    totals: dict[str, int] = {}
    for charge in charges:
        if charge.amount_micro:
            account_id = charge.entry.event.subject
            totals[account_id] = totals.get(account_id, 0) + charge.amount_micro
    return {account_id: total for account_id, total in totals.items() if total}


def settlements_micro(charges: Iterable[Charge]) -> dict[tuple[str, str], int]:
    """What was charged on each (hold, account) that an event of the batch names."""
    settled: dict[tuple[str, str], int] = {}
    for charge in charges:
        hold_id = charge.entry.event.data.hold_id
        if hold_id is not None:
            key = (hold_id, charge.entry.event.subject)
            settled[key] = settled.get(key, 0) + charge.amount_micro
    return settled


_STANDARD = ServiceTier.STANDARD
_RARE_DEFAULTS = ("standard", "", 0, "", 0, 0)
_to_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode

PLAIN_COLUMNS = (
    "account_id", "event_id", "partition", "epoch", "offset", "occurred_at", "payload_hash",
    "price_version", "rule", "rated_micro", "amount_micro", "balance_after_micro", "tier", "demo",
    "source", "action", "provider", "model", "power_level", "input_tokens", "cache_read_tokens",
    "cache_write_tokens", "output_tokens", "reasoning_tokens", "other_meters", "quantity",
    "own_key", "hold_id", "resource_id", "attributes",
)  # fmt: skip
RARE_COLUMNS = (
    "service_tier", "billed_currency", "billed_pico", "counter", "counter_units", "counter_before",
)  # fmt: skip
CHARGE_COLUMNS = PLAIN_COLUMNS + RARE_COLUMNS


def charge_row(charge: Charge, epoch: int) -> tuple[object, ...]:
    """The ledger row of a charge, in the order of CHARGE_COLUMNS."""
    rare = _rare_values(charge.entry.event.data, charge.rated)
    return (*_plain_row(charge, epoch), *rare)


def charge_rows(
    charges: Iterable[Charge], epoch: int
) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """The ledger rows of the charges, and their columns.

    RARE_COLUMNS are left to their defaults where no charge of the batch differs from them: that
    is a twentieth of a rater's processor time.
    """
    plain, rare, differs = [], [], False
    for charge in charges:
        data, rated = charge.entry.event.data, charge.rated
        if data.service_tier is not _STANDARD or data.billed is not None or rated.counter:
            differs = True
            rare.append(_rare_values(data, rated))
        else:
            rare.append(_RARE_DEFAULTS)
        plain.append(_plain_row(charge, epoch))
    if not differs:
        return PLAIN_COLUMNS, plain
    rows = [(*row, *values) for row, values in zip(plain, rare, strict=True)]
    return CHARGE_COLUMNS, rows


def _rare_values(data: UsageData, rated: Rated) -> tuple[object, ...]:
    billed = data.billed
    return (
        data.service_tier,
        "" if billed is None else billed.currency,
        0 if billed is None else scaled(billed.amount, BILLED_DECIMALS),
        rated.counter, rated.counter_units, rated.counter_before,
    )  # fmt: skip


def _plain_row(charge: Charge, epoch: int) -> tuple[object, ...]:
    record, event, rated = charge.entry.record, charge.entry.event, charge.rated
    data = event.data
    tokens = data.tokens
    return (
        event.subject, event.id, record.partition, epoch, record.offset, event.time,
        charge.entry.payload_hash, rated.price_version, rated.rule, rated.rated_micro,
        charge.amount_micro, charge.balance_after_micro, charge.facts.tier, charge.facts.demo,
        event.source, data.action, data.provider, data.model, data.power_level, tokens.input,
        tokens.cache_read, tokens.cache_write, tokens.output,
        tokens.reasoning, other_meters(event), data.quantity, data.own_key, data.hold_id,
        data.resource_id, _attributes(event),
    )  # fmt: skip


def other_meters(event: UsageEvent) -> str:
    """The rarer token kinds that are not zero, as a JSON object; '' when there are none."""
    tokens = event.data.tokens
    if not (
        tokens.cache_write_1h
        or tokens.audio_input
        or tokens.audio_output
        or tokens.image_input
        or tokens.image_output
        or tokens.video_input
    ):
        return ""
    meters = {kind: getattr(tokens, kind) for kind in RARE_KINDS}
    return _to_json({kind: count for kind, count in meters.items() if count})


def _attributes(event: UsageEvent) -> str:
    attributes = event.data.attributes
    return _to_json(attributes) if attributes else ""
