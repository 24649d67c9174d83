"""Net usage: each event as its latest correction leaves it, and the same sums from roll-ups."""

import pytest

from adapters import clickhouse
from adapters.clickhouse import insert_csv
from adapters.settings import Settings
from tests.planted_corrections import Corrections, plant_corrections, plant_every_kind
from tests.planted_ledger import Batch, plant
from tests.shipping import ask, assert_net_is_one_figure, bench

ONE = (
    "SELECT corrections, model, input_tokens, credits * 1000000 FROM {view} WHERE event_id = '{id}'"
)


@pytest.fixture
async def corrected(settings: Settings) -> Settings:
    """400 charges over two months, 340 corrections of them."""
    await plant(settings, Batch(400, occurred_from="2026-10-31 22:00+00", step="30 minutes"))
    await plant_every_kind(settings)
    async with bench(settings) as at:
        await at.drain_with_credits()
    return settings


def priced_micro(number: int) -> int:
    """What a planted event was charged."""
    return 1 + number * 7919 % 5000


async def test_an_event_is_what_its_latest_correction_says(corrected: Settings) -> None:
    def one(event_id: str) -> list[tuple[object, ...]]:
        return ask(corrected, ONE.format(view="net_usage", id=event_id))

    assert one("event-11") == []
    assert one("event-5") == [(0, "o3", 5, priced_micro(5))]
    assert one("event-7") == [(1, 'amended, "model"', 107, priced_micro(7) // 2)]
    assert one("event-12") == [(2, 'amended, "model"', 112, priced_micro(12) * 2 + 7)]
    assert one("event-2") == []


async def test_usage_stays_as_it_was_charged(corrected: Settings) -> None:
    [(events, micro)] = ask(corrected, "SELECT count(), sum(credits) * 1000000 FROM usage")
    assert events == 400
    assert micro == sum(priced_micro(n) for n in range(400) if n % 5 != 4)


async def test_both_views_say_the_same(corrected: Settings) -> None:
    """Also after a correction that brings voided events back, and with everything voided."""
    assert_net_is_one_figure(corrected)
    [(events,)] = ask(corrected, "SELECT sum(events) FROM net_usage_by_day")
    assert events == 400 - 40 - 20
    for planned in (Corrections("rerate", 10, 1, run_id=2), Corrections("void", 1)):
        await plant_corrections(corrected, planned)
        async with bench(corrected) as at:
            await at.drain_with_credits()
        assert_net_is_one_figure(corrected)
    assert ask(corrected, "SELECT count() FROM net_usage") == [(0,)]
    assert ask(corrected, "SELECT count() FROM net_usage_by_day") == [(0,)]


async def test_the_corrections_add_up_to_what_changed(corrected: Settings) -> None:
    [(changed, net, charged)] = ask(
        corrected,
        "SELECT (SELECT sum(credits_change) FROM corrections),"
        " (SELECT sum(credits) FROM net_usage), (SELECT sum(credits) FROM usage)",
    )
    assert charged + changed == net  # type: ignore[operator]


def tables_read(settings: Settings, sql: str) -> str:
    return "\n".join(str(row[0]) for row in ask(settings, f"EXPLAIN indexes = 1 {sql}"))


async def test_days_are_read_from_the_roll_ups_alone(corrected: Settings) -> None:
    plan = tables_read(
        corrected, "SELECT sum(credits) FROM net_usage_by_day WHERE day = '2026-11-02'"
    )
    database = corrected.clickhouse_database
    assert f"{database}.charge_by_day" in plan
    assert f"{database}.charge_correction_by_day" in plan
    assert f"{database}.charge)" not in plan
    assert plan.count("PrimaryKey") == plan.count("(day in [") // 2 == 2


async def test_one_account_is_found_by_its_key(corrected: Settings) -> None:
    plan = tables_read(
        corrected, "SELECT sum(credits) FROM net_usage WHERE account_id = 'account 1'"
    )
    assert plan.count("account_id in ['account 1', 'account 1']") >= 2


LINES = b"".join(
    b'7,"a, 1",event-%d,2026-11-02 10:00:00.000001,openai,gpt-4o,ai_completion,1,2,10,%d,dearer\n'
    % (n, 10 + n)
    for n in range(100)
)
COLUMNS = [
    "run_id", "account_id", "event_id", "occurred_at", "provider", "model", "action",
    "old_version", "new_version", "old_micro", "new_micro", "verdict",
]  # fmt: skip


async def test_lines_of_a_rerate_sent_twice_are_there_once(settings: Settings) -> None:
    name = "rerate:7:1"
    for _ in range(2):
        with clickhouse.connect(settings) as client:
            insert_csv(client, table="rerate_line", columns=COLUMNS, data=LINES, token=name)
    assert ask(settings, "SELECT count(), sum(new_micro) FROM rerate_line") == [(100, 5_950)]
    assert ask(settings, "SELECT sum(difference) * 1000000 FROM rerates WHERE run_id = 7") == [
        (4_950,)
    ]
