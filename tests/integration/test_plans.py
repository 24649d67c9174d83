"""The statements that run with every batch find their rows by index, however large the ledger is.

Each is planned twice over a planted ledger: with its parameters known, as the first runs of a
prepared statement are, and without (`force_generic_plan`), as PostgreSQL may do from the sixth on.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import asyncpg

from adapters.postgres import session_parameters
from adapters.queries import load
from adapters.settings import Settings
from tests.planted_ledger import Batch, plant, run_sql

ACCOUNTS = 2_000
CHARGES = 200_000
PARTITIONS = 8
MONTH = datetime(2026, 11, 1, tzinfo=UTC)
# What grows with usage: reading one of these as a whole is a batch that gets slower every day.
GROWING = {
    "charge",
    "charge_correction",
    "credit_grant",
    "grant_draw",
    "credit_transaction",
    "dead_letter",
    "usage_counter",
}

_MORE = (
    """INSERT INTO charge_correction (account_id, event_id, sequence, kind, voided, occurred_at,
        price_version, rule, rated_micro, amount_micro, rated_change_micro, amount_change_micro,
        tier, demo, action, provider, model, power_level, service_tier, input_tokens,
        cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, other_meters,
        quantity, own_key, billed_currency, billed_pico, counter, counter_units, counter_before,
        actor, reason, tx)
    SELECT account_id, event_id, 1, 'amend', false, occurred_at, price_version, rule, rated_micro,
           amount_micro, 0, 0, tier, demo, action, provider, model, power_level, service_tier,
           input_tokens + 1, cache_read_tokens, cache_write_tokens, output_tokens,
           reasoning_tokens, other_meters, quantity, own_key, billed_currency, billed_pico, counter,
           counter_units, counter_before, 'tests', 'planted',
           (row_number() OVER (ORDER BY "offset") / 10 + 1)::text::xid8
    FROM charge
    WHERE "offset" < 2500""",
    """INSERT INTO credit_grant (account_id, source, granted_by, amount_micro, remaining_micro,
                                 spent)
    SELECT 'account ' || n % 2000, 'top_up', 'tests', 1000, CASE WHEN n < 4000 THEN 1000 ELSE 0 END,
           n >= 4000
    FROM generate_series(0, 49999) AS n""",
    """INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, actor,
                                       tx)
    SELECT 'account ' || n % 2000, 'GRANT', 1000, n, 'tests', (n / 10 + 1)::text::xid8
    FROM generate_series(1, 50000) AS n""",
    """INSERT INTO dead_letter (topic, partition, epoch, "offset", reason, detail, payload,
        payload_bytes, payload_sha256, appended_at, published_at)
    SELECT 'usage.events', n % 8, 1, n, 'invalid', 'planted', 'x', 1, 'x', now(),
           CASE WHEN n > 100 THEN now() END
    FROM generate_series(1, 30000) AS n""",
    """INSERT INTO dead_letter (topic, partition, epoch, "offset", reason, detail, event_id,
        payload, payload_bytes, payload_sha256, appended_at, published_at, tried_version)
    SELECT 'usage.events', n % 8, 1, 100000 + n, 'unpriced', 'planted', 'letter-' || n, 'x', 1, 'x',
           now(), now(), 1 + n / 9000
    FROM generate_series(1, 10000) AS n""",
    """INSERT INTO credit_hold (hold_id, account_id, amount_micro)
    SELECT 'hold-' || n, 'account ' || n % 2000, 1 FROM generate_series(0, 49999) AS n""",
    """UPDATE credit_hold SET state = 'settled', closed_at = now(), charged_micro = 1,
                              report = 'overtaken'
    WHERE hold_id LIKE 'hold-%00'""",
    """INSERT INTO usage_counter (account_id, counter, month, units)
    SELECT 'account ' || n % 2000, 'counter ' || n / 2000, '2026-11-01', n
    FROM generate_series(0, 49999) AS n""",
)


_LARGE_ACCOUNT = (
    """UPDATE charge
    SET posted_at = '2026-11-01'::timestamptz + "offset" / 100 * interval '1 second'""",
    """INSERT INTO credit_transaction (account_id, type, amount_micro, balance_after_micro, actor,
                                       created_at)
    SELECT 'account 0', 'DEDUCT', -1, n, 'tests',
           '2026-11-01'::timestamptz + n * interval '1 second'
    FROM generate_series(1, 20000) AS n""",
)


@dataclass(frozen=True)
class Case:
    """A statement, arguments like those of real work, and the indexes to enter by which columns."""

    file: str
    name: str
    arguments: tuple[object, ...]
    indexes: Mapping[str, Sequence[str]]

    def __str__(self) -> str:
        return f"{self.file}.{self.name}"


def _case(statement: str, arguments: tuple[object, ...], **indexes: Sequence[str]) -> Case:
    file, _, name = statement.partition(".")
    return Case(file, name, arguments, indexes)


def _accounts(count: int) -> list[str]:
    return sorted(f"account {n}" for n in range(count))


def _claims(count: int) -> tuple[list[str], list[str]]:
    """Events of which half were charged before."""
    numbers = [n * (2 * CHARGES // count) for n in range(count)]
    return [f"account {n % ACCOUNTS}" for n in numbers], [f"event-{n}" for n in numbers]


def _newest(offsets: int) -> tuple[list[int], list[int], list[int]]:
    """The last offsets of every partition: what the warehouse ships."""
    end = CHARGES // PARTITIONS
    return list(range(PARTITIONS)), [end - offsets] * PARTITIONS, [end] * PARTITIONS


def _counters(count: int) -> tuple[list[str], list[str], list[date]]:
    accounts = _accounts(count)
    return accounts, ["counter 7"] * count, [MONTH.date()] * count


CLAIM = ("account_id", "event_id")
ACCOUNT = ("account_id",)
POSITION = ("epoch", "partition", "offset")
HORIZON = ("tx", "transaction_id")


def _cases() -> Iterator[Case]:
    for count in (10, 1_000, 4_000):
        yield _case("ledger.find_claims", _claims(count), charge_pkey=CLAIM)
    yield _case("ledger.lock_accounts", (_accounts(50),), account_pkey=ACCOUNT)
    for count in (1, 500):
        yield _case(
            "ledger.burn_down",
            (_accounts(count), [7] * count, "batch:1"),
            credit_grant_burn_order=ACCOUNT,
            credit_grant_pkey=("grant_id",),
        )
        counter = "account_id", "counter", "month"
        yield _case("ledger.read_counters", _counters(count), usage_counter_pkey=counter)
        late = _claims(count)
        yield _case(
            "ledger.first_seen",
            (*late, [b"x"] * count),
            charge_pkey=CLAIM,
            dead_letter_event=("event_id",),
        )
    back = _accounts(10), [7] * 10, "given_back", "rater"
    yield _case("ledger.give_back", back, account_pkey=ACCOUNT)
    marked = [f"hold-{n}00" for n in range(500)]
    by_hold = {"charge_hold": ("account_id", "hold_id")}
    yield _case("reconcile.examine_overtaken", (marked,), **by_hold)
    yield _case("reconcile.examine", ([f"hold-{n}02" for n in range(200)], 0, 0.0), **by_hold)
    yield _case("parked.claim_untried", (2, 200), dead_letter_parked=("tried_version",))
    yield _case("parked.count_waiting", (), dead_letter_parked=())
    yield _case("parked.read_facts", (_accounts(50),), account_pkey=ACCOUNT)
    yield _case("parked.mark_tried", ([1, 2, 3], 2), dead_letter_pkey=("dead_letter_id",))
    yield _case("parked.mark_requeued", ([1, 2, 3], 2), dead_letter_pkey=("dead_letter_id",))
    for offsets in (10, 2_000):
        extent = 1, *_newest(offsets)
        yield _case("ranges.charge_months", extent, charge_position=POSITION)
        yield _case("ranges.charge_rows", (*extent, 1, MONTH), charge_position=POSITION)
    partitions, ends, _ = _newest(0)
    yield _case("ranges.oldest_waiting", (1, partitions, ends), charge_position=POSITION)
    keyset = ("4000", 40_000, 1_000)
    yield _case("ranges.credit_page", keyset, credit_transaction_horizon=HORIZON)
    page = ("4900", 49_000, "5000", 50_000)
    yield _case("ranges.credit_months", page, credit_transaction_horizon=HORIZON)
    yield _case("ranges.credit_rows", (*page, 1, MONTH), credit_transaction_horizon=HORIZON)
    beside_charges = {"charge_correction_horizon": ("tx", "correction_id"), "charge_pkey": CLAIM}
    yield _case("ranges.correction_page", ("1500", 7_500, 1_000), **beside_charges)
    page = ("1900", 19_000, "2000", 20_000)
    yield _case("ranges.correction_months", page, charge_correction_horizon=("tx", "correction_id"))
    yield _case("ranges.correction_rows", (*page, 1, MONTH), **beside_charges)
    yield _case("dead_letters.read_unpublished", (200,), dead_letter_unpublished=())
    yield _case("lag.count_unpublished", (), dead_letter_unpublished=())
    one = ("dead_letter_id",)
    yield _case("dead_letters.read_dead_letter", (17,), dead_letter_pkey=one)
    for count in (1, 4_000):
        accounts, events = _claims(count)
        numbers = list(range(count))
        digests = [b"x"] * count
        records = "usage.events", [1], [n % 8 for n in numbers], numbers, accounts, events, digests
        yield _case(
            "replay.newest_letters",
            records,
            dead_letter_topic_epoch_partition_offset_key=("topic", "epoch", "partition", "offset"),
            dead_letter_event=("event_id",),
        )
    yield _case("replay.became", ("usage.events", 1, *_newest(100)), charge_position=POSITION)
    entries = {"charge_history": ACCOUNT, "credit_transaction_of_account": ACCOUNT}
    yield _case("accounts.read_last_entries", ("account 7", 20), **entries)
    yield from _history_pages()
    grants = "account 7", None, 20
    yield _case("account_view.grants_page", grants, credit_grant_burn_order=ACCOUNT)


def _history_pages() -> Iterator[Case]:
    """The first page, a later one, and one of a month: by index and from where it begins."""
    charges, transactions = ("account_id", "posted_at"), ("account_id", "created_at")
    types, place = ["USAGE", "GRANT", "HOLD"], "c:" + "0" * 25
    for arguments in (
        (None, None, None, None, None, None),
        (types, ["COMPLETED", "PENDING"], MONTH, None, datetime.now(UTC), place),
    ):
        yield _case(
            "history.history_page",
            ("account 7", *arguments, 51),
            charge_history=charges,
            credit_transaction_of_account=transactions,
            credit_hold_of_account=transactions,
        )


async def test_statements_find_their_rows_by_index(settings: Settings) -> None:
    await plant(settings, Batch(charges=CHARGES, accounts=ACCOUNTS, partitions=PARTITIONS))
    await run_sql(settings, *_MORE, "ANALYZE")
    assert await findings(settings, _cases()) == []


async def test_a_page_of_history_reads_no_more_of_a_large_account(settings: Settings) -> None:
    """100,000 charges and 20,000 transactions of one account, in batches of 100 and one by one."""
    await plant(settings, Batch(charges=100_000, accounts=1))
    await run_sql(settings, *_LARGE_ACCOUNT, "ANALYZE")
    connection = await asyncpg.connect(
        settings.postgres.get_secret_value(), server_settings=session_parameters(settings, "tests")
    )
    text = load("history").history_page
    try:
        answer = await connection.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", "account 0", *[None] * 6, 51
        )
    finally:
        await connection.close()
    rows = {
        node["Index Name"]: node["Actual Rows"]
        for node in _nodes(json.loads(answer)[0]["Plan"])
        if "Index Name" in node
    }
    assert rows["charge_history"] <= 201, rows
    assert rows["credit_transaction_of_account"] <= 52, rows


async def findings(settings: Settings, cases: Iterable[Case]) -> list[str]:
    """What the plans of each statement, both with its parameters and generic, do wrong."""
    connection = await asyncpg.connect(
        settings.postgres.get_secret_value(), server_settings=session_parameters(settings, "tests")
    )
    try:
        return [
            f"{case} {kind}: {finding}"
            for case in cases
            for kind, plan in (
                ("with its parameters", await _custom_plan(connection, case)),
                ("generic", await _generic_plan(connection, case)),
            )
            for finding in _findings(plan, case.indexes)
        ]
    finally:
        await connection.close()


async def _custom_plan(connection: "asyncpg.Connection[asyncpg.Record]", case: Case) -> Any:
    text = getattr(load(case.file), case.name)
    answer = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {text}", *case.arguments)
    return json.loads(answer)[0]["Plan"]


async def _generic_plan(connection: "asyncpg.Connection[asyncpg.Record]", case: Case) -> Any:
    text = getattr(load(case.file), case.name)
    arguments = ", ".join(["NULL"] * len(case.arguments))
    async with connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE planned AS {text}")
        call = f"EXECUTE planned ({arguments})" if arguments else "EXECUTE planned"
        answer = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {call}")
        await connection.execute("DEALLOCATE planned")
    return json.loads(answer)[0]["Plan"]


def _findings(plan: Any, wanted: Mapping[str, Sequence[str]]) -> Iterator[str]:
    nodes = list(_nodes(plan))
    for node in nodes:
        if node["Node Type"] == "Seq Scan" and node["Relation Name"] in GROWING:
            yield f"reads all of {node['Relation Name']}"
    used = [
        (node["Index Name"], node.get("Index Cond", "")) for node in nodes if "Index Name" in node
    ]
    for index, columns in wanted.items():
        if not any(
            name == index and all(column in condition for column in columns)
            for name, condition in used
        ):
            yield f"does not enter {index} by {columns}, but {used}"


def _nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
