"""What accounts, events and holds may be called: the one place that says so.

No name holds a slash, a percent sign, a space or a control character, so none changes the path of a
URL, the line of a log, or a column of CSV.
"""

import re
from typing import Annotated, Final, TypeGuard

from pydantic import Field

IDENTIFIER_PATTERN: Final = r"^[A-Za-z0-9_.:-]{1,128}$"
# With the two marks of e-mail addresses, but not in front: a spreadsheet takes +1 for a formula.
ACCOUNT_ID_PATTERN: Final = r"^[A-Za-z0-9_.:-][A-Za-z0-9_.:@+-]{0,127}$"

# Ids of events that a user published: no service's id begins so (docs/decisions, 0066).
USER_EVENT_PREFIX: Final = "user:"

_IDENTIFIER = re.compile(IDENTIFIER_PATTERN)
_ACCOUNT_ID = re.compile(ACCOUNT_ID_PATTERN)

Identifier = Annotated[str, Field(max_length=128, pattern=IDENTIFIER_PATTERN)]
AccountId = Annotated[str, Field(max_length=128, pattern=ACCOUNT_ID_PATTERN)]


def is_identifier(said: object) -> TypeGuard[str]:
    """Whether it can be the id of an event, a hold or a session."""
    return isinstance(said, str) and _IDENTIFIER.fullmatch(said) is not None


def is_account_id(said: object) -> TypeGuard[str]:
    """Whether it can be the id of an account. An account is a Kafka key and a part of paths."""
    return isinstance(said, str) and _ACCOUNT_ID.fullmatch(said) is not None
