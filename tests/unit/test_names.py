"""What accounts, events and holds may be called, and that one place says so."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from adapters.accounts import check_account_id
from adapters.failures import Failure
from adapters.settings import Settings
from api.app import create_app
from schemas.names import ACCOUNT_ID_PATTERN, is_account_id, is_identifier

ROOT = Path(__file__).parents[2]
ACCOUNTS = ["a", "acme", "test@example.com", "jo+test@example.com", "a" * 128, "a@", "_.:-@+"]
HOSTILE = [
    "", "a" * 129, "@sum", "+1+1", "a b@example.com", "a/b", "a%2fb", "../x@y", "a\\b", "a\n",
    "a\tb", "a\x00", "a\x1b[31m", "a\u202eb", "é@example.com", "a,b", "a;b", 'a"b', "a'b", "=1",
    "a\r\nX: y",
]  # fmt: skip


@pytest.mark.parametrize("name", ACCOUNTS)
def test_an_account_may_be_called_so(name: str) -> None:
    assert is_account_id(name)
    check_account_id(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_called_so_that_changes_a_path_a_log_or_a_column(name: str) -> None:
    assert not is_account_id(name)
    assert not is_identifier(name)
    with pytest.raises(Failure, match="no account id"):
        check_account_id(name)


def test_events_and_holds_are_called_as_before() -> None:
    assert is_identifier("01JD3X7Q9V8M2K4T6W5Z0Y1N3B")
    assert not is_identifier("test@example.com")


def test_the_patterns_are_written_down_once() -> None:
    written = [
        path.relative_to(ROOT).as_posix()
        for folder in ("schemas", "core", "adapters", "api", "consumers", "producers", "tollgate")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\[A-Za-z0-9_\.:(@\+)?-\]\{[01],12[78]\}", path.read_text(encoding="utf-8"))
    ]
    assert written == ["schemas/names.py"]


def test_every_path_of_an_account_takes_what_an_account_may_be_called() -> None:
    app = create_app(Settings(jwt_secret=SecretStr("s" * 32), local_login=True))
    paths = app.openapi()["paths"]
    patterns = {
        (path, each["schema"].get("pattern"))
        for path, methods in paths.items()
        for operation in methods.values()
        for each in operation.get("parameters", ())
        if each["name"] in {"account_id", "userId", "user_id", "subject"}
        if each["in"] == "path"
    }
    assert len(patterns) > 20
    assert {pattern for _, pattern in patterns} == {ACCOUNT_ID_PATTERN}
