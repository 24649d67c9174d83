"""Topics that are made anew, cut off, grown; groups that are moved or forgotten."""

import asyncio
import signal

import pytest

from tests.faults.bench import Bench
from tests.faults.traffic import Traffic
from tests.faults.waiting import eventually

HALT_SECONDS_MAX = 40
EPOCH, GAP = "halted (epoch)", "halted (gap)"
WAY_ON = "tollgate stream accept-epoch"


async def _applied_once(bench: Bench, traffic: Traffic, count: int) -> None:
    """Events published and applied by a rater that is gone again."""
    rater = bench.fleet.start()
    await bench.publish(traffic, count)
    await bench.verdict.drained(60)
    rater.signal(signal.SIGTERM)
    assert await rater.ended(20) == 0


@pytest.mark.parametrize("records_after", [20, 3_000])
async def test_a_topic_made_anew_under_a_rater_halts_it_until_the_epoch_is_accepted(
    bench: Bench, records_after: int
) -> None:
    traffic = Traffic(11)
    rater = bench.fleet.start()
    warehouse = bench.fleet.start("warehouse")
    await bench.publish(traffic, 1_000)
    await bench.exact(traffic.expected)
    await bench.surgeon.delete_topic()
    await bench.surgeon.make_topic()
    await bench.publish(traffic, records_after)
    assert await rater.ended(HALT_SECONDS_MAX) == 1
    assert rater.said(EPOCH), bench.fleet.complaints()
    assert rater.said(WAY_ON)
    again = bench.fleet.start()
    assert await again.ended(HALT_SECONDS_MAX) == 1
    assert again.said(EPOCH), bench.fleet.complaints()
    await bench.run("stream", "accept-epoch", "--yes")
    bench.fleet.start()
    await bench.publish(traffic, 500)
    await bench.exact(traffic.expected)
    assert warehouse.status is None


async def test_a_topic_made_anew_and_filled_beyond_the_position_is_told_by_its_last_record(
    bench: Bench,
) -> None:
    traffic = Traffic(12)
    await _applied_once(bench, traffic, 200)
    before = await bench.surgeon.ends()
    await bench.surgeon.delete_topic()
    await bench.surgeon.make_topic()
    await bench.publish(traffic, 2_000)
    after = await bench.surgeon.ends()
    assert all(after[p] > end for p, end in before.items()), "the fault would not be hidden"
    rater = bench.fleet.start()
    assert await rater.ended(HALT_SECONDS_MAX) == 1
    assert rater.said(EPOCH), bench.fleet.complaints()
    charges = await bench.verdict.charges()
    assert charges < len(traffic.expected)
    await bench.run("stream", "accept-epoch", "--yes")
    bench.fleet.start()
    await bench.ledger_is_exact(traffic.expected)


async def test_without_the_digest_the_new_topic_is_taken_for_the_old_one(bench: Bench) -> None:
    traffic = Traffic(12)
    await _applied_once(bench, traffic, 200)
    await bench.surgeon.delete_topic()
    await bench.surgeon.make_topic()
    await bench.publish(traffic, 2_000)
    bench.fleet.start(without=["digest"])
    await bench.verdict.drained(60)
    [lost, *_] = await bench.verdict.ledger_findings(traffic.expected)
    assert lost.startswith("lost")


async def test_records_deleted_before_they_were_applied_halt_the_rater(bench: Bench) -> None:
    traffic = Traffic(13)
    await _applied_once(bench, traffic, 1_000)
    expected = dict(traffic.expected)
    await bench.publish(traffic, 500)
    await bench.surgeon.delete_records(await bench.surgeon.ends())
    rater = bench.fleet.start()
    assert await rater.ended(HALT_SECONDS_MAX) == 1
    assert rater.said(GAP), bench.fleet.complaints()
    assert rater.said(WAY_ON)
    lost = set(traffic.expected) - set(expected)
    assert lost
    await bench.run("stream", "accept-epoch", "--yes")
    bench.fleet.start()
    fresh = Traffic(14, prefix="later-")
    await bench.publish(fresh, 500)
    await bench.ledger_is_exact(expected | fresh.expected)


async def test_without_the_gap_check_lost_records_go_unseen(bench: Bench) -> None:
    traffic = Traffic(13)
    await _applied_once(bench, traffic, 1_000)
    await bench.publish(traffic, 500)
    await bench.surgeon.delete_records(await bench.surgeon.ends())
    rater = bench.fleet.start(without=["gap", "fence"])
    await bench.publish(Traffic(14, prefix="later-"), 500)
    await bench.verdict.drained(60)
    assert rater.status is None
    findings = await bench.verdict.ledger_findings(traffic.expected)
    assert any(finding.startswith("offsets") for finding in findings), findings


async def test_the_groups_offsets_decide_nothing(bench: Bench) -> None:
    traffic = Traffic(15)
    await _applied_once(bench, traffic, 500)
    ends = await bench.surgeon.ends()
    await bench.publish(traffic, 300)
    for where in (dict.fromkeys(ends, 0), await bench.surgeon.ends()):
        await bench.surgeon.move_group(where)
        await _applied_once(bench, traffic, 200)
        await bench.ledger_is_exact(traffic.expected)
        await bench.publish(traffic, 200)
    await bench.surgeon.delete_group()
    bench.fleet.start()
    bench.fleet.start("warehouse")
    await bench.exact(traffic.expected)


async def test_without_the_seek_records_behind_the_groups_offsets_are_never_applied(
    bench: Bench,
) -> None:
    traffic = Traffic(15)
    await _applied_once(bench, traffic, 500)
    await bench.publish(traffic, 300)
    await bench.surgeon.move_group(await bench.surgeon.ends())
    bench.fleet.start(without=["seek"])
    with pytest.raises(TimeoutError):
        await bench.verdict.drained(12)


async def test_partitions_are_added_under_load(bench: Bench) -> None:
    traffic = Traffic(16)
    raters = [bench.fleet.start(), bench.fleet.start()]
    bench.fleet.start("warehouse")
    grown = asyncio.Event()
    flow = asyncio.create_task(bench.publisher.flow(traffic, per_second=300, until=grown.is_set))
    await bench.charged(300)
    await bench.surgeon.grow(12)

    async def reached() -> bool:
        rows = await bench.verdict.fetch(
            "SELECT partition FROM stream_position WHERE partition >= 8 AND next_offset > 0"
        )
        return len(rows) == 4

    await eventually(reached, 90, "the new partitions are applied")
    grown.set()
    await flow
    await bench.exact(traffic.expected)
    assert [rater.status for rater in raters] == [None, None], bench.fleet.complaints()
