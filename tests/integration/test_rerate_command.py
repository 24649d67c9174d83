"""`tollgate rerate` as a person types it: what it prints, what it refuses, always in one line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.book_file import text_of
from adapters.price_store import read_document
from adapters.settings import Settings
from tests.batches import Desk, desk, usage
from tests.commands import report, run_tollgate
from tests.rerated import change_price
from tollgate.cli import build_app
from tollgate.output import print_json_rows

DOUBLE = {"currencies": {"USD": [{"credits": "2"}]}}
STRETCH = ("--from", "1d", "--to", "2999-01-01")


async def charged(bench: Desk) -> None:
    await bench.open()
    await bench.apply(usage("e1"), usage("e2"), usage("e3", "other", model="o3"))


async def test_a_what_if_under_a_file_and_under_a_version(
    settings: Settings, environment: dict[str, str], tmp_path: Path
) -> None:
    """The file names no catalog: it keeps that of the version in force, as when it is published."""
    async with desk(settings) as bench:
        await charged(bench)
        document = await read_document(bench.connection, 1)
        del document["catalog"]
        path = tmp_path / "dearer.yaml"
        path.write_text(text_of(document | DOUBLE))
        said = await run_tollgate(environment, "rerate", *STRETCH, "--book", str(path))
        assert said.returncode == 0, said.stderr
        assert "prices: file dearer.yaml" in said.stdout
        assert "3 events, 3 changed." in said.stdout
        assert "0.007500   0.015000     0.007500" in said.stdout
        assert "No balance was touched" in said.stdout
        same = await report(environment, "rerate", *STRETCH, "--book", "1", "--account", "other")
        assert (same["run"]["events"], same["run"]["difference_micro"]) == (1, 0)
        assert [group["account_id"] for group in same["groups"]] == ["other"]
        path.write_text(text_of(document | {"tiers": {"free": "a lot"}}))
        wrong = await run_tollgate(environment, "rerate", *STRETCH, "--book", str(path))
        assert wrong.returncode == 1
        assert "book.tiers.free" in wrong.stderr
        assert wrong.stderr.count("\n") == 1


async def test_apply_list_show_and_revert(settings: Settings, environment: dict[str, str]) -> None:
    async with desk(settings) as bench:
        await charged(bench)
        await change_price(bench, **DOUBLE)
        apply = ("--apply", "--reason", "the rate was wrong")
        applied = await run_tollgate(environment, "rerate", *STRETCH, *apply, "--limit", "1")
        assert applied.returncode == 0, applied.stderr
        assert "The 1 largest differences" in applied.stdout
        assert "`tollgate rerate revert 1` takes them back" in applied.stdout
        shown = await report(environment, "rerate", "show", "1")
        assert (
            sum(group["difference_micro"] for group in shown["groups"])
            == (shown["run"]["difference_micro"])
        )
        back = await run_tollgate(environment, "rerate", "revert", "1", "--reason", "it was right")
        assert "Run 2 takes back run 1" in back.stdout
        listed = await run_tollgate(environment, "rerate", "list")
        assert "taken back by 2" in listed.stdout
        assert "took back 1" in listed.stdout
        twice = await run_tollgate(environment, "rerate", "revert", "1", "--reason", "again")
        assert (twice.returncode, twice.stderr) == (
            1, "tollgate: run 1 was reverted by run 2 before\n",
        )  # fmt: skip


async def test_nothing_to_price_and_nobody_to_price_it_for(
    settings: Settings, environment: dict[str, str]
) -> None:
    async with desk(settings) as bench:
        await charged(bench)
    far = ("--from", "2999-01-01", "--to", "2999-01-02")
    said = await run_tollgate(environment, "rerate", *far)
    assert (said.returncode, said.stdout.count("\n")) == (0, 1)
    assert "nothing to price again" in said.stdout
    assert await report(environment, "rerate", *far) == {"run": None, "groups": []}
    for arguments, line in (
        ((*STRETCH, "--account", "nobody"), "there is no account nobody"),
        ((*STRETCH, "--book", "9"), "there is no price version 9: see `tollgate prices list`"),
        (("show", "9"), "there is no run 9: see `tollgate rerate list`"),
    ):
        failed = await run_tollgate(environment, "rerate", *arguments)
        assert (failed.returncode, failed.stderr) == (1, f"tollgate: {line}\n")
    away = {**environment, "TOLLGATE_CLICKHOUSE": "http://127.0.0.1:9"}
    silent = await run_tollgate(away, "rerate", *STRETCH)
    assert silent.returncode == 1
    assert silent.stderr.startswith("tollgate: ClickHouse does not answer, and a what-if writes")
    assert silent.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--from", "1d"), "give the stretch by --from and --to"),
        (("--from", "1d", "--to", "2d"), "--from is before --to"),
        ((*STRETCH, "--apply"), "--apply needs --reason"),
        ((*STRETCH, "--reason", "x"), "--reason goes with --apply"),
        ((*STRETCH, "--apply", "--reason", "a\nb"), "a reason is printable"),
        ((*STRETCH, "--apply", "--reason", "x", "--source", "topic"), "books from the ledger"),
        ((*STRETCH, "--apply", "--reason", "x", "--book", "a.yaml"), "a file is not booked"),
        ((*STRETCH, "--source", "memory"), "--source is ledger or topic"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_read(
    arguments: tuple[str, ...], complaint: str
) -> None:
    said = CliRunner().invoke(build_app(), ["rerate", *arguments])
    assert said.exit_code == 2
    assert complaint in " ".join(said.output.split())


def test_a_long_report_is_one_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json_rows({"run": {"a": 1}}, "groups", iter([{"n": 1}, {"n": 2}]))
    assert json.loads(capsys.readouterr().out) == {"run": {"a": 1}, "groups": [{"n": 1}, {"n": 2}]}
    print_json_rows({"run": None}, "groups", iter([]))
    assert json.loads(capsys.readouterr().out) == {"run": None, "groups": []}
