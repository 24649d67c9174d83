"""The analyst's questions run on a real copy; docs/querying.md shows what they really answer."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adapters import clickhouse
from adapters.clickhouse import statements
from adapters.queries import load
from adapters.settings import Settings
from tests.planted_corrections import Corrections, plant_corrections
from tests.planted_ledger import Batch, plant, run_sql
from tests.shipping import ask, bench

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "querying.md"
QUESTIONS = load("analysts", "clickhouse")
DAYS = ["--since", "2026-10-20", "--until", "2026-11-20"]

# A month of six accounts (one of them demo), four models and two kinds of work, one charge far out.
DRESS = """
UPDATE charge SET
    provider = (ARRAY['openai', 'anthropic', 'google', ''])[1 + "offset" % 4],
    model = (ARRAY['gpt-4o', 'claude-sonnet-4', 'gemini-2.5-flash', ''])[1 + "offset" % 4],
    action = CASE "offset" % 4 WHEN 3 THEN 'workflow_execution' ELSE 'ai_completion' END
"""
FAR_OUT = """
UPDATE charge SET rated_micro = 900000, amount_micro = 900000 WHERE event_id = 'event-606'
"""


@pytest.fixture
async def month(settings: Settings) -> Settings:
    batch = Batch(1_200, accounts=6, occurred_from="2026-10-20 00:10+00", step="37 minutes")
    await plant(settings, batch)
    await run_sql(settings, DRESS, FAR_OUT)
    await plant_corrections(settings, Corrections("void", 101))  # the one far out among them
    await plant_corrections(settings, Corrections("rerate", 6, 1))
    await run_sql(
        settings,
        "UPDATE credit_transaction SET created_at = '2026-10-20 00:05+00', reason = ''",
        "UPDATE charge_correction SET actor = 'alice', reason = 'a loop, twice charged'"
        " WHERE kind = 'void'",
        "UPDATE charge_correction SET actor = 'bob', reason = 'price list of October'"
        " WHERE kind = 'rerate'",
    )
    async with bench(settings) as at:
        await at.drain_with_credits()
    return settings


def run_query(environment: dict[str, str], *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tollgate.cli", "query", *options],
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def shown(answer: str, rows_max: int = 8) -> str:
    """An answer as the page shows it: the first rows, and how many more there are."""
    lines = answer.rstrip().splitlines()
    hidden = len(lines) - 4 - rows_max
    if hidden > 0:
        lines = [*lines[: rows_max + 3], f"  ... {hidden + 1} more rows"]
    return "\n".join(line.rstrip() for line in lines)


def sections() -> dict[str, tuple[str, str]]:
    """By the question's name: its statement and its answer, as the page has them."""
    pattern = re.compile(
        r"tollgate query --saved (\w+)\n```\n+```sql\n(.*?)\n```\n+```text\n(.*?)\n```", re.DOTALL
    )
    return {name: (sql, answer) for name, sql, answer in pattern.findall(DOC.read_text())}


async def test_the_page_shows_what_the_questions_answer(
    month: Settings, environment: dict[str, str]
) -> None:
    page = sections()
    assert list(page) == QUESTIONS.names()
    for name, (sql, answer) in page.items():
        statement: str = getattr(QUESTIONS, name)
        assert sql == "\n".join(line for line in statement.splitlines() if line[:2] != "--")
        found = run_query(environment, "--saved", name, *DAYS)
        assert found.returncode == 0, found.stderr
        assert answer == shown(found.stdout), name


async def test_answers_for_programs(month: Settings, environment: dict[str, str]) -> None:
    sql = "SELECT account_id, sum(credits) AS credits FROM usage GROUP BY 1 ORDER BY 1 LIMIT 1"
    [row] = json.loads(run_query(environment, "--json", sql).stdout)
    [(micro,)] = ask(
        month, "SELECT sum(toInt128(amount_micro)) FROM charge WHERE account_id = 'account 0'"
    )
    assert row == {"account_id": "account 0", "credits": f"{micro // 10**6}.{micro % 10**6:06}"}
    csv = run_query(environment, "--csv", sql).stdout.splitlines()
    assert csv == ['"account_id","credits"', f'"account 0",{row["credits"]}']


async def test_a_query_changes_nothing(month: Settings, environment: dict[str, str]) -> None:
    for statement in ("TRUNCATE TABLE charge", "DROP TABLE charge", "INSERT INTO charge SELECT 1"):
        refused = run_query(environment, statement)
        assert refused.returncode == 1, refused.stdout
        assert refused.stderr.count("\n") == 1
    assert ask(month, "SELECT count() FROM charge") == [(1_200,)]


async def test_wrong_usage_is_one_line(settings: Settings, environment: dict[str, str]) -> None:
    both = ["SELECT 1", "--json", "--csv"]
    for options in ([], ["--saved", "nope"], both, ["--saved", "days", "--since", "x"]):
        wrong = run_query(environment, *options)
        assert wrong.returncode == 2
        assert wrong.stderr.count("\n") == 1
    unknown = run_query(environment, "SELECT nope FROM usage")
    assert unknown.returncode == 1
    assert "nope" in unknown.stderr


async def test_the_views_say_credits(month: Settings) -> None:
    [(base, view, by_day)] = ask(
        month,
        "SELECT (SELECT sum(toInt128(amount_micro)) FROM charge FINAL),"
        " (SELECT sum(credits) * 1000000 FROM usage),"
        " (SELECT sum(credits) * 1000000 FROM usage_by_day)",
    )
    assert base == view == by_day
    assert ask(month, "SELECT DISTINCT account_id FROM usage WHERE demo") == [("account 4",)]
    demo = "SELECT sum(credits), sum(list_credits) > 0 FROM usage WHERE demo"
    assert ask(month, demo) == [(0, True)]


async def test_the_schema_to_read_is_what_the_migrations_make(settings: Settings) -> None:
    database = settings.clickhouse_database
    text = (ROOT / "sql" / "clickhouse" / "schema.sql").read_text(encoding="utf-8")
    listed = (
        "SELECT name, replaceAll(create_table_query, currentDatabase(), 'db') FROM system.tables"
        " WHERE database = currentDatabase() AND name != 'schema_migration' ORDER BY name"
    )
    migrated = ask(settings, listed)
    with clickhouse.connect(settings, database="default") as client:
        client.command(f"CREATE DATABASE `{database}_read`")
    read = settings.model_copy(update={"clickhouse_database": f"{database}_read"})
    with clickhouse.connect(read) as client:
        for statement in statements(text):
            client.command(statement)
        assert ask(read, listed) == migrated
        client.command(f"DROP DATABASE `{database}_read` SYNC")
    assert clickhouse.migrate(settings) == []
