"""What a log line holds, and what it must never hold."""

import json
import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from adapters.logs import configure_logs, redact, redact_text
from adapters.settings import Settings


class Lines:
    """What was written to stderr so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._written = ""

    def getvalue(self) -> str:
        self._written += self._capsys.readouterr().err
        return self._written


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    return Lines(capsys)


def test_a_line_is_json_with_stage_level_and_time(lines: Lines) -> None:
    configure_logs(Settings(log_format="json"), stage="rater")
    structlog.get_logger().warning("batch done", records=12)
    entry = json.loads(lines.getvalue())
    assert entry["stage"] == "rater"
    assert entry["level"] == "warning"
    assert entry["records"] == 12
    assert entry["time"].endswith("Z")


def test_libraries_end_in_the_same_lines(lines: Lines) -> None:
    configure_logs(Settings(log_format="json"), stage="rater")
    logging.getLogger("some.library").warning("connected to postgresql://u:%s@h/d", "hidden")
    entry = json.loads(lines.getvalue())
    assert entry["stage"] == "rater"
    assert "hidden" not in lines.getvalue()
    assert "postgresql://u:" in entry["event"]


def test_an_exception_keeps_no_password(lines: Lines) -> None:
    configure_logs(Settings(log_format="json"), stage="rater")
    error = OSError("no route to postgresql://tollgate:hidden@host:5432/db")
    structlog.get_logger().error("stopped", exc_info=error)
    assert "hidden" not in lines.getvalue()
    assert "no route to postgresql://tollgate:" in json.loads(lines.getvalue())["exception"]


@pytest.mark.parametrize("shape", ["json", "console"])
def test_a_record_cannot_forge_a_second_line(lines: Lines, shape: str) -> None:
    configure_logs(Settings(log_format=shape), stage="rater")  # type: ignore[arg-type]
    structlog.get_logger().info("seen", account="x\r\n2026 level=error forged", model="\x1b[2J")
    written = lines.getvalue()
    assert written.count("\n") == 1
    assert "\r" not in written
    assert "\x1b[2J" not in written


def test_less_severe_lines_than_wanted_are_left_out(lines: Lines) -> None:
    configure_logs(Settings(log_format="json", log_level="warning"), stage="rater")
    structlog.get_logger().info("chatter")
    logging.getLogger("x").info("chatter")
    assert lines.getvalue() == ""


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:hidden@host:5432/db",
        "http://default:hidden@ch:8123",
        "postgresql://user:hid@hidden@host/db",
        "Authorization: Bearer hidden.hidden.hidden",
        "password=hidden user=me",
        "key sk-hiddenhidden123 was used",
    ],
)
def test_secrets_in_text_are_taken_out(text: str) -> None:
    assert "hidden" not in redact_text(text)


def test_fields_that_hold_records_are_taken_out_whole() -> None:
    entry = redact(None, "", {"payload": b"x", "key": "acme", "inner": {"Password": "p"}, "n": 1})
    assert entry == {
        "payload": "[redacted]",
        "key": "[redacted]",
        "inner": {"Password": "[redacted]"},
        "n": 1,
    }


def test_raw_bytes_and_long_text_are_not_logged() -> None:
    entry = redact(None, "", {"record": b"secret prompt", "text": "x" * 50_000})
    assert entry["record"] == "<13 bytes>"
    assert len(entry["text"]) < 2_100


@given(st.text(max_size=3_000))
def test_redacting_never_fails_and_is_stable(text: str) -> None:
    once = redact_text(text)
    if len(text) <= 2_000:
        assert redact_text(once) == once
