"""S17: an address or a secret that can not be read is named, and never repeated."""

from pathlib import Path

import pytest

from adapters.failures import Failure
from adapters.reach import address
from adapters.settings import Settings, load_settings

PLACE = "127.0.0.1:9"


@pytest.mark.parametrize(
    "password", ["Hunter2#x", "Hunter2/x", "Hunter2?x", "12#Hunter2", "12/Hunter2", "12?Hunter2",
                 "12?a=Hunter2", "[Hunter2", "Hunter2]x", "a/Hunter2@b", "a%Hunter2#"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("variable", "address"),
    [("POSTGRES", "postgresql://tollgate:{}@{}/tollgate"), ("CLICKHOUSE", "http://tollgate:{}@{}")],
)
def test_a_password_that_breaks_an_address_is_not_repeated(
    variable: str, address: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TOLLGATE_{variable}", address.format(password, PLACE))
    with pytest.raises(Failure, match=f"^TOLLGATE_{variable}: .*percent-encode") as failed:
        load_settings()
    assert "Hunter2" not in str(failed.value)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("POSTGRES", "host=example.com password=Hunter2"),
        ("POSTGRES", "Hunter2"),
        ("POSTGRES", "mysql://tollgate:Hunter2@example.com/tollgate"),
        ("POSTGRES", "postgresql://example.com/tollgate?Hunter2"),
        ("POSTGRES", "postgresql://tollgate:Hunter2@x@example.com/tollgate"),
        ("POSTGRES", "postgresql://example.com:99999/tollgate?password=Hunter2"),
        ("POSTGRES", "postgresql://example.com:x/tollgate?password=Hunter2"),
        ("POSTGRES", "postgresql:// example.com/tollgate?password=Hunter2"),
        ("CLICKHOUSE", "example.com:Hunter2"),
        ("CLICKHOUSE", "https://:8443/?password=Hunter2"),
        ("CLICKHOUSE", "clickhouse://tollgate:Hunter2@example.com"),
    ],
)
def test_what_is_no_address_is_named(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TOLLGATE_{variable}", value)
    with pytest.raises(Failure, match=f"^TOLLGATE_{variable}: is no address") as failed:
        load_settings()
    assert "Hunter2" not in str(failed.value)
    with pytest.raises(ValueError, match="is no address") as raised:
        Settings()
    assert "Hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("POSTGRES", "postgresql://u:p%23%2F%40@example.com/a", "example.com:5432/a"),
        ("POSTGRES", "postgres://u:a:b@db:6543/a?sslmode=require", "db:6543/a"),
        ("POSTGRES", "postgresql://u@one:1,two:2/a", "one:1,two:2/a"),
        ("POSTGRES", "postgresql://u@[::1]:5432/a", "[::1]:5432/a"),
        ("POSTGRES", "postgresql:///a?host=/var/run/postgresql", "local socket:5432/a"),
        ("POSTGRES", "postgresql://u:p@%2Fvar%2Frun/a", "%2Fvar%2Frun:5432/a"),
        ("POSTGRES", "", "local socket:5432"),
        ("CLICKHOUSE", "https://u:p%40ss@example.com:8443/", ""),
        ("CLICKHOUSE", "http://[::1]:8123", ""),
        ("CLICKHOUSE", "http://u:p@ss@example.com:8123", ""),
        ("CLICKHOUSE", "", ""),
    ],
)
def test_what_is_an_address_is_taken_as_it_is(
    variable: str, value: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TOLLGATE_{variable}", value)
    settings = load_settings()
    assert getattr(settings, variable.lower()).get_secret_value() == value
    assert address(settings).endswith(shown)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PROVIDER_KEY_SECRETS", "kE6vQyQJ5Hunter2lXl1hC3sWc0v3Y7o2vB6h9qT2dM=", "a JSON list"),
        ("PROVIDER_KEY_SECRETS", "['Hunter2']", "a JSON list"),
        ("PROVIDER_KEY_SECRETS", '"Hunter2"', ".*list"),
        ("REFRESH_TIER_MICRO", "free=Hunter2", "a JSON object"),
        ("TIER_LIMITS", "{Hunter2}", "a JSON object"),
    ],
)
@pytest.mark.parametrize("by_file", [False, True])
def test_a_setting_that_is_json_says_so(
    name: str, value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    *, by_file: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("TOLLGATE_HOME", str(tmp_path))
    if by_file:
        (tmp_path / "stack.env").write_text(f"TOLLGATE_{name}={value}\n")
    else:
        monkeypatch.setenv(f"TOLLGATE_{name}", value)
    with pytest.raises(Failure, match=f"^TOLLGATE_{name}: .*{said}") as failed:
        load_settings()
    assert "Hunter2" not in str(failed.value)
    assert "\n" not in str(failed.value)
