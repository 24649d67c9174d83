"""A week in a year is not a full scan: the statements of a run enter their indexes."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import asyncpg

from adapters import rerate_ledger
from adapters.postgres import session_parameters
from adapters.settings import Settings
from tests.integration.test_plans import (
    CLAIM,
    POSITION,
    Case,
    _case,
    _custom_plan,
    _findings,
    _generic_plan,
    _nodes,
)
from tests.planted_ledger import Batch, plant, run_sql, topic_of

CHARGES = 200_000
PARTITIONS = 8
YEAR = datetime(2026, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
BATCHES = 2_500
MORE = (
    "TRUNCATE batch_outcome",
    # Ten offsets of each partition in a batch, about seven batches a day.
    """INSERT INTO batch_outcome (batch_id, topic, partition, epoch, from_offset, to_offset,
                                  charged, duplicate, dead, posted_at)
    SELECT n + 1, stands.topic, stands.partition, 1, 10 * n, 10 * n + 10, 10, 0, 0,
           timestamptz '2026-01-01 00:00+00' + n * interval '210 minutes'
    FROM stream_position AS stands CROSS JOIN generate_series(0, 2499) AS n""",
    """INSERT INTO dead_letter (topic, partition, epoch, "offset", reason, detail, account_id,
        event_id, payload, payload_bytes, payload_sha256, appended_at, requeued_at)
    SELECT (SELECT topic FROM stream_position LIMIT 1), n % 8, 1, n,
           CASE n % 40 WHEN 0 THEN 'unpriced' ELSE 'invalid' END, 'planted', 'account ' || n % 2000,
           'event-' || n, 'x', 1, 'x', now(), CASE WHEN n % 400 = 0 THEN now() END
    FROM generate_series(1, 30000) AS n""",
    """INSERT INTO charge_correction (account_id, event_id, sequence, kind, run_id, voided,
        occurred_at, price_version, rule, rated_micro, amount_micro, rated_change_micro,
        amount_change_micro, tier, demo, action, provider, model, power_level, service_tier,
        input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
        other_meters, quantity, own_key, billed_currency, billed_pico, counter, counter_units,
        counter_before, actor, reason)
    SELECT account_id, event_id, 1, 'rerate', "offset" % 20, false, occurred_at, 2, rule, 1, 1,
           0, 0, tier, demo, action, provider, model, power_level, service_tier, 1, 0, 0, 0, 0, '',
           1, false, '', 0, '', 0, 0, 'tests', 'planted'
    FROM charge WHERE "offset" % 4 = 0""",
    """INSERT INTO rerate_run (kind, source, occurred_from, occurred_to, book, newest_version,
                               extent, position, actor, reason, finished_at)
    SELECT 'what-if', 'ledger', now(), now(), 'published', 1, '{}', '{}', 'tests', '', now()
    FROM generate_series(1, 50)""",
    """INSERT INTO rerate_counter (run_id, account_id, counter, month, units)
    SELECT run_id, 'account ' || n, 'counted', '2026-01-01', n
    FROM rerate_run CROSS JOIN generate_series(1, 1000) AS n""",
)


def _cases(topic: str) -> Iterator[Case]:
    def case(name: str, *arguments: object, **indexes: tuple[str, ...]) -> Case:
        return _case(f"rerate.{name}", arguments, **indexes)

    posted, order = ("posted_at",), ("batch_id",)
    yield case("first_batch", YEAR + WEEK, batch_outcome_posted=posted)
    yield case("last_batch", YEAR + WEEK, batch_outcome_posted=posted)
    yield case("pieces", 700, 1, 3, 9, 900, 4096, batch_outcome_order=order)
    yield case("late_pieces", 700, 1, 3, 9, [2000, 2100], 4096, batch_outcome_order=order)
    yield case(
        "late_batches", topic, YEAR, YEAR + WEEK, 700, charge_pkey=CLAIM, dead_letter_requeued=(),
    )  # fmt: skip
    parts = list(range(PARTITIONS))
    places = [1] * 8, parts, [7000] * 8, [7500] * 8
    yield case(
        "charges_at", *places, YEAR, YEAR + 50 * WEEK, None,
        charge_position=POSITION, charge_correction_account_id_event_id_sequence_key=CLAIM,
    )  # fmt: skip
    yield case(
        "waiting_letters", topic, 1, *places[1:], None,
        dead_letter_topic_epoch_partition_offset_key=("topic", "epoch", "partition", "offset"),
    )  # fmt: skip
    run = ("run_id",)
    yield case("corrections_of_run", 7, "", "", 4000, charge_correction_once_a_run=run)
    yield case("counted_since", 7, charge_correction_once_a_run=run)
    yield case("booked_groups", 7, 20, charge_correction_once_a_run=run)
    keys = ["account 1", "account 2"], ["counted"] * 2, [YEAR.date()] * 2
    yield case("read_counters", 7, *keys, rerate_counter_pkey=("run_id", "account_id"))


async def test_statements_of_a_run_find_their_rows_by_index(settings: Settings) -> None:
    step = "157 seconds"
    await plant(
        settings,
        Batch(CHARGES, 2_000, PARTITIONS, occurred_from="2026-01-01 00:00:00+00", step=step),
    )
    await run_sql(settings, *MORE, "ANALYZE")
    connection = await asyncpg.connect(
        settings.postgres.get_secret_value(), server_settings=session_parameters(settings, "tests")
    )
    try:
        findings = []
        for case in _cases(topic_of(settings)):
            for plan in await _custom_plan(connection, case), await _generic_plan(connection, case):
                findings += [f"{case}: {finding}" for finding in _findings(plan, case.indexes)]
                findings += [
                    f"{case}: reads all of {node['Relation Name']}"
                    for node in _nodes(plan)
                    if node["Node Type"] == "Seq Scan"
                    and node["Relation Name"] in {"batch_outcome", "charge_correction"}
                ]
        assert findings == []
        extent = await rerate_ledger.find_extent(connection, settings, YEAR, YEAR + WEEK)
        assert extent is not None
        read = extent["last"] - extent["first"] + 1
        # The week, 35 days of being late, the topic's 14 days, and an hour: 56 of 365 days.
        assert read == BATCHES * 56 // 365 + 2
    finally:
        await connection.close()
