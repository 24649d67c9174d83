"""What a replay finds in a topic, and what it sends, on real Kafka and PostgreSQL."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from adapters.dead_letters import publish_pending
from adapters.publishing import open_producer
from adapters.settings import Settings
from schemas.topics import USAGE_DEAD, USAGE_EVENTS
from tests.batches import Desk, desk, usage
from tests.commands import report, run_tollgate
from tests.replayed import Sent, apply_all, read, send, standings

MIB = 1024 * 1024


def event(event_id: str, **data: Any) -> Sent:
    return Sent(json.dumps(usage(event_id, **data)).encode())


async def skip(at: Desk, records: int, partition: int = 0) -> None:
    """The position moves without a charge, as after an accepted loss."""
    await at.connection.execute(
        "UPDATE stream_position SET next_offset = next_offset + $1, last_digest = NULL"
        " WHERE partition = $2",
        records,
        partition,
    )


async def every_standing(at: Desk) -> list[Sent]:
    """One record of each standing, in partition 0, and what the ledger makes of them."""
    records = [
        event("charged"),
        event("charged", tokens={"input": 7}),  # conflict
        Sent(b"{"),
        event("parked", model="no-such-model"),
        Sent(b"x" * 70_000),
        Sent(event("dead").value, headers=(("trace", b"7"),)),
        Sent(event("lost").value, headers=(("trace", b"8"), ("empty", b""), ("null", None))),
        event("waiting"),
    ]
    await send(at.settings, at.topic, records[:5])
    await apply_all(at)
    await send(at.settings, at.topic, records[5:6])
    await apply_all(at, unprocessable=True)
    await send(at.settings, at.topic, records[6:])
    await skip(at, 1)
    return records


ALL_STANDINGS = {
    "charged": 1, "conflict": 1, "cut": 1, "dead_letter": 1, "not_charged": 1, "parked": 1,
    "unreadable": 1, "waiting": 1,
}  # fmt: skip


async def test_what_the_ledger_lacks_is_sent_whole_and_nothing_else(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    async with desk(settings) as at:
        records = await every_standing(at)
        state = await at.state()
        planned = await report(environment, "replay", "--dry-run")
        assert standings(planned) == ALL_STANDINGS
        assert planned["unreadable"] == {"bad_json": 1}
        assert (planned["to_send"], planned["sent"]) == (2, 0)
        assert await at.state() == state
        done = await report(environment, "replay")
        assert standings(done) == ALL_STANDINGS
        assert done["sent"] == 2
        log = await read(settings, at.topic)
        originals = len(records)
        copies = [
            Sent(record.value, record.key, tuple(record.headers))
            for run in log.values()
            for record in (run[originals:] if len(run) > originals else run)
            if record.partition or record.offset >= originals
        ]
        assert copies == [records[5], records[6]]
        await apply_all(at)
        charged = await at.connection.fetch("SELECT event_id FROM charge ORDER BY event_id")
        assert [row["event_id"] for row in charged] == ["charged", "dead", "lost", "waiting"]
        again = await report(environment, "replay", "--to", "0s", "--dry-run")
        assert again["to_send"] == 0


async def test_everything_sends_all_that_can_be_read_and_changes_nothing(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    async with desk(settings) as at:
        await every_standing(at)
        done = await report(environment, "replay", "--everything")
        assert done["sent"] == 6
        await apply_all(at)
        balances = "SELECT json_agg(t ORDER BY account_id) FROM account AS t"
        before = await at.value(balances), await at.value("SELECT count(*) FROM charge")
        await report(environment, "replay", "--everything")
        await apply_all(at)
        assert (await at.value(balances), await at.value("SELECT count(*) FROM charge")) == before


async def test_a_letter_is_sent_again_once_and_copies_of_one_event_are_one(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    async with desk(settings) as at:
        await send(settings, at.topic, [event("dead")])
        await apply_all(at, unprocessable=True)
        await send(settings, at.topic, [event("lost")] * 3)
        await skip(at, 3)
        first = await report(environment, "replay")
        assert (first["sent"], first["repeated"]) == (2, 2)
        assert await at.value("SELECT count(requeued_at) FROM dead_letter") == 1
        second = await report(environment, "replay", "--partition", "0", "--to-offset", "4")
        assert standings(second) == {"not_charged": 3, "sent_again": 1}
        assert second["sent"] == 1


async def test_offsets_partitions_and_times_bound_what_is_read(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    topic = topics[USAGE_EVENTS.name]
    await send(settings, topic, [event(f"a{n}") for n in range(5)], partition=0)
    await send(settings, topic, [event(f"b{n}") for n in range(5)], partition=3)
    await asyncio.sleep(0.02)
    await send(settings, topic, [event(f"c{n}") for n in range(4)], partition=3)
    log = await read(settings, topic)
    later_ms = log[TopicPartition(topic, 3)][5].timestamp
    later = datetime.fromtimestamp(later_ms / 1000, UTC).isoformat()

    async def count(*options: str) -> int:
        found: int = (await report(environment, "replay", "--dry-run", *options))["read"]
        return found

    assert await count() == 14
    assert await count("--partition", "3") == 9
    assert await count("--partition", "3", "--partition", "0", "--partition", "1") == 14
    assert await count("--partition", "3", "--from-offset", "2", "--to-offset", "7") == 5
    assert await count("--partition", "3", "--to-offset", "1000") == 9
    assert await count("--from", later) == 4
    assert await count("--to", later) == 10
    assert await count("--from", "1h", "--to", "0s", "--partition", "0") == 5
    assert await count("--from", (datetime.now(UTC) + timedelta(hours=1)).isoformat()) == 0
    assert await count("--partition", "3", "--from-offset", "9") == 0


async def test_what_can_not_be_meant_is_one_line(
    settings: Settings, topics: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    for wrong, status, said in (
        (("--topic", "scheduler.jobs"), 2, "usage.events, usage.dead"),
        (("--from-offset", "1"), 2, "exactly one --partition"),
        (("--from-offset", "1", "--partition", "0", "--to", "1h"), 2, "no times"),
        (("--dry-run", "--wait"), 2, "--dry-run sends nothing"),
        (("--partition", "99"), 1, "no partition 99"),
        (("--partition", "0", "--from-offset", "5"), 1, "nothing from 5 on"),
        (("--state", str(tmp_path)), 1, "name another file"),
    ):
        done = await run_tollgate(environment, "replay", *wrong)
        assert (done.returncode, said in done.stderr) == (status, True), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    missing = await run_tollgate({**environment, "TOLLGATE_TOPIC_PREFIX": "no."}, "replay")
    assert missing.returncode == 1
    assert "no.usage.events does not exist" in missing.stderr


async def test_gaps_are_told_and_passed(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    topic = topics[USAGE_EVENTS.name]
    place = TopicPartition(topic, 0)
    await send(settings, topic, [event(f"a{n}") for n in range(10)])
    await send(settings, topic, [event("in-a-transaction")], transactional_id=topic)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    try:
        await admin.delete_records({place: RecordsToDelete(before_offset=4)})
    finally:
        await admin.close()
    found = await report(
        environment, "replay", "--dry-run", "--partition", "0", "--from-offset", "2"
    )
    # 2 and 3 were deleted, 11 is the marker of the transaction.
    assert found["read"] == 7
    assert found["missing"] == {"0": {"offsets": 3, "first": 2, "last": 11}}
    assert found["stretches"][0]["next_offset"] == 12
    told = await run_tollgate(environment, "replay", "--partition", "0", "--from-offset", "2")
    assert "3 offsets between 2 and 11 hold no record" in told.stdout
    await send(settings, topic, [event("last")], transactional_id=topic)
    whole = await report(environment, "replay", "--dry-run")
    assert whole["stretches"][0]["from_offset"] == 4


async def test_what_grows_too_large_is_counted_and_passed(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    topic = topics[USAGE_EVENTS.name]
    await send(settings, topic, [event("before")])
    bomb = Sent(b"x" * (30 * MIB))
    await send(settings, topic, [bomb], compression_type="lz4", max_request_size=64 * MIB)
    heavy = Sent(event("heavy").value, headers=(("note", b"y" * 300_000),))
    await send(settings, topic, [heavy], compression_type="lz4", max_request_size=MIB)
    await send(settings, topic, [event("after")])
    done = await report(environment, "replay", "--everything")
    assert standings(done) == {"cut": 2, "waiting": 2}
    assert done["sent"] == 2


async def test_dead_letters_of_the_topic_are_sent_with_their_original_bytes(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    large = Sent(
        b" " * 60_000 + (event("large").value or b"")
    )  # as base64 more than an event may be
    async with desk(settings) as at:
        await send(settings, at.topic, [event("dead")])
        await apply_all(at, unprocessable=True)
        await send(settings, at.topic, [large])
        await apply_all(at, unprocessable=True)
        await send(settings, at.topic, [Sent(b"{"), Sent(b"z" * 70_000), event("charged")])
        await apply_all(at)
        async with open_producer(settings, "test") as producer:
            assert await publish_pending(at.connection, producer, settings) == 4
        await send(settings, topics[USAGE_DEAD.name], [Sent(b"no letter")])
        done = await report(environment, "replay", "--topic", "usage.dead")
        assert standings(done) == {"cut": 2, "dead_letter": 2, "unreadable": 1}
        assert done["sent"] == 2
        await apply_all(at)
        charged = await at.connection.fetch("SELECT event_id FROM charge ORDER BY event_id")
        assert [row["event_id"] for row in charged] == ["charged", "dead", "large"]
        again = await report(environment, "replay", "--topic", "usage.dead")
        assert standings(again) == {"charged": 2, "cut": 2, "unreadable": 1}
        assert again["sent"] == 0
