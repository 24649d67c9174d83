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
from typing import TypeAlias

from aiokafka import ConsumerRecord

from adapters.failures import Halt, HaltReason
from adapters.ledger import BatchTransaction, Ledger, NewAccounts, Outcome, Span
from adapters.metrics import BatchFigures
from adapters.settings import Settings
from consumers.batch import Runs
from consumers.prices import Prices
from consumers.reading import Reader, chunks, time_window
from core.batch import Dead, Entry, Verdict, counters_of, judge, rate_all
from core.prices import PriceHistory
from core.rating import AccountFacts, Counting, Rated
from schemas.events import Rejected
from schemas.names import USER_EVENT_PREFIX

FACTS_MAX = 200_000
Ratings: TypeAlias = list[Rated | Counting | Rejected]


class DeadLetterCap:
    """Halts when too large a share of the latest records is dead: a bad deployment, not bad data.

    Without it a wrong price book or a broken decoder would empty the topic into the dead letters.
    What users publish for themselves is left out: one of them could halt it for all.
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

    def __init__(self, settings: Settings, ledger: Ledger, prices: Prices) -> None:
        self._ledger = ledger
        self._prices = prices
        self._reader = Reader(ledger, time_window(settings))
        self._begun = False
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
        guessed = await self._guess()
        ratings = await self._rate(entries, guessed)
        async with self._ledger.transaction() as transaction:
            todo = {span.partition for span in await transaction.lock_positions(spans, epoch)}
            if len(todo) < len(spans):
                spans = [span for span in spans if span.partition in todo]
                kept = [n for n, entry in enumerate(entries) if entry.record.partition in todo]
                entries, ratings = [entries[n] for n in kept], [ratings[n] for n in kept]
                dead = [item for item in dead if item.record.partition in todo]
            verdict = await self._judge(transaction, entries, ratings, guessed)
            verdict.dead += dead
            reasons = Counter(item.rejected.reason.value for item in verdict.dead)
            suspect = Counter(
                item.rejected.reason.value for item in verdict.dead if not _of_a_user(item)
            )
            total = sum(span.to_offset - span.from_offset for span in spans)
            total -= reasons.total() - suspect.total()
            self._cap.check(total, suspect)
            if spans:
                batch_id = await transaction.next_batch_id()
                await transaction.post(verdict, batch_id)
                await transaction.book(batch_id, _outcomes(spans, verdict), verdict.dead)
        self._cap.booked(total, suspect.total())
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
            return [], self._reader.refuse(records)
        return await self._reader.read(records)

    async def _guess(self) -> PriceHistory:
        """The prices known so far; at first with the outcomes before ours: a restart is no way
        around the cap.
        """
        if self._prices.known is not None and self._begun:
            return self._prices.known
        async with self._ledger.transaction() as transaction:
            history = await self._newest_prices(transaction)
        for records, dead in await self._ledger.recent_outcomes():
            self._cap.booked(records, dead)
        self._begun = True
        return history

    async def _newest_prices(self, transaction: BatchTransaction) -> PriceHistory:
        version = await transaction.newest_price_version()
        return await self._prices.up_to(version, transaction.connection)

    async def _rate(self, entries: Sequence[Entry], history: PriceHistory) -> Ratings:
        """Prices with the facts that were true last time; under the lock they are compared."""
        ratings: Ratings = []
        for chunk in chunks(entries):
            known = {
                entry.event.subject: self._facts.get(entry.event.subject, self._new_facts)
                for entry in chunk
            }
            ratings += rate_all(chunk, history, known)
            await asyncio.sleep(0)
        return ratings

    async def _judge(
        self,
        transaction: BatchTransaction,
        entries: list[Entry],
        ratings: Ratings,
        guessed: PriceHistory,
    ) -> Verdict:
        """Makes the guesses true under the locks (book, tiers), then decides each event."""
        history = await self._newest_prices(transaction)
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
            if history is not guessed or self._facts.get(account_id, self._new_facts) != fact
        }
        again = [n for n, entry in enumerate(entries) if entry.event.subject in changed]
        for part in chunks(again):
            fresh = rate_all([entries[n] for n in part], history, facts)
            for n, rated in zip(part, fresh, strict=True):
                ratings[n] = rated
            await asyncio.sleep(0)
        self._remember(facts)
        claims = await transaction.find_claims(entries)
        counters = await transaction.read_counters(counters_of(entries, ratings))
        balances_micro = {name: account.balance_micro for name, account in accounts.items()}
        return judge(entries, ratings, facts, claims, balances_micro, counters)

    def _remember(self, facts: dict[str, AccountFacts]) -> None:
        """Keeps the latest accounts' facts as the next guess, within a bound."""
        for account_id, fact in facts.items():
            self._facts[account_id] = fact
            self._facts.move_to_end(account_id)
        while len(self._facts) > FACTS_MAX:
            self._facts.popitem(last=False)


def _of_a_user(dead: Dead) -> bool:
    event_id = dead.rejected.event_id
    return event_id is not None and event_id.startswith(USER_EVENT_PREFIX)


def _age_seconds(verdict: Verdict) -> float:
    newest_ms = max((charge.entry.record.timestamp for charge in verdict.charges), default=0)
    return max(0.0, time.time() - newest_ms / 1000) if newest_ms else 0.0


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
