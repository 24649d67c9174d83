"""What an audit says: every check by name, what it looked at, and each difference it found."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

FINDINGS_MAX = 10_000


class Check(StrEnum):
    """The invariants. One finding is one place where an invariant does not hold."""

    BALANCE = "balance = sum of ledger"
    CHAIN = "balances follow one another"
    GRANTS = "balance = grants - overdraft"
    DRAWS = "grant used = sum of draws"
    HOLDS = "held = sum of open holds"
    OFFSETS = "every offset accounted for"
    OUTCOMES = "outcomes = charges + dead letters"
    CORRECTIONS = "charge + corrections = its state"
    CORRECTION_CREDITS = "corrections = their credits"
    COUNTERS = "counters = units of charges"
    SPEND = "month's spend = ledger"
    COUPONS = "coupon uses = redemptions"
    REFRESHES = "one refresh a period"
    REPORTS = "a session's report or its event"
    AUDIT_LOG = "audit log = one chain of hashes"
    COPIED_CHARGES = "ClickHouse = PostgreSQL, charges"
    COPIED_CREDITS = "ClickHouse = PostgreSQL, credits"
    COPIED_CORRECTIONS = "ClickHouse = PostgreSQL, corrections"
    DUPLICATES = "no row in ClickHouse twice"
    ROLL_UPS = "roll-ups by day = rows"
    BEYOND = "nothing in ClickHouse beyond the ledger"


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference: where, what was expected there, what was found."""

    check: Check
    subject: str
    expected: str
    found: str


@dataclass(slots=True)
class Result:
    """One check: how much it compared, the findings kept, and how many there were in all."""

    check: Check
    compared: int
    what: str
    findings: list[Finding] = field(default_factory=list)
    found: int = 0

    def add(self, findings: Iterable[Finding]) -> "Result":
        """Counts every finding; keeps the first FINDINGS_MAX, so that memory stays bounded."""
        for finding in findings:
            self.found += 1
            if self.found <= FINDINGS_MAX:
                self.findings.append(finding)
        return self


@dataclass(frozen=True, slots=True)
class Day:
    """One account's day on one side: rows, their sum, and the XOR of a hash of each."""

    account_id: str
    day: date
    rows: int
    sum_micro: int
    content: int

    @property
    def place(self) -> tuple[bytes, date]:
        """The order of both sides: bytewise by account, then by day."""
        return self.account_id.encode(), self.day

    def __str__(self) -> str:
        """The figures as a finding names them."""
        content = self.content & 0xFFFF_FFFF_FFFF_FFFF
        return f"{self.rows} rows, {self.sum_micro} micro-credits, hash {content:016x}"


def compare_day(check: Check, ledger: Day | None, copied: Day | None) -> Iterator[Finding]:
    """The finding for one account's day, if the sides differ; None: the side has no such day."""
    if ledger == copied:
        return
    either = ledger or copied
    if either is None:
        return
    subject = f"{either.account_id} on {either.day}"
    yield Finding(check, subject, str(ledger or "no rows"), str(copied or "no rows"))
