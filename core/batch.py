"""What becomes of one batch of records: read, judged, and turned into what the ledger posts.

Pure: the records, the claims and the balances are arguments. The order of the records decides
which of two equal events is charged, so the same batch always gives the same result.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from core.prices import PriceHistory
from core.rating import AccountFacts, Rated, rate
from schemas.events import Reason, Rejected, TimeWindow, UsageEvent, decode, payload_hash


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
    """Every record of the batch in exactly one of three lists."""

    charges: list[Charge] = field(default_factory=list)
    duplicates: list[Entry] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)


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


def rate_all(
    entries: Iterable[Entry], history: PriceHistory, facts: Mapping[str, AccountFacts]
) -> list[Rated | Rejected]:
    """Prices each event with its account's facts; `facts` knows every account of the batch."""
    return [rate(entry.event, history, facts[entry.event.subject]) for entry in entries]


def judge(
    entries: Sequence[Entry],
    ratings: Sequence[Rated | Rejected],
    facts: Mapping[str, AccountFacts],
    claims: Mapping[int, int],
    balances_micro: Mapping[str, int],
) -> Verdict:
    """Decides each event: charged, duplicate, conflict or dead.

    `claims` holds, by index into `entries`, the payload hash of an earlier charge of the same
    (account, id). A claim is looked at before the price: an event that was charged stays a
    duplicate even if today's book could not price it. Within the batch the first one wins.
    An account that is not in `balances_micro` does not exist and may not be created.
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
    return verdict


def _judge_claimed(entry: Entry, claimed_hash: int, verdict: Verdict) -> None:
    if claimed_hash == entry.payload_hash:
        verdict.duplicates.append(entry)
    else:
        detail = "an event with this id was charged with another payload"
        verdict.dead.append(_dead(entry, Reason.DUP_MISMATCH, detail))


def _dead(entry: Entry, reason: Reason, detail: str) -> Dead:
    return Dead(entry.record, Rejected(reason, detail, entry.event.subject, entry.event.id))


def totals_micro(charges: Iterable[Charge]) -> dict[str, int]:
    """What each account is charged in all, accounts that are charged nothing left out."""
    totals: dict[str, int] = {}
    for charge in charges:
        if charge.amount_micro:
            account_id = charge.entry.event.subject
            totals[account_id] = totals.get(account_id, 0) + charge.amount_micro
    return totals


def settlements_micro(charges: Iterable[Charge]) -> dict[tuple[str, str], int]:
    """What was charged on each (hold, account) that an event of the batch names."""
    settled: dict[tuple[str, str], int] = {}
    for charge in charges:
        hold_id = charge.entry.event.data.hold_id
        if hold_id is not None:
            key = (hold_id, charge.entry.event.subject)
            settled[key] = settled.get(key, 0) + charge.amount_micro
    return settled


_to_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode

CHARGE_COLUMNS = (
    "account_id", "event_id", "partition", "epoch", "offset", "occurred_at", "payload_hash",
    "price_version", "rule", "rated_micro", "amount_micro", "balance_after_micro", "tier", "demo",
    "source", "action", "provider", "model", "power_level", "input_tokens", "cache_read_tokens",
    "cache_write_tokens", "output_tokens", "reasoning_tokens", "other_meters", "quantity",
    "own_key", "hold_id", "resource_id", "attributes",
)  # fmt: skip


def charge_row(charge: Charge, epoch: int) -> tuple[object, ...]:
    """The ledger row of a charge, in the order of CHARGE_COLUMNS."""
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
        tokens.cache_write_1h or tokens.audio_input or tokens.audio_output or tokens.image_input
    ):
        return ""
    meters = {
        "cache_write_1h": tokens.cache_write_1h,
        "audio_input": tokens.audio_input,
        "audio_output": tokens.audio_output,
        "image_input": tokens.image_input,
    }
    return _to_json({name: count for name, count in meters.items() if count})


def _attributes(event: UsageEvent) -> str:
    attributes = event.data.attributes
    return _to_json(attributes) if attributes else ""
