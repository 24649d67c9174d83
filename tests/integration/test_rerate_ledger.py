"""Re-rating from the ledger on real PostgreSQL and ClickHouse: what-if, apply, revert, bounds."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from adapters import charges, rerate, rerate_ledger, rerate_runs
from adapters.charges import Request
from adapters.failures import Failure
from adapters.postgres import connect
from adapters.price_store import load_history
from adapters.rerate_ledger import Piece, whole_batches
from adapters.rerate_runs import RunKind
from adapters.settings import Settings
from core.rerating import Tally
from tests.batches import NOW, desk, usage
from tests.conftest import in_a_loop
from tests.planted_ledger import run_sql
from tests.rerated import DAY, change_price, new_run, revert, run
from tests.shipping import ask

GPT_4O = 3_750
DOUBLE = {"currencies": {"USD": [{"credits": "2"}]}}
WELCOME = 1_000_000_000
APPLY = RunKind.APPLY
BALANCE = "SELECT balance_micro FROM account WHERE account_id = $1"


def request(event_id: str, account_id: str = "acct") -> Request:
    return Request(account_id, event_id, "tests", "wrong")


async def test_a_what_if_says_what_would_differ_and_touches_nothing(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"), usage("e3", "other"))
        await change_price(bench, currencies={"USD": [{"credits": "2"}]})
        before = await bench.state()
        done = await run(bench)
        assert await bench.state() == before
        assert (done.tally.events, done.tally.changed) == (3, 3)
        assert (done.tally.old_micro, done.tally.new_micro) == (3 * GPT_4O, 6 * GPT_4O)
        lines = ask(
            settings,
            "SELECT run_id, account_id, event_id, model, old_version, new_version, old_micro,"
            " new_micro, verdict FROM rerate_line ORDER BY event_id",
        )
        assert lines == [
            (done.run_id, account, event, "gpt-4o", 1, 2, GPT_4O, 2 * GPT_4O, "changed")
            for account, event in (("acct", "e1"), ("acct", "e2"), ("other", "e3"))
        ]
        same = await run(bench, book="1")
        assert (same.tally.changed, same.tally.difference_micro) == (0, 0)


async def test_applied_differences_are_booked_once_and_linked_to_their_charges(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"), usage("e3", "other"), usage("o", model="o3"))
        await change_price(bench, **DOUBLE)
        done = await run(bench, APPLY)
        assert done.tally.changed == 4
        assert await bench.value(BALANCE, "other") == WELCOME - 2 * GPT_4O
        linked = """
            SELECT account_id, event_id, correction.kind, correction.run_id, correction.reason,
                   -entry.amount_micro, entry.type, correction.price_version
            FROM charge_correction AS correction JOIN credit_transaction AS entry
            USING (transaction_id, account_id, event_id) WHERE event_id = 'e3'"""
        assert [tuple(row) for row in await bench.connection.fetch(linked)] == [
            ("other", "e3", "rerate", done.run_id, "why", GPT_4O, "CORRECTION", 2)
        ]
        before = await bench.state()
        again = await run(bench, APPLY)
        assert (again.tally.events, again.tally.changed) == (4, 0)
        assert await bench.state() == before


async def test_a_run_is_taken_back_to_the_byte_and_once(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2", "other"), usage("e3", "other"))
        balances = "SELECT json_agg(a ORDER BY a) FROM account a"
        before = await bench.value(balances)
        await change_price(bench, **DOUBLE)
        done = await run(bench, APPLY)
        assert await bench.value(balances) != before
        back = await revert(bench, done.run_id)
        assert await bench.value(balances) == before
        assert (back.tally.changed, back.tally.difference_micro) == (3, -3 * GPT_4O)
        with pytest.raises(Failure, match=f"was reverted by run {back.run_id} before"):
            await revert(bench, done.run_id)
        with pytest.raises(Failure, match="is a revert: only an applied run"):
            await revert(bench, back.run_id)
        assert (await run(bench)).tally.changed == 3


async def test_what_was_corrected_after_a_run_keeps_that_when_the_run_is_taken_back(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"))
        await change_price(bench, **DOUBLE)
        done = await run(bench, APPLY)
        await charges.void(bench.connection, request("e1"))
        back = await revert(bench, done.run_id)
        assert (back.tally.events, back.tally.changed, back.tally.superseded) == (2, 1, 1)
        assert await bench.value(BALANCE, "acct") == WELCOME - GPT_4O


async def test_corrections_count_in_the_state_in_force(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"), usage("e3"))
        await charges.void(bench.connection, request("e1"))
        await charges.amend(bench.connection, request("e2"), {"tokens": {"input": 2_000}})
        await change_price(bench, **DOUBLE)
        found = (await run(bench)).tally
        assert (found.events, found.voided, found.changed) == (3, 1, 2)
        assert (found.old_micro, found.new_micro) == (3 * GPT_4O, 6 * GPT_4O)
        await run(bench, APPLY)
        assert await bench.value(BALANCE, "acct") == WELCOME - 6 * GPT_4O


async def test_a_charge_that_is_corrected_meanwhile_is_priced_anew(settings: Settings) -> None:
    """Somebody voids an event after the run has read it and before it locks the account."""
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"))
        await change_price(bench, **DOUBLE)
        started = await rerate.start(bench.connection, settings, await new_run(bench, APPLY))
        assert started is not None
        history = await load_history(bench.connection)
        right = rerate._price(started, history)
        voided = []

        async def void() -> None:
            other = await connect(settings, application_name="tests")
            await charges.void(other, request("e2"))
            await other.close()

        def price(*arguments: Any) -> Any:
            if not voided:
                voided.append(True)
                in_a_loop(void)
            return right(*arguments)

        pricing = rerate.Pricing(price, history)
        await rerate._apply(bench.connection, started, pricing, lambda _: None)
        done = await rerate_runs.read(bench.connection, started.run_id)
        assert (done.tally.events, done.tally.changed, done.tally.voided) == (2, 1, 1)
        assert await bench.value(BALANCE, "acct") == WELCOME - 2 * GPT_4O


async def test_two_processes_do_not_do_the_same_chunk(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await change_price(bench, **DOUBLE)
        for kind in RunKind.WHAT_IF, APPLY:
            new = await new_run(bench, kind)
            started = await rerate.start(bench.connection, settings, new)
            assert started is not None
            await bench.connection.execute(
                rerate_runs.SQL.move_run, started.run_id, "{}", *([0] * 8)
            )
            before = await bench.state()
            with pytest.raises(Failure, match="at work elsewhere"):
                await rerate.go_on(bench.connection, settings, started, lambda _: None)
            assert await bench.state() == before


async def test_one_run_at_a_time_moves_credits(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        done = await run(bench, APPLY)
        started = await rerate.start(bench.connection, settings, await new_run(bench, APPLY))
        assert started is not None
        with pytest.raises(Failure, match=f"rerate resume {started.run_id}` goes on with it"):
            await run(bench, APPLY)
        with pytest.raises(Failure, match=f"run {started.run_id} .apply. is not finished"):
            await revert(bench, done.run_id)
        await run(bench)
        assert (await revert(bench, started.run_id)).reverts == started.run_id
        assert (await run(bench, APPLY)).tally.events == 1


async def test_only_the_accounts_that_are_named(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2", "other"))
        await change_price(bench, **DOUBLE)
        assert (await run(bench, accounts=["other"])).tally.events == 1
        await run(bench, APPLY, accounts=["other"])
        assert await bench.value(BALANCE, "acct") == WELCOME - GPT_4O
        with pytest.raises(Failure, match="there is no account nobody"):
            await run(bench, accounts=["other", "nobody"])


async def test_what_has_no_price_in_the_book_stays_as_it_is(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2", model="o3"))
        await change_price(bench, catalog={"source": "none", "providers": []}, models={})
        before = await bench.value(BALANCE, "acct")
        done = await run(bench, APPLY)
        assert (done.tally.unpriced, done.tally.changed) == (2, 0)
        assert await bench.value(BALANCE, "acct") == before


async def test_a_demo_account_is_priced_again_and_pays_nothing(settings: Settings) -> None:
    async with desk(settings, default_demo=True) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await change_price(bench, **DOUBLE)
        done = await run(bench, APPLY)
        assert (done.tally.changed, done.tally.new_micro) == (1, 0)
        rated = "SELECT rated_micro FROM charge_correction WHERE transaction_id IS NULL"
        assert await bench.value(rated) == 2 * GPT_4O
        assert await bench.value(BALANCE, "acct") == WELCOME


async def test_the_stretch_is_of_event_times(settings: Settings) -> None:
    """From the first moment on, up to before the last; the batches around it hold nothing else."""
    async with desk(settings) as bench:
        await bench.open()
        moments = [NOW - DAY, NOW - timedelta(seconds=1), NOW]
        events = [usage(f"e{n}") | {"time": m.isoformat()} for n, m in enumerate(moments)]
        await bench.apply(*events)
        assert (await run(bench, since=NOW - DAY, until=NOW)).tally.events == 2
        assert (await run(bench, since=NOW, until=NOW + DAY)).tally.events == 1
        assert (await run(bench, since=NOW - 9 * DAY, until=NOW - DAY)).tally.events == 0
        far = await new_run(bench, since=NOW + 2 * DAY, until=NOW + 3 * DAY)
        assert await rerate.start(bench.connection, settings, far) is None


async def test_charges_of_letters_that_waited_for_long_are_found_by_their_letters(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await bench.apply(usage("e2"), first=1)
        years_later = "UPDATE batch_outcome SET posted_at = posted_at + interval '2 years'"
        await run_sql(settings, f"{years_later} WHERE from_offset = 1")
        assert (await run(bench)).tally.events == 1
        await run_sql(
            settings,
            """INSERT INTO dead_letter (topic, partition, epoch, "offset", reason, detail,
                   account_id, event_id, payload, payload_bytes, payload_sha256, appended_at,
                   requeued_at)
               VALUES ('usage.events', 0, 1, 99, 'unpriced', '', 'acct', 'e2', 'x', 1, 'x', now(),
                       now())""",
        )
        found = await run(bench)
        assert (found.tally.events, found.extent["late"]) == (2, [found.extent["last"] + 1])


GRADUATED = {
    "charge": "graduated",
    "steps": [{"up_to": "10", "credits": "1"}, {"credits": "0.5"}],
}


async def test_a_month_that_is_open_is_counted_as_it_was(settings: Settings) -> None:
    """The rater counts in it meanwhile: another price is fine, another count is not."""
    async with desk(settings) as bench:
        await change_price(bench, actions={"counted": {"credits": "1"}})
        await bench.open()
        await bench.apply(usage("e1", action="counted", quantity=6, model="", tokens={}))
        await change_price(bench, actions={"counted": GRADUATED})
        stretch = {"since": NOW.replace(day=1, hour=0, minute=0, second=0)}
        assert (await run(bench, **stretch)).tally.changed == 1
        before = await bench.state()
        refused = rf"in {NOW:%Y-%m}, which is not over.* Run 2 booked nothing"
        with pytest.raises(Failure, match=refused):
            await run(bench, APPLY, **stretch)
        assert await bench.state() == before
        done = await run(bench, APPLY, accounts=["acct"], until=NOW)
        assert (await revert(bench, done.run_id)).tally.events == 0


async def test_a_count_is_priced_from_its_months_beginning(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The month before: late events of it are charged now, and its count can be changed.

    Each event is a chunk of its own: the run keeps its counts between them.
    """
    monkeypatch.setattr(rerate, "APPLY_OFFSETS", 1)
    monkeypatch.setattr(rerate, "WHAT_IF_OFFSETS", 1)
    cheaper = GRADUATED | {"steps": [{"up_to": "4", "credits": "1"}, {"credits": "0.25"}]}
    month = NOW.replace(day=1, hour=0, minute=0, second=0)
    before = (month - DAY).replace(day=1)
    late = {"time": (month - timedelta(minutes=1)).isoformat()}
    events = [
        usage(f"e{n}", action="counted", quantity=6, model="", tokens={}) | late for n in range(3)
    ]
    async with desk(settings) as bench:
        await change_price(bench, NOW - 100 * DAY, actions={"counted": GRADUATED})
        await bench.open()
        await bench.apply(*events)
        assert await bench.value(BALANCE, "acct") == WELCOME - 14_000_000
        stretch = {"since": before, "until": month}
        assert (await run(bench, **stretch)).tally.changed == 0
        with pytest.raises(Failure, match=f"begin with --from {before:%Y-%m-%d}"):
            await run(bench, since=month - timedelta(hours=1), until=month)
        await change_price(bench, NOW - 99 * DAY, actions={"counted": cheaper})
        done = await run(bench, APPLY, **stretch)
        assert (done.tally.old_micro, done.tally.new_micro) == (14_000_000, 7_500_000)
        assert await bench.value(BALANCE, "acct") == WELCOME - 7_500_000
        counted = "SELECT units FROM usage_counter"
        assert await bench.value(counted) == 18
        await change_price(bench, NOW - 98 * DAY, actions={"counted": {"credits": "1"}})
        flat = await run(bench, APPLY, **stretch)
        assert await bench.value(BALANCE, "acct") == WELCOME - 18_000_000
        assert await bench.value(counted) == 0
        await revert(bench, flat.run_id)
        await revert(bench, done.run_id)
        assert await bench.value(BALANCE, "acct") == WELCOME - 14_000_000
        assert await bench.value(counted) == 18


async def test_a_silent_clickhouse_is_one_line_and_the_run_goes_on_later(
    settings: Settings,
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"), usage("e2"))
        started = await rerate.start(bench.connection, settings, await new_run(bench))
        assert started is not None
        away = settings.model_copy(update={"clickhouse": SecretStr("http://127.0.0.1:9")})
        with pytest.raises(Failure, match="ClickHouse does not answer"):
            await rerate.go_on(bench.connection, away, started, lambda _: None)
        done = await rerate.go_on(bench.connection, settings, started, lambda _: None)
        assert done.tally == Tally(events=2, old_micro=2 * GPT_4O, new_micro=2 * GPT_4O)
        assert ask(settings, "SELECT count() FROM rerate_line") == [(2,)]


async def test_a_version_of_a_newer_release_is_one_line(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        await bench.connection.execute(
            """INSERT INTO price_version (effective_from, document, digest, published_by)
               SELECT effective_from, document || '{"charge_by_mood": {}}', 'x', 'tests'
               FROM price_version LIMIT 1"""
        )
        with pytest.raises(Failure, match="price version 2 cannot be read by this release"):
            await run(bench)


async def test_lines_of_a_run_of_the_same_number_are_not_mixed(settings: Settings) -> None:
    """PostgreSQL was restored from a backup: the number comes again."""
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        ask(settings, "INSERT INTO rerate_line (run_id, event_id, old_micro) VALUES (1, 'old', 9)")
        done = await run(bench)
        assert done.run_id == 1
        assert ask(settings, "SELECT event_id FROM rerate_line") == [("e1",)]


def test_batches_stay_whole_while_they_fit() -> None:
    batches = [Piece(1, 1, 0, 0, 4), Piece(1, 1, 1, 0, 4), Piece(2, 1, 0, 4, 9)]
    assert whole_batches(batches, 12) == batches[:2]
    assert whole_batches(batches, 13) == batches
    assert whole_batches(batches, 6) == [Piece(1, 1, 0, 0, 4), Piece(1, 1, 1, 0, 2)]


async def test_chunks_of_any_size_find_each_charge_once(settings: Settings) -> None:
    async with desk(settings) as bench:
        await bench.open((0, 1))
        await bench.apply(*(usage(f"a{n}") for n in range(7)))
        await bench.apply(*(usage(f"b{n}", "other") for n in range(5)), partition=1)
        await bench.apply(*(usage(f"c{n}") for n in range(4)), first=7)
        started = await rerate.start(bench.connection, settings, await new_run(bench))
        assert started is not None
        for size in (1, 2, 3, 5, 8, 100):
            found, position = [], started.position
            while chunk := await rerate_ledger.next_chunk(
                bench.connection, replace(started, position=position), position, size
            ):
                assert len(chunk.items) <= size
                found += [item.event.id for item in chunk.items]
                position = chunk.position
            assert sorted(found) == sorted(
                f"{name}{n}" for name, count in (("a", 7), ("b", 5), ("c", 4)) for n in range(count)
            )
            assert [name[0] for name in found] == ["a"] * 7 + ["b"] * 5 + ["c"] * 4
