"""`tollgate verify`: all invariants, exact, every difference by name."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from adapters.audit import Report

SHOWN_MAX = 50


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("verify", epilog="Example: tollgate verify --json | jq .exact")
    def verify(
        as_json: Annotated[
            bool, typer.Option("--json", help="Print the whole report as JSON.")
        ] = False,
    ) -> None:
        """Check every invariant on one consistent snapshot and name each difference.

        Balances against the ledger and the grants, corrections against their charges and credits,
        counters, the audit log's chain, every offset of the topic, ClickHouse against PostgreSQL
        per account and day. Workers may run meanwhile. Exit 1 on any difference.
        """
        from adapters.audit import audit
        from adapters.settings import load_settings
        from core.audit import Check
        from tollgate.output import print_json, progress

        with progress("checking", total=len(Check)) as steps:
            report = asyncio.run(audit(load_settings(), lambda _: steps.advance()))
        if as_json:
            print_json(_document(report))
        else:
            _print(report)
        if not report.exact:
            raise typer.Exit(1)


def _document(report: "Report") -> dict[str, Any]:
    return {
        "exact": report.exact,
        "taken_at": report.taken_at,
        "generation": report.generation,
        "waiting": {
            "offsets": report.waiting.offsets,
            "credit_transactions": report.waiting.transactions,
            "corrections": report.waiting.corrections,
        },
        "audit_anchor": str(report.audit_anchor),
        "checks": [asdict(result) for result in report.results],
    }


def _print(report: "Report") -> None:
    from tollgate.output import print_table, say

    print_table(
        ["check", "compared", "", "findings"],
        [(r.check.value, r.compared, r.what, r.found) for r in report.results],
        title=f"Snapshot of {report.taken_at:%Y-%m-%d %H:%M:%S} UTC",
    )
    findings = [finding for result in report.results for finding in result.findings]
    if findings:
        print_table(
            ["check", "where", "expected", "found"],
            [(f.check.value, f.subject, f.expected, f.found) for f in findings[:SHOWN_MAX]],
            title="Differences",
        )
    total = sum(result.found for result in report.results)
    if total > SHOWN_MAX:
        say(f"... and {total - SHOWN_MAX:,} more: --json names them")
    waiting = report.waiting
    if waiting.total:
        say(
            f"Not in ClickHouse yet: {waiting.offsets:,} offsets of usage, "
            f"{waiting.transactions:,} credit transactions, {waiting.corrections:,} corrections."
        )
    say(f"Audit log up to here: --anchor {report.audit_anchor}")
    say("Exact: no difference." if report.exact else f"NOT exact: {total:,} differences.")
