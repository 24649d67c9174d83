"""Usage events out of rows: identity by file and row, accounts and models by seed, times moved."""

import dataclasses
import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import TypeAdapter

from producers.load_shapes import MODELS, pick, zipf_picks
from producers.normalise.outcome import Refused as Unknown
from producers.normalise.recorded import normalise_recorded
from producers.provider_tracking import details_of
from producers.trace_rows import FIELDS, Row
from producers.tracking import build_event, split_parts
from schemas.events import TokenCounts, UsageEvent

_OF_A_CALL: Final = frozenset(
    {"action", "power_level", "hold_id", "resource_id", "own_key", "attributes"}
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_validate_json = TypeAdapter(UsageEvent).validator.validate_json


@dataclass(frozen=True, slots=True)
class Attribution:
    """Who and what a row is about where the file does not say it; the same seed, the same answer.

    `accounts` and `models` of 0 attribute nothing: such rows are refused, or unpriced later.
    `model` replaces the model of every row that has tokens; `renamed` replaces by name. Both name
    a model as provider/model. `hosts` names the provider behind a host, for recorded calls.
    """

    seed: int
    accounts: int = 0
    models: int = 0
    model: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that is no usage event, and why."""

    number: int
    problem: str


def time_of(row: Row) -> datetime | None:
    """When the row happened; None when it does not say. Without a zone it is UTC.

    Raises ValueError for a time that is none. Seconds since the beginning of a trace count from
    1970: such times make sense only when they are moved.
    """
    fields = row.fields
    if "cloudevent" in fields:
        return _cloud_event(row).time
    if "seconds" in fields:
        return _EPOCH + timedelta(seconds=float(fields["seconds"]))
    if "time" not in fields:
        return None
    moment = datetime.fromisoformat(str(fields["time"]))
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def time_range(rows: Iterable[Row]) -> tuple[datetime, datetime] | None:
    """The first and the last time of the rows that have one."""
    first: datetime | None = None
    last: datetime | None = None
    for row in rows:
        try:
            moment = time_of(row)
        except (ValueError, OverflowError):
            continue
        if moment is not None:
            first = moment if first is None or moment < first else first
            last = moment if last is None or moment > last else last
    return (first, last) if first is not None and last is not None else None


class EventMaker:
    """Makes the events of one file: the same file, name and options give the same identities."""

    def __init__(
        self, name: str, attribution: Attribution, *, shift: timedelta, now: datetime
    ) -> None:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        self._prefix = f"file-{digest}"
        self._attribution = attribution
        self._shift = shift
        self._now = now
        self._rng = random.Random(attribution.seed)  # noqa: S311 - repeatable, not secret
        self._account_shares = zipf_picks(max(1, attribution.accounts))
        self._model_shares = zipf_picks(max(1, attribution.models))

    def events(self, rows: Iterable[Row]) -> Iterator[UsageEvent | Refused]:
        """One answer per row, in order; a recorded call that bills several lines has several."""
        for row in rows:
            # Drawn for every row, so that one refused row does not move all that follow.
            luck = self._rng.random(), self._rng.random()
            if row.problem:
                yield Refused(row.number, row.problem)
                continue
            try:
                if "recorded" in row.fields:
                    yield from self._recorded(row, luck)
                else:
                    yield self._event(row, luck)
            except (ValueError, TypeError, OverflowError) as error:
                yield Refused(row.number, _short(error))

    def _event(self, row: Row, luck: tuple[float, float]) -> UsageEvent:
        moment = time_of(row)
        occurred_at = self._now if moment is None else moment + self._shift
        if "cloudevent" in row.fields:
            return dataclasses.replace(_cloud_event(row), time=occurred_at)
        fields: dict[str, Any] = {
            name: value
            for name, value in row.fields.items()
            if name in FIELDS or name == "attributes"
        }
        if not fields:
            raise ValueError("none of its fields is of usage; name them with --map")
        for name in ("time", "seconds"):
            fields.pop(name, None)
        account_id = fields.pop("account_id", None) or self._account(luck[0])
        event_id = fields.pop("event_id", None) or f"{self._prefix}-{row.number}"
        totals = {kind: fields.pop(f"{kind}_tokens", 0) for kind in ("input", "output")}
        parts: dict[str, Any] = split_parts(fields)
        if any(totals.values()):
            fields |= self._model(fields, luck[1])
        fields["tokens"] = TokenCounts(**totals, **parts)
        fields["occurred_at"] = occurred_at
        action = fields.pop("action", "ai_completion")
        return build_event("tollgate/publish", account_id, event_id, action, fields)

    def _recorded(self, row: Row, luck: tuple[float, float]) -> Iterator[UsageEvent | Refused]:
        call, host = row.fields["recorded"], str(row.fields["recorded"].get("host", ""))
        found = normalise_recorded(call, self._attribution.hosts.get(host, ""))
        if isinstance(found, Unknown):
            yield Refused(row.number, f"{found.reason}: {found.detail}")
            return
        moment = time_of(row)
        given: Any = {name: value for name, value in row.fields.items() if name in _OF_A_CALL}
        given["occurred_at"] = self._now if moment is None else moment + self._shift
        account_id = row.fields.get("account_id") or self._account(luck[0])
        event_id = row.fields.get("event_id") or f"{self._prefix}-{row.number}"
        # Made before the first is given out: a row is published as a whole or refused.
        events = []
        for line in found.lines:
            action, details = details_of(line, given, event_id)
            named = self._model({"model": line.model}, luck[1]) if line.model else {}
            events.append(
                build_event(
                    "tollgate/publish",
                    account_id,
                    f"{event_id}{line.suffix}",
                    action,
                    {**details, **named},
                )
            )
        yield from events

    def _account(self, luck: float) -> str:
        if not self._attribution.accounts:
            raise ValueError("no account; name its column with --map, or attribute with --accounts")
        return f"acct-{pick(self._account_shares, luck) + 1:05d}"

    def _model(self, fields: Mapping[str, Any], luck: float) -> dict[str, str]:
        wanted, known = self._attribution, str(fields.get("model", ""))
        if wanted.model or known in wanted.renamed:
            first, slash, rest = (wanted.model or wanted.renamed[known]).partition("/")
            return {"provider": first, "model": rest} if slash else {"model": first}
        if known or not wanted.models:
            return {}
        chosen = MODELS[pick(self._model_shares, luck)]
        return {"provider": chosen.provider, "model": chosen.name}


def _cloud_event(row: Row) -> UsageEvent:
    event: UsageEvent = _validate_json(row.fields["cloudevent"])
    return event


def _short(error: Exception) -> str:
    """What is wrong, in one line; pydantic's report has one problem on two lines."""
    lines = [line.strip() for line in str(error).splitlines() if "For further" not in line]
    return " ".join(lines[1:3] or lines)[:200]
