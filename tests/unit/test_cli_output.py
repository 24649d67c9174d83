"""Amounts, times and text as people read and type them."""

from datetime import UTC, datetime, timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from tollgate.arguments import parse_credits, parse_time
from tollgate.output import credits_text, one_line, print_table, progress


@given(st.integers(min_value=0, max_value=10**17))
def test_an_amount_that_is_printed_can_be_typed(amount_micro: int) -> None:
    assert parse_credits(credits_text(amount_micro)) == amount_micro


@pytest.mark.parametrize(
    ("amount_micro", "text"),
    [(0, "0.000000"), (1, "0.000001"), (-1, "-0.000001"), (-1_234_567_890, "-1,234.567890")],
)
def test_amounts_are_exact(amount_micro: int, text: str) -> None:
    assert credits_text(amount_micro) == text


@pytest.mark.parametrize(
    ("text", "micro"),
    [("2,500", 2_500_000_000), ("1,234,567.000001", 1_234_567_000_001), (" 25 ", 25_000_000)],
)
def test_a_comma_stands_before_thousands(text: str, micro: int) -> None:
    assert parse_credits(text) == micro


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1e3", "1.2345678", "nan", "٣", "1.", ".5", "1 000", "2,5", "2,50", "1,0000",
     "1234,567", ",500", "1,,000", "1,000,00", "0.003,750", "0,500", "0,003", "00,500", "0,5"],
)  # fmt: skip
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_credits(text)


def test_whoever_types_a_comma_for_a_point_is_told_so() -> None:
    with pytest.raises(typer.BadParameter, match="a point"):
        parse_credits("2,5")


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert parse_time("2026-11-21") == datetime(2026, 11, 21, tzinfo=UTC)
    assert parse_time("2026-11-21T09:00:00+02:00") == datetime(2026, 11, 21, 7, tzinfo=UTC)
    two_hours_ago = datetime.now(UTC) - timedelta(hours=2)
    assert abs(parse_time("2h") - two_hours_ago) < timedelta(seconds=5)
    with pytest.raises(typer.BadParameter):
        parse_time("soon")


@given(st.text())
def test_text_from_outside_cannot_write_to_a_terminal(text: str) -> None:
    assert one_line(text).isprintable()


def test_a_table_keeps_control_characters_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "text"), [(1234567, "red \x1b[31m [bold]not markup[/]\r\n")])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "1,234,567" in shown
    assert "[bold]not markup[/]" in shown


def test_progress_is_silent_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 3) as steps:
        steps.advance(3)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
