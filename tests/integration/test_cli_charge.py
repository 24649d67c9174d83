"""`tollgate charge show | void | amend` as a person runs it."""

from collections.abc import Mapping

from adapters.settings import Settings
from tests.batches import desk, usage
from tests.commands import report, run_tollgate
from tests.corrected import wrong

WHY = ("--reason", "counted twice")


async def test_a_charge_is_shown_amended_and_voided(
    settings: Settings, environment: Mapping[str, str]
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        patch = ("--data", '{"tokens": {"input": 500}}', *WHY, "--key", "k1")
        first = await report(environment, "charge", "amend", "acct", "e1", *patch)
        assert (first["changed"], first["amount_change_micro"]) == (True, -1_875)
        again = await run_tollgate(environment, "charge", "amend", "acct", "e1", *patch)
        assert again.stdout == (
            "acct e1: correction 1, 0.001875 credits given back before, with this key; "
            "balance 999.998125\n"
        )
        gone = await run_tollgate(environment, "charge", "void", "acct", "e1", *WHY)
        assert gone.stdout == (
            "acct e1: correction 2, 0.001875 credits given back; balance 1,000.000000\n"
        )
        twice = await run_tollgate(environment, "charge", "void", "acct", "e1", *WHY)
        assert twice.stdout == "acct e1: nothing to change, it is void: 0.000000 credits\n"
        shown = await run_tollgate(environment, "charge", "show", "acct", "e1")
        assert shown.returncode == 0, shown.stderr
        assert "charged    0.003750 credits by model:openai/gpt-4o\n" in shown.stdout
        assert "now        void, 0.000000 credits\n" in shown.stdout
        assert "counted twice" in shown.stdout
        found = await report(environment, "charge", "show", "acct", "e1")
        assert [row["kind"] for row in found["corrections"]] == ["amend", "void"]
        assert (found["now"]["voided"], found["charge"]["amount_micro"]) == (True, 3_750)
        assert await wrong(bench) == []


async def test_what_can_not_be_done_is_one_line(
    settings: Settings, environment: Mapping[str, str]
) -> None:
    async with desk(settings) as bench:
        await bench.open()
        await bench.apply(usage("e1"))
        for arguments, status, line in (
            (("void", "acct", "e9", *WHY), 1, "account 'acct' was never charged for an event 'e9'"),
            (("void", "acct", "e1"), 2, "Missing option '--reason'"),
            (("void", "acct", "e1", "--reason", ""), 1, "a reason is printable and from 1 to 500"),
            (("amend", "acct", "e1", "--data", "{", *WHY), 2, "--data is no JSON"),
            (("amend", "acct", "e1", "--data", "7", *WHY), 2, "--data is one JSON object"),
            (
                ("amend", "acct", "e1", "--data", '{"model": "none"}', *WHY),
                1,
                "the amended event has no price (unpriced): price version 1 does not know",
            ),
        ):
            done = await run_tollgate(environment, "charge", *arguments)
            assert (done.returncode, done.stdout) == (status, "")
            assert line in done.stderr
            assert done.stderr.count("\n") == 1
        assert await bench.value("SELECT count(*) FROM charge_correction") == 0
