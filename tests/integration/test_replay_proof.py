"""What a replay may say of what it sent, and what it holds back, on real PostgreSQL and Kafka."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapters import replay, replay_log
from adapters.failures import Failure
from adapters.ledger import Position
from adapters.replay import Replay, Request
from adapters.replay_log import Bounds, Gap, Stretch
from adapters.replay_proof import Proof, begin, conclude, read_balances, settle
from adapters.replay_records import Original, Surveyor
from adapters.replay_state import State, load_state, save_state
from adapters.settings import Settings
from core.replaying import Standing
from schemas.events import Reason, TimeWindow
from schemas.topics import USAGE_EVENTS
from tests.batches import desk, usage
from tests.replayed import Sent, send

DAY_MS = 86_400_000


async def test_own_records_are_told_from_those_of_others(settings: Settings) -> None:
    async with desk(settings) as at:
        await at.open((0, 1))
        await at.apply(usage("a"), usage("b"))
        proof = await begin(at.connection, at.topic)
        await at.apply(usage("a"), usage("others"), usage("b"), first=2)
        await at.apply(usage("late"), usage("bad", model="no-such-model"), partition=1)
        proof.sent([(0, 2), (0, 4), (1, 0), (1, 1), (1, 7), (0, -1)])
        assert proof.outstanding == {0: [(2, 3), (4, 5)], 1: [(0, 2), (7, 8)]}
        assert await settle(at.connection, at.topic, proof) == 4
        assert (proof.waiting, proof.outstanding, proof.unplaced) == (1, {0: [], 1: [(7, 8)]}, 1)
        assert await settle(at.connection, at.topic, proof) == 0
        outcome = await conclude(at.connection, at.topic, proof)
        assert (outcome.charged, outcome.duplicate, outcome.dead) == (1, 2, 1)
        assert (outcome.others, outcome.charged_in_all) == (1, 2)
        assert not outcome.balances_identical


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE account SET held_micro = held_micro + 1",
        "UPDATE account SET balance_micro = balance_micro + 1",
        "UPDATE credit_grant SET remaining_micro = remaining_micro - 1",
        "INSERT INTO account (account_id, tier) VALUES ('new', 'free')",
        (
            "INSERT INTO credit_grant"
            " (account_id, source, granted_by, amount_micro, remaining_micro)"
            " VALUES ('acct', 'x', 'x', 1, 1)"
        ),
    ],
)
async def test_a_digest_sees_every_change_of_a_balance(settings: Settings, change: str) -> None:
    async with desk(settings) as at:
        await at.open()
        await at.apply(usage("a"))
        before = await read_balances(at.connection)
        assert before == await read_balances(at.connection)
        assert (before.accounts, before.grants) == (1, 1)
        await at.connection.execute(change)
        assert (await read_balances(at.connection)).sha256 != before.sha256


async def test_an_event_that_would_be_too_old_now_is_held_back_unless_a_letter_vouches_for_it(
    settings: Settings,
) -> None:
    now = datetime.now(UTC)
    old = {"time": (now - timedelta(days=50)).isoformat()}
    names = ("lost", "dead", "charged")
    values = [json.dumps(usage(name) | old).encode() for name in names]
    appended_ms = round(now.timestamp() * 1000) - 20 * DAY_MS
    originals = [Original(0, n, appended_ms, b"acct", value) for n, value in enumerate(values)]
    late = [replace(original, timestamp=appended_ms + 19 * DAY_MS) for original in originals]
    async with desk(settings) as at:
        await at.open()
        await at.apply(usage("charged"))
        await at.connection.execute(
            'INSERT INTO dead_letter (topic, partition, epoch, "offset", reason, detail,'
            " account_id, event_id, payload, payload_bytes, payload_sha256, appended_at)"
            " VALUES ($1, 5, 1, 77, 'unprocessable', '', 'acct', 'dead', $2, 1, $3, $4)",
            at.topic,
            values[1],
            hashlib.sha256(values[1]).digest(),
            now - timedelta(days=20),
        )
        surveyor = Surveyor(at.connection, at.topic, TimeWindow(35 * DAY_MS), {})
        lost, dead, charged = await surveyor.survey(originals)
        assert (lost.standing, lost.too_late) == (Standing.WAITING, True)
        assert (dead.standing, dead.too_late) == (Standing.DEAD, False)
        assert (charged.standing, charged.too_late) == (Standing.CHARGED, False)
        found = {each.original.offset: each for each in await surveyor.survey(late)}
        assert (found[0].standing, found[0].reason) == (Standing.UNREADABLE, Reason.TOO_OLD)
        assert (found[1].standing, found[1].too_late) == (Standing.DEAD, False)
        assert found[2].standing is Standing.CHARGED
        held = Replay(
            settings, at.connection, Request({}, Bounds(), everything=True), State({}, [])
        )
        assert held._choose([lost, dead, charged]) == [dead, charged]
        assert (held.state.tally.held_back, held.state.tally.to_send) == (1, 2)


async def test_a_letter_that_died_of_its_age_is_not_sent_again(settings: Settings) -> None:
    now = datetime.now(UTC)
    value = json.dumps(usage("old") | {"time": (now - timedelta(days=50)).isoformat()}).encode()
    original = Original(0, 0, round(now.timestamp() * 1000), b"acct", value)
    async with desk(settings) as at:
        await at.open()
        await at.apply(value)
        assert await at.value("SELECT reason FROM dead_letter") == "too_old"
        young = Surveyor(at.connection, at.topic, TimeWindow(35 * DAY_MS), {})
        [found] = await young.survey([original])
        assert (found.standing, found.reason) == (Standing.UNREADABLE, Reason.TOO_OLD)
        raised = Surveyor(at.connection, at.topic, TimeWindow(60 * DAY_MS), {})
        [found] = await raised.survey([original])
        assert (found.standing, found.too_late) == (Standing.DEAD, False)


async def test_raters_that_do_not_move_are_told(
    settings: Settings, topics: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "STALLED_SECONDS_MAX", 0.5)
    async with desk(settings) as at:
        await send(settings, at.topic, [Sent(b"{")] * 3)
        request = Request({}, Bounds(), wait=True)
        waiting = Replay(settings, at.connection, request, State({}, []))
        with pytest.raises(Failure, match="do not move: 3 records wait"):
            [left async for left in waiting.catch_up()]
        waiting.state.proof = Proof({}, await read_balances(at.connection))
        waiting.state.proof.sent([(0, 1)])
        with pytest.raises(Failure, match="do not move: 1 records wait"):
            [left async for left in waiting.finish()]


async def test_a_replay_that_waits_does_not_run_away_from_the_raters(
    settings: Settings, topics: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it remembers of what it sent is bounded, however long the raters are away."""
    monkeypatch.setattr(replay, "STALLED_SECONDS_MAX", 0.5)
    monkeypatch.setattr(replay, "OUTSTANDING_RECORDS_MAX", 10)
    async with desk(settings) as at:
        values = [json.dumps(usage(f"e-{n}")).encode() for n in range(30)]
        await send(settings, at.topic, [Sent(value) for value in values])
        request = Request({}, Bounds(), everything=True, wait=True)
        async with replay.open_replay(settings, at.connection, request) as (replaying, consumer):
            replaying.state.proof = Proof({}, await read_balances(at.connection))
            with pytest.raises(Failure, match="do not move: 30 records wait"):
                [done async for done in replaying.run(consumer)]


async def test_the_end_is_kept_before_anything_is_sent(
    settings: Settings, topics: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a crash in the first chunk would make the next run read what this one sent."""
    request = Request({}, Bounds(), everything=True, state_path=tmp_path / "state.json")
    async with desk(settings) as at:
        await send(settings, at.topic, [Sent(json.dumps(usage("a")).encode())])
        for _ in range(2):
            async with replay.open_replay(settings, at.connection, request) as (crashing, consumer):
                assert crashing.state.stretches == [Stretch(0, 0, 1, 0)]
                monkeypatch.setattr(crashing, "_mark", _crash)
                with pytest.raises(ZeroDivisionError):
                    [done async for done in crashing.run(consumer)]


async def _crash(_: object) -> None:
    raise ZeroDivisionError


async def test_records_that_never_come_are_told(
    settings: Settings, topics: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_log, "SILENT_SECONDS_MAX", 0.5)
    topic = topics[USAGE_EVENTS.name]
    await send(settings, topic, [Sent(b"{")] * 3)
    async with replay_log.open_log(settings, 100) as consumer:
        chunks = replay_log.read_stretches(consumer, topic, [Stretch(0, 0, 9, 0)])
        with pytest.raises(Failure, match="hands out nothing"):
            [chunk async for chunk in chunks]


async def test_a_letter_of_an_earlier_epoch_is_found_by_its_place(settings: Settings) -> None:
    value = json.dumps(usage("dead")).encode()
    async with desk(settings) as at:
        await at.connection.execute(
            'INSERT INTO dead_letter (topic, partition, epoch, "offset", reason, detail,'
            " payload, payload_bytes, payload_sha256, appended_at)"
            " VALUES ($1, 0, 1, 7, 'unprocessable', '', $2, 1, $3, now())",
            at.topic,
            value,
            hashlib.sha256(value).digest(),
        )
        window = TimeWindow(35 * DAY_MS)
        now_ms = round(datetime.now(UTC).timestamp() * 1000)
        surveyor = Surveyor(at.connection, at.topic, window, {0: Position(2, 50, 50, None)})
        here, elsewhere = await surveyor.survey(
            [Original(0, offset, now_ms, b"acct", value) for offset in (7, 8)]
        )
        assert (here.standing, elsewhere.standing) == (Standing.DEAD, Standing.NOT_CHARGED)


async def test_the_state_comes_back_as_it_was(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    asked = {"--topic": "usage.events"}
    async with desk(settings) as at:
        await at.open((0, 3))
        state = State(asked, [Stretch(3, 0, 10, 4)], proof=await begin(at.connection, at.topic))
    assert state.proof is not None
    state.proof.sent([(3, 8), (3, 9), (0, 1)])
    state.tally.saw(Standing.CHARGED, 4)
    state.tally.gap(Gap(3, 1, 3))
    state.tally.gap(Gap(3, 7, 8))
    assert state.tally.missing == {3: (3, 1, 7)}
    assert load_state(path, asked) is None
    save_state(path, state)
    found = load_state(path, asked)
    assert found is not None
    assert found.resumed
    found.resumed = False
    assert found == state
    assert found.left == 6
    with pytest.raises(Failure, match="another --topic"):
        load_state(path, {"--topic": "usage.dead"})
    path.write_text("{")
    with pytest.raises(Failure, match="no state of a replay"):
        load_state(path, asked)
    with pytest.raises(Failure, match="can not be written"):
        save_state(tmp_path / "no" / "state", state)
