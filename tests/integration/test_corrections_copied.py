"""Analysts see net usage: what the ledger charged less what corrections gave back, exactly."""

import asyncio
from decimal import Decimal

from adapters.audit import audit
from adapters.charges import amend, void
from adapters.settings import Settings
from tests.batches import desk, usage
from tests.corrected import count_scans, request, scan, wrong
from tests.shipping import ask, bench

NET = "SELECT sum(events), sum(tokens), sum(quantity), sum(credits) FROM net_usage_by_day"
SINGLE = "SELECT count(), sum(tokens), sum(quantity), sum(credits) FROM net_usage"
ONE = "SELECT tokens, credits, corrections FROM net_usage WHERE event_id = 'e2'"
CHARGED = "SELECT count(), sum(credits) FROM usage"


async def test_net_usage_is_what_the_ledger_charged(settings: Settings) -> None:
    async with desk(settings) as made, bench(settings) as shipping:
        await made.open()
        await count_scans(made)
        events = [usage("e1"), usage("e2"), usage("e3"), scan("s1", 10), scan("s2", 10)]
        await made.apply(*events)
        await shipping.drain()  # the charges are there before their corrections, and stay
        await void(made.connection, request("e1"))
        await amend(made.connection, request("e2"), {"tokens": {"input": 2_000}})
        await void(made.connection, request("s1"))
        await shipping.drain_with_credits()
        assert await wrong(made) == []
        paid = await made.value(
            "SELECT sum(amount_micro) FILTER (WHERE type = 'WELCOME') - "
            "(SELECT balance_micro FROM account) FROM credit_transaction"
        )
        assert paid == 7_500 + 3_750 + 100_000
        net = (3, 3_000, 12, Decimal(int(paid)) / 1_000_000)
        assert await asyncio.to_thread(ask, settings, NET) == [net]
        assert await asyncio.to_thread(ask, settings, SINGLE) == [net]
        assert await asyncio.to_thread(ask, settings, ONE) == [(2_000, Decimal("0.0075"), 1)]
        charged = Decimal(3 * 3_750 + 150_000) / 1_000_000
        assert await asyncio.to_thread(ask, settings, CHARGED) == [(5, charged)]
        report = await audit(settings)
        assert [result.findings for result in report.results if result.found] == []
