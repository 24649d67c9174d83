"""The rater: usage events in, charges out.

Input: `usage.events`, keyed by account. Output: charges, balances, dead letters and the position,
in one PostgreSQL transaction a batch. Guarantee: each (account, event id) is charged once, at the
price of its event time, and every offset is booked as charged, duplicate or dead.
"""

import asyncio
import time
import zlib
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import TypeVar

import structlog
from aiokafka import ConsumerRecord

from adapters.bounded_records import Oversized, Undecompressed
from adapters.failures import Halt, HaltReason
from adapters.ledger import BatchTransaction, Ledger, NewAccounts, Outcome, Span
from adapters.metrics import BatchFigures
from adapters.price_store import load_history
from adapters.settings import Settings
from consumers.batch import Runs
from core.batch import Dead, Entry, Verdict, judge, rate_all, read
from core.prices import PriceHistory
from core.rating import AccountFacts, Rated
from schemas.events import VALUE_BYTES_MAX, Reason, Rejected, TimeWindow

log = structlog.get_logger()
Item = TypeVar("Item")

CHUNK_RECORDS = 500
FACTS_MAX = 200_000


DAY_MS = 86_400_000
_BOMB = Rejected(Reason.TOO_LARGE, "its compressed batch grows beyond 8 MiB", None, None)


class DeadLetterCap:
    """Halts when too large a share of the latest records is dead: a bad deployment, not bad data.

    Without it a wrong price book or a broken decoder would empty the topic into the dead letters.
    Only a batch that is bad itself halts, so that a repaired release goes on at once.
    """

    def __init__(self, share_max: float, window_records: int) -> None:
        self._share_max = share_max
        self._window_records = window_records
        self._latest: deque[tuple[int, int]] = deque()
        self._records = 0
        self._dead = 0

    def check(self, records: int, reasons: Counter[str]) -> None:
        """Looks at a batch that is about to be booked; raises Halt instead of letting it be."""
        dead = sum(reasons.values())
        if dead <= self._share_max * records:
            return
        all_records, all_dead = self._records + records, self._dead + dead
        for old_records, old_dead in self._latest:
            if all_records - old_records < self._window_records:
                break
            all_records -= old_records
            all_dead -= old_dead
        if all_records >= self._window_records and all_dead > self._share_max * all_records:
            common = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(3))
            raise Halt(
                HaltReason.DEAD_LETTERS,
                f"{all_dead} of the last {all_records} records are dead letters ({common}); "
                "nothing of this batch is booked. Look for a wrong price book, producer or "
                "release; raise TOLLGATE_DEAD_LETTER_SHARE_MAX to go on",
            )

    def booked(self, records: int, dead: int) -> None:
        """Counts a batch that was committed, so that a retried one counts once."""
        self._latest.append((records, dead))
        self._records += records
        self._dead += dead
        while self._records - self._latest[0][0] >= self._window_records:
            old_records, old_dead = self._latest.popleft()
            self._records -= old_records
            self._dead -= old_dead


class Rater:
    """Applies batches; see the module. One instance serves one process."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._window = TimeWindow(age_ms_max=settings.event_age_days_max * DAY_MS)
        self._history: PriceHistory | None = None
        self._facts: OrderedDict[str, AccountFacts] = OrderedDict()
        self._new_facts = AccountFacts(settings.default_tier, settings.default_demo)
        self._cap = DeadLetterCap(settings.dead_letter_share_max, settings.dead_letter_window)
        self._new = (
            NewAccounts(
                settings.default_tier, settings.default_demo, settings.welcome_credits_micro
            )
            if settings.create_accounts
            else None
        )

    async def apply(self, runs: Runs, *, epoch: int, unprocessable: bool = False) -> BatchFigures:
        """Applies the runs in one transaction. Idempotent: applied records change nothing.

        Raises PositionMoved when another worker owns a partition now, and Halt at a cap.
        """
        began = time.perf_counter()
        spans = [_span(run) for run in runs.values()]
        records = [record for run in runs.values() for record in run]
        entries, dead = await self._read(records, unprocessable=unprocessable)
        ratings = await self._rate(entries)
        async with self._ledger.transaction() as transaction:
            todo = {span.partition for span in await transaction.lock_positions(spans, epoch)}
            if len(todo) < len(spans):
                spans = [span for span in spans if span.partition in todo]
                kept = [n for n, entry in enumerate(entries) if entry.record.partition in todo]
                entries, ratings = [entries[n] for n in kept], [ratings[n] for n in kept]
                dead = [item for item in dead if item.record.partition in todo]
            verdict = await self._judge(transaction, entries, ratings)
            verdict.dead += dead
            reasons = Counter(item.rejected.reason.value for item in verdict.dead)
            total = sum(span.to_offset - span.from_offset for span in spans)
            self._cap.check(total, reasons)
            if spans:
                batch_id = await transaction.next_batch_id()
                await transaction.post(verdict.charges, batch_id)
                await transaction.book(batch_id, _outcomes(spans, verdict), verdict.dead)
        self._cap.booked(total, sum(reasons.values()))
        return BatchFigures(
            seconds=time.perf_counter() - began,
            charged=len(verdict.charges),
            duplicate=len(verdict.duplicates),
            dead=reasons,
            accounts_created=transaction.accounts_created,
            newest_event_age_seconds=_age_seconds(verdict),
        )

    async def _read(
        self, records: Sequence[ConsumerRecord], *, unprocessable: bool
    ) -> tuple[list[Entry], list[Dead]]:
        if unprocessable:
            detail = "PostgreSQL refuses this record; see the log of the rater"
            rejected = Rejected(Reason.UNPROCESSABLE, detail, None, None)
            return [], [Dead(record, rejected) for record in records]
        entries: list[Entry] = []
        dead = [Dead(record, _too_large(record)) for record in records if _is_too_large(record)]
        if dead:
            records = [record for record in records if not _is_too_large(record)]
        for chunk in _chunks(records):
            some_entries, some_dead = read(chunk, self._window)
            entries += some_entries
            dead += some_dead
            await asyncio.sleep(0)
        return entries, dead

    async def _rate(self, entries: Sequence[Entry]) -> list[Rated | Rejected]:
        """Prices with the facts that were true last time; under the lock they are compared."""
        ratings: list[Rated | Rejected] = []
        if self._history is None:
            await self._begin()
        assert self._history is not None  # noqa: S101 - _load_prices sets it or raises
        for chunk in _chunks(entries):
            known = {
                entry.event.subject: self._facts.get(entry.event.subject, self._new_facts)
                for entry in chunk
            }
            ratings += rate_all(chunk, self._history, known)
            await asyncio.sleep(0)
        return ratings

    async def _begin(self) -> None:
        """Loads prices, and the outcomes before ours: a restart is no way around the cap."""
        async with self._ledger.transaction() as transaction:
            await self._load_prices(transaction)
        for records, dead in await self._ledger.recent_outcomes():
            self._cap.booked(records, dead)

    async def _load_prices(self, transaction: BatchTransaction) -> None:
        history = await load_history(transaction.connection)
        if not history.latest_version:
            message = "no price book was ever published; run `tollgate migrate`"
            raise Halt(HaltReason.NO_PRICE_BOOK, message)
        self._history = history
        log.info("price book loaded", price_version=self._history.latest_version)

    async def _judge(
        self,
        transaction: BatchTransaction,
        entries: list[Entry],
        ratings: list[Rated | Rejected],
    ) -> Verdict:
        """Makes the guesses true under the locks (book, tiers), then decides each event."""
        assert self._history is not None  # noqa: S101 - set by _rate
        stale_book = await transaction.newest_price_version() != self._history.latest_version
        if stale_book:
            await self._load_prices(transaction)
        accounts = await transaction.lock_accounts(
            {entry.event.subject for entry in entries}, self._new
        )
        facts = {
            entry.event.subject: accounts[entry.event.subject].facts
            if entry.event.subject in accounts
            else self._new_facts
            for entry in entries
        }
        changed = {
            account_id
            for account_id, fact in facts.items()
            if stale_book or self._facts.get(account_id, self._new_facts) != fact
        }
        if changed:
            again = [n for n, entry in enumerate(entries) if entry.event.subject in changed]
            for start in range(0, len(again), CHUNK_RECORDS):
                chunk = again[start : start + CHUNK_RECORDS]
                fresh = rate_all([entries[n] for n in chunk], self._history, facts)
                for n, rated in zip(chunk, fresh, strict=True):
                    ratings[n] = rated
                await asyncio.sleep(0)
        self._remember(facts)
        claims = await transaction.find_claims(entries)
        balances_micro = {name: account.balance_micro for name, account in accounts.items()}
        return judge(entries, ratings, facts, claims, balances_micro)

    def _remember(self, facts: dict[str, AccountFacts]) -> None:
        """Keeps the latest accounts' facts as the next guess, within a bound."""
        for account_id, fact in facts.items():
            self._facts[account_id] = fact
            self._facts.move_to_end(account_id)
        while len(self._facts) > FACTS_MAX:
            self._facts.popitem(last=False)


def _age_seconds(verdict: Verdict) -> float:
    newest_ms = max((charge.entry.record.timestamp for charge in verdict.charges), default=0)
    return max(0.0, time.time() - newest_ms / 1000) if newest_ms else 0.0


def _is_too_large(record: ConsumerRecord) -> bool:
    return isinstance(record, Undecompressed | Oversized)


def _too_large(record: ConsumerRecord) -> Rejected:
    if isinstance(record, Oversized):
        detail = f"{record.value_bytes} bytes are more than {VALUE_BYTES_MAX}"
        return Rejected(Reason.TOO_LARGE, detail, None, None)
    return _BOMB


def _span(run: Sequence[ConsumerRecord]) -> Span:
    last = run[-1]
    return Span(last.partition, run[0].offset, last.offset + 1, zlib.crc32(last.value or b""))


def _outcomes(spans: Iterable[Span], verdict: Verdict) -> list[Outcome]:
    charged = Counter(charge.entry.record.partition for charge in verdict.charges)
    duplicate = Counter(entry.record.partition for entry in verdict.duplicates)
    dead = Counter(item.record.partition for item in verdict.dead)
    return [
        Outcome(s, charged[s.partition], duplicate[s.partition], dead[s.partition]) for s in spans
    ]


def _chunks(items: Sequence[Item]) -> Iterable[Sequence[Item]]:
    return (items[start : start + CHUNK_RECORDS] for start in range(0, len(items), CHUNK_RECORDS))
