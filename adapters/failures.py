"""Failures that a person is told about in one line."""

from enum import StrEnum


class Failure(Exception):  # noqa: N818 - it is read by people: "Failure: port 19092 is taken"
    """Work cannot go on; the message is one clear line that says what to do about it.

    The command line prints it and exits with 1. Nothing catches it to go on.
    """


class HaltReason(StrEnum):
    """Why a stage refuses to go on; docs/operations.md has the way on for each."""

    EPOCH = "epoch"
    GAP = "gap"
    DEAD_LETTERS = "dead-letters"
    NO_PRICE_BOOK = "no-price-book"
    NOT_MIGRATED = "not-migrated"
    REFUSED = "refused"
    DEDUPLICATION_WINDOW = "deduplication-window"
    GENERATION = "generation"
    LEDGER_CHANGED = "ledger-changed"
    TRANSACTIONS_WENT_BACK = "transactions-went-back"


class Halt(Failure):
    """A stage refuses to go on, because going on could lose or double a charge."""

    def __init__(self, reason: HaltReason, message: str) -> None:
        super().__init__(f"halted ({reason}): {message}")
        self.reason = reason
