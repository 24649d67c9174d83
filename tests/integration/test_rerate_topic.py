"""Re-rating from the topic: the published events against what the ledger charged for them."""

import json
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from adapters import charges, rerate
from adapters.charges import Request
from adapters.failures import Failure
from adapters.rerate_runs import Run, RunKind, Source
from adapters.settings import Settings
from tests.batches import NOW, Desk, desk, usage
from tests.replayed import Sent, apply_all, send
from tests.rerated import DAY, change_price, new_run, run
from tests.shipping import ask

GPT_4O = 3_750
DOUBLE = {"currencies": {"USD": [{"credits": "2"}]}}
TOPIC = Source.TOPIC


def event(event_id: str, account_id: str = "acct", **data: Any) -> Sent:
    return Sent(json.dumps(usage(event_id, account_id, **data)).encode(), account_id.encode())


def lines(settings: Settings, done: Run) -> list[tuple[object, ...]]:
    return ask(
        settings,
        "SELECT * EXCEPT (run_id, written_at) FROM rerate_line FINAL"  # noqa: S608
        f" WHERE run_id = {done.run_id} ORDER BY event_id",
    )


async def applied(bench: Desk, *records: Sent, partition: int = 0) -> None:
    """Publishes the records and applies them."""
    await send(bench.settings, bench.topic, records, partition=partition)
    await apply_all(bench)


async def test_topic_and_ledger_say_the_same_of_what_was_charged(
    settings: Settings, topics: dict[str, str]
) -> None:
    """Duplicates, conflicts and what is no event at all are in the topic and in no line."""
    async with desk(settings) as bench:
        first = event("e1", attributes={"team": "a"}, resource_id="r/1")
        await applied(bench, first, event("e2", model="o3"), Sent(b"{"), first)
        await applied(bench, event("e1", tokens={"input": 9}), event("e3"), first)
        await applied(bench, event("e4", "other", quantity=3, action="scheduled_task", model="",
                                   provider="", tokens={}), partition=3)  # fmt: skip
        await charges.void(bench.connection, Request("acct", "e3", "tests", "wrong"))
        patch = {"tokens": {"input": 2_000}}
        await charges.amend(bench.connection, Request("acct", "e2", "tests", "wrong"), patch)
        await change_price(bench, **DOUBLE)
        from_ledger, from_topic = await run(bench), await run(bench, source=TOPIC)
        assert lines(settings, from_topic) == lines(settings, from_ledger)
        assert from_topic.tally == from_ledger.tally
        assert (from_topic.tally.events, from_topic.tally.voided) == (4, 1)


async def test_a_price_for_another_unit_is_none_for_what_was_charged(
    settings: Settings, topics: dict[str, str]
) -> None:
    """90 seconds are not 90 minutes, also where only the price of the charge says so."""
    seconds, minutes = ({"credits": "0.005", "unit": unit} for unit in ("seconds", "minutes"))
    call = {"action": "call", "model": "", "provider": "", "tokens": {}, "quantity": 90}
    async with desk(settings) as bench:
        await change_price(bench, actions={"call": seconds})
        await applied(bench, event("e1", unit="seconds", **call), event("e2", **call))
        wrong = Request("acct", "e2", "tests", "wrong")
        await charges.amend(bench.connection, wrong, {"quantity": 60})
        await change_price(bench, actions={"call": minutes | {"credits": "0.3"}})
        from_ledger, from_topic = await run(bench), await run(bench, source=TOPIC)
        assert lines(settings, from_topic) == lines(settings, from_ledger)
        assert (from_ledger.tally.unpriced, from_ledger.tally.changed) == (2, 0)
        before = await bench.state()
        assert (await run(bench, RunKind.APPLY)).tally.unpriced == 2
        assert await bench.state() == before
        with pytest.raises(Failure, match="the price is for minutes, and the event counts seconds"):
            await charges.amend(bench.connection, wrong, {"quantity": 30})
        await charges.amend(bench.connection, wrong, {"quantity": 1, "unit": "minutes"})
        await change_price(bench, actions={"call": seconds | {"credits": "0.01"}})
        assert (await run(bench)).tally.changed == 1


async def test_events_that_wait_for_a_price_are_part_of_the_answer_once(
    settings: Settings, topics: dict[str, str]
) -> None:
    async with desk(settings) as bench:
        parked = event("parked", model="acme-1", provider="acme")
        await applied(bench, event("e1"), parked, event("lost", model="no-such-model"))
        await applied(bench, parked)
        price = {"prices": [{"usd_per_mtok": {"input": "2", "output": "2"}}]}
        await change_price(bench, models={"acme/acme-1": price})
        found = await run(bench, source=TOPIC)
        tally = found.tally
        assert (tally.events, tally.uncharged, tally.unpriced, tally.changed) == (3, 1, 1, 0)
        assert (tally.old_micro, tally.new_micro) == (GPT_4O, GPT_4O)
        verdicts = [(line[1], line[8], line[9], line[10]) for line in lines(settings, found)]
        assert verdicts == [
            ("e1", GPT_4O, GPT_4O, "same"),
            ("lost", 0, 0, "unpriced"),
            ("parked", 0, 3_000, "uncharged"),
        ]
        assert (await run(bench, source=TOPIC, accounts=["acct"])).tally.events == 3


async def test_what_the_rater_has_not_applied_is_not_compared(
    settings: Settings, topics: dict[str, str]
) -> None:
    async with desk(settings) as bench:
        await applied(bench, event("e1"))
        await send(settings, bench.topic, [event("e2")])
        assert (await run(bench, source=TOPIC)).tally.events == 1
        empty = await new_run(bench, source=TOPIC, since=NOW + 2 * DAY, until=NOW + 3 * DAY)
        assert await rerate.start(bench.connection, settings, empty) is None


async def test_a_topic_that_lost_its_beginning_says_so(
    settings: Settings, topics: dict[str, str]
) -> None:
    async with desk(settings) as bench:
        await applied(bench, event("e1"), event("e2"))
        assert (await run(bench, source=TOPIC)).extent["gone"] == []
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
        await admin.start()
        await admin.delete_records({TopicPartition(bench.topic, 0): RecordsToDelete(1)})
        await admin.close()
        found = await run(bench, source=TOPIC)
        assert (found.tally.events, found.extent["gone"]) == (1, [0])


async def test_without_a_topic_it_is_one_line(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        with pytest.raises(Failure, match=r"usage\.events does not exist: run `tollgate migrate`"):
            await run(bench, source=TOPIC)
