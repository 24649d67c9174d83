"""`tollgate prices` as a person uses it, against a real PostgreSQL."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.postgres import connect
from adapters.price_store import load_history
from adapters.settings import Settings
from core.prices import PriceHistory
from tests.commands import Done, report, run_tollgate

SOON = (datetime.now(UTC) + timedelta(days=2)).date().isoformat()
PAST = "2026-01-05"


@pytest.fixture
async def book(environment: dict[str, str], tmp_path: Path) -> Path:
    """The file that an operator starts from: the version in force, as YAML."""
    shown = await run_tollgate(environment, "prices", "show", "--yaml")
    assert shown.returncode == 0, shown.stderr
    path = tmp_path / "prices.yaml"
    path.write_text(shown.stdout, encoding="utf-8")
    return path


def _edit(path: Path, *edits: tuple[str, str]) -> Path:
    text = path.read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    return path


def _said(done: Done) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def _history(settings: Settings) -> PriceHistory:
    connection = await connect(settings, application_name="tests")
    try:
        return await load_history(connection)
    finally:
        await connection.close()


async def test_a_file_goes_from_show_to_published(
    environment: dict[str, str], settings: Settings, book: Path
) -> None:
    shown = await run_tollgate(environment, "prices", "show", "--yaml")
    assert "catalog" not in yaml.safe_load(shown.stdout)
    same = await run_tollgate(environment, "prices", "diff", str(book))
    assert _said(same) == ["nothing changes against version 1"]
    refused = await run_tollgate(environment, "prices", "publish", str(book))
    assert refused.returncode == 1
    assert "equals version 1" in refused.stderr

    _edit(book, ('free: "1.5"', 'free: "1.25"'), ('credits: "0.0005"', 'credits: "0.0004"'))
    expected = [
        "tier free: multiplier 1.5 -> 1.25 (-16.67 %)",
        "action scheduled_task: price 0.0005 -> 0.0004 credits each (-20 %)",
    ]
    said = _said(await run_tollgate(environment, "prices", "diff", str(book)))
    assert said[:2] == expected
    assert said[2].startswith("2 changes against version 1; catalog: genai-prices")
    arguments = ("prices", "publish", str(book), "--from", SOON)
    dry = _said(await run_tollgate(environment, *arguments, "--dry-run"))
    assert dry[-1] == "nothing was published: this was a dry run"
    assert (await _history(settings)).latest_version == 1
    done = _said(await run_tollgate(environment, *arguments))
    assert done[:2] == expected
    assert done[2].startswith(
        f"version 2 holds from {SOON} 00:00:00 UTC until another version begins; catalog:"
    )
    history = await _history(settings)
    assert history.latest_version == 2
    later = history.at(datetime.now(UTC) + timedelta(days=2))
    assert later is not None
    assert later.version == 2
    rule = later.model_rule("", "gpt-4o")
    assert rule is not None  # the catalog was kept
    against = _said(await run_tollgate(environment, "prices", "diff", str(book), "--against", "2"))
    assert against == ["nothing changes against version 2"]


async def test_the_past_needs_to_be_called_a_correction_and_ends_where_the_next_begins(
    environment: dict[str, str], settings: Settings, book: Path
) -> None:
    _edit(book, ('free: "1.5"', 'free: "1"'))
    await report(environment, "prices", "publish", str(book), "--from", SOON)
    connection = await connect(settings, application_name="tests")
    try:
        await _plant_charges(connection)
        before = await connection.fetch("SELECT * FROM charge ORDER BY event_id")
        _edit(book, ('pro: "1.0"', 'pro: "0.9"'))
        refused = await run_tollgate(environment, "prices", "publish", str(book), "--from", PAST)
        assert refused.returncode == 1
        assert "in the past" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        done = _said(
            await run_tollgate(
                environment, "prices", "publish", str(book), "--from", PAST, "--correction"
            )
        )
        assert await connection.fetch("SELECT * FROM charge ORDER BY event_id") == before
    finally:
        await connection.close()
    begin, end = f"{PAST} 00:00:00 UTC", f"{SOON} 00:00:00 UTC"
    assert done[-3].startswith(f"version 3 holds from {begin} until {end}; catalog:")
    assert done[-2] == "no charge was changed; in that time: 2 charges. What it would change:"
    assert done[-1] == f"  tollgate rerate --from {PAST}T00:00:00Z --to {SOON}T00:00:00Z"
    listed = await report(environment, "prices", "list")
    assert [(each["version"], each["until"][:10]) for each in listed if each["until"]] == [
        (1, PAST),
        (3, SOON),
    ]
    table = await run_tollgate(environment, "prices", "list")
    assert "another begins" in table.stdout


async def _plant_charges(connection: Any) -> None:
    """Charges on both sides of both ends of the stretch: two of the four lie in it."""
    columns = await connection.fetch(
        "SELECT column_name, data_type FROM information_schema.columns"
        " WHERE table_name = 'charge' AND is_nullable = 'NO' AND column_default IS NULL"
        " ORDER BY ordinal_position"
    )
    moments = ["2026-01-04T23:59:59Z", "2026-01-05T00:00:00Z", f"{SOON}T00:00:00Z"]
    moments.insert(2, datetime.now(UTC).isoformat())
    plain = {"text": "x", "boolean": False}
    for number, moment in enumerate(moments):
        row = {name: plain.get(kind, 1) for name, kind in columns}
        row |= {"event_id": f"e-{number}", "offset": number, "account_id": "acme"}
        row["occurred_at"] = datetime.fromisoformat(moment)
        names = ", ".join(f'"{name}"' for name in row)
        places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
        await connection.execute(
            f"INSERT INTO charge ({names}) VALUES ({places})",  # noqa: S608
            *row.values(),
        )


@pytest.mark.parametrize(
    ("edits", "complaint"),
    [
        ([('free: "1.5"', "free: 1.5")], "expected a decimal in quotes"),
        ([("tiers:", "tires:")], "book: "),
        ([('  pro: "1.0"', '  free: "1.0"')], "the key 'free' stands here twice"),
    ],
)
async def test_a_wrong_file_is_one_line_with_its_place_and_publishes_nothing(
    environment: dict[str, str],
    settings: Settings,
    book: Path,
    edits: list[tuple[str, str]],
    complaint: str,
) -> None:
    _edit(book, *edits)
    for command in ("validate", "diff", "publish"):
        done = await run_tollgate(environment, "prices", command, str(book))
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"tollgate: {book}:")
        assert complaint in line
    assert (await _history(settings)).latest_version == 1


async def test_validate_needs_no_server(book: Path, environment: dict[str, str]) -> None:
    nowhere = environment | {"TOLLGATE_POSTGRES": "postgresql://127.0.0.1:9/nothing"}
    (line,) = _said(await run_tollgate(nowhere, "prices", "validate", str(book)))
    assert line.startswith(f"{book} is a price book: 12 actions, 1 model of its own")


async def test_a_version_can_be_looked_at(environment: dict[str, str]) -> None:
    said = _said(await run_tollgate(environment, "prices", "show"))
    assert said[0].startswith("version 1 holds from 2020-01-01 00:00:00 UTC until another")
    assert "action scheduled_task: charge per_unit, price 0.0005 credits each" in said
    assert "currency CNY: rate 100 credits" in said
    assert "flat price: one credit 200 tokens" in said
    model = _said(await run_tollgate(environment, "prices", "show", "1", "--model", "gpt-4o"))
    assert model[0] == "gpt-4o is priced by model:openai/gpt-4o of version 1"
    assert any("input 2.5, output 10, cache_read 1.25 dollars a million" in line for line in model)
    unknown = await run_tollgate(environment, "prices", "show", "--model", "nobodys")
    assert "price version 1 does not know model nobodys" in unknown.stderr
    missing = await run_tollgate(environment, "prices", "show", "7")
    assert "there is no price version 7" in missing.stderr


async def test_an_import_of_what_is_there_says_so(environment: dict[str, str]) -> None:
    done = _said(await run_tollgate(environment, "prices", "import"))
    assert done[-1] == "the installed catalog is that of version 1: nothing to import"
    assert any("audio_hours" in line for line in done)
    answer = await report(environment, "prices", "import")
    assert (answer["version"], answer["changes"]) == (None, [])
    assert "openai/whisper-1" in answer["left_out"]["unpriced"]


async def test_an_import_keeps_what_is_retired_and_what_the_operator_says(
    environment: dict[str, str], settings: Settings, book: Path, tmp_path: Path
) -> None:
    whole = (await report(environment, "prices", "show"))["document"]
    openai = next(each for each in whole["catalog"]["providers"] if each["provider"] == "openai")
    listed = next(row for row in openai["models"] if row["model"] == "gpt-4o")
    listed["prices"][-1]["usd_per_mtok"]["output"] = "9"
    retired = {"model": "old-1", "match": {"equals": "old-1"}, "prices": listed["prices"]}
    openai["models"].append(retired)
    whole["catalog"]["source"] = "an older snapshot"
    whole["models"]["openai/o3"] = {"prices": [{"usd_per_mtok": {"input": "7", "output": "7"}}]}
    path = tmp_path / "older.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    published = await report(environment, "prices", "publish", str(path))
    assert published["version"] == 2

    start = ("--from", SOON)
    dry = _said(await run_tollgate(environment, "prices", "import", *start, "--dry-run"))
    assert (
        "openai/gpt-4o, from 2026-10-14: output 9 -> 10 dollars a million tokens (+11.11 %)" in dry
    )
    assert "kept, though the snapshot no longer has them: 1 model (openai/old-1)" in dry
    assert dry[-1].startswith("nothing was published")
    assert (await _history(settings)).latest_version == 2
    _said(await run_tollgate(environment, "prices", "import", *start))
    book_then = (await _history(settings)).at(datetime.now(UTC) + timedelta(days=2))
    assert book_then is not None
    assert book_then.version == 3
    old, own = book_then.model_rule("openai", "old-1"), book_then.model_rule("openai", "o3")
    assert old is not None
    assert old.name == "model:openai/old-1"
    assert own is not book_then.model_rule("openai", "gpt-4o")
    again = _said(await run_tollgate(environment, "prices", "import", *start))
    assert again[-1] == "the installed catalog is that of version 3: nothing to import"
