"""What the gate answers: values that can be kept as text and read again."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from core.holds import Denial, HoldState


@dataclass(frozen=True, slots=True)
class Denied:
    """No, and why; nothing was changed. `promisable_micro` is what a hold could have reserved."""

    denial: Denial
    promisable_micro: int = 0
    detail: str = ""
    outcome: Literal["denied"] = "denied"


@dataclass(frozen=True, slots=True)
class Held:
    """Credits are reserved until the hold is settled, released, or expires."""

    hold_id: str
    account_id: str
    kind: str
    amount_micro: int
    available_micro: int
    created_at: datetime
    expires_at: datetime
    outcome: Literal["held"] = "held"


@dataclass(frozen=True, slots=True)
class Closed:
    """A hold has ended: what was reserved is free again, what was charged is booked."""

    hold_id: str
    account_id: str
    state: HoldState
    reserved_micro: int
    charged_micro: int
    balance_micro: int
    transaction_id: int | None
    outcome: Literal["closed"] = "closed"


@dataclass(frozen=True, slots=True)
class Deducted:
    """A charge was booked at once."""

    account_id: str
    amount_micro: int
    balance_micro: int
    transaction_id: int | None
    outcome: Literal["deducted"] = "deducted"


Outcome: TypeAlias = Denied | Held | Closed | Deducted
_ADAPTER: TypeAdapter[Outcome] = TypeAdapter(Annotated[Outcome, Field(discriminator="outcome")])


def said(outcome: Held | Closed | Deducted) -> dict[str, Any]:
    """What changed, for the audit log."""
    return {name: value for name, value in asdict(outcome).items() if name != "account_id"}


def to_text(outcome: Outcome) -> str:
    """The outcome as JSON; `from_text` gives an equal one."""
    return _ADAPTER.dump_json(outcome).decode()


def from_text(text: str) -> Outcome:
    """The outcome that was kept. Raises pydantic.ValidationError for any other text."""
    return _ADAPTER.validate_json(text)
