"""Good events, duplicates and every kind of bad record, mixed by seed, with their outcomes."""

import json
from datetime import datetime
from random import Random

from schemas.events import Reason
from tests.bad_rows import (
    ODD_BUT_GOOD,
    ROWS,
    Event,
    Record,
    good_event,
    record_of,
    to_bytes,
)

CONFLICT_ROW = "same id, other payload"
UNKNOWN_ACCOUNT_ROW = "unknown account"


def account_names(count: int) -> list[str]:
    """The accounts of `mixed_records`, for a run that creates them beforehand."""
    return [f"acct-{number:04d}" for number in range(count)]


def mixed_records(
    seed: int,
    count: int,
    bad_share: float = 0.1,
    *,
    now: datetime,
    accounts: int = 200,
    duplicate_share: float = 0.05,
    unknown_accounts: bool = False,
) -> list[Record]:
    """`count` records in the order in which to send them; the same seed and time, the same records.

    `expected` holds when all of them go through one rater, in the order of their keys, under the
    default book and time window, appended within minutes of `now`. Every row of the matrix comes
    up once in every 160 bad records. With `unknown_accounts`, some accounts are none of
    `account_names`, and the rater must be one that creates no accounts.
    """
    rng = Random(seed)
    names = account_names(accounts)
    rows = _Rounds(rng, [*ROWS, CONFLICT_ROW, *([UNKNOWN_ACCOUNT_ROW] * unknown_accounts)])
    odd = _Rounds(rng, list(ODD_BUT_GOOD))
    charged: list[Event] = []
    records: list[Record] = []
    for number in range(count):
        event = good_event(rng, number, rng.choice(names), now)
        draw = rng.random()
        if draw < bad_share:
            records.append(_bad(rng, rows.next(), event, charged))
        elif draw < bad_share + duplicate_share and charged:
            records.append(_duplicate(rng, rng.choice(charged)))
        elif rng.random() < 0.05:
            records.append(record_of(odd.next(), event))
        else:
            charged.append(event)
            records.append(_record(event, "charged", "plain"))
    return records


class _Rounds:
    """Names in a shuffled order, each once before any comes again."""

    def __init__(self, rng: Random, names: list[str]) -> None:
        self._rng = rng
        self._names = names
        self._left: list[str] = []

    def next(self) -> str:
        if not self._left:
            self._left = self._rng.sample(self._names, len(self._names))
        return self._left.pop()


def _record(event: Event, expected: str | Reason, row: str) -> Record:
    return Record(event["subject"].encode(), to_bytes(event), expected, row)


def _bad(rng: Random, row: str, event: Event, charged: list[Event]) -> Record:
    if row == UNKNOWN_ACCOUNT_ROW:
        stranger = event | {"subject": f"stranger-{rng.randint(0, 9)}"}
        return _record(stranger, Reason.UNKNOWN_ACCOUNT, row)
    if row != CONFLICT_ROW:
        return record_of(row, event)
    if not charged:
        return record_of("id missing", event)
    original = rng.choice(charged)
    tokens = original["data"]["tokens"] | {"output": original["data"]["tokens"]["output"] + 1}
    conflict = original | {"data": original["data"] | {"tokens": tokens}}
    return _record(conflict, Reason.DUP_MISMATCH, row)


def _duplicate(rng: Random, event: Event) -> Record:
    """The same event again: as it was, at another time, by another source, or spelt otherwise."""
    kind = rng.choice(["same bytes", "other time", "other source", "other spelling"])
    match kind:
        case "other time":
            moment = datetime.fromisoformat(event["time"]).replace(microsecond=1)
            event = event | {"time": moment.isoformat()}
        case "other source":
            event = event | {"source": "tests/retry"}
        case "other spelling":
            data = dict(reversed(event["data"].items())) | {"quantity": 1, "attributes": {}}
            event = {"retry": 1} | dict(reversed(event.items())) | {"data": data}
            spelt = json.dumps(event, indent=1).encode()
            return Record(event["subject"].encode(), spelt, "duplicate", f"duplicate, {kind}")
        case _:
            pass
    return _record(event, "duplicate", f"duplicate, {kind}")
