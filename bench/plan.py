"""The whole measurement, scenario after scenario, as one document."""

import asyncio
import sys
from dataclasses import dataclass, replace
from typing import Any

from adapters.failures import Failure
from bench.caller import caller_cost
from bench.drain import Drain, drain
from bench.gate import gate
from bench.limits import raw_limits
from bench.machine import machine, versions
from bench.naive import naive_rate
from bench.rating import rating_cost
from bench.refresh import refresh_all
from bench.site import Place, Site
from bench.steady import steady
from bench.traffic import MIXED, publish
from producers.load import LoadSpec

STEADY_RATE = 2_000
CALLS = 10_000
NAIVE_WORKERS = 2
HOT_ACCOUNT = replace(MIXED, hot_share=0.4)
ONE_ACCOUNT = replace(MIXED, accounts=1)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: records of the main drain and how often it runs, seconds of traffic,
    requests a second at the gate and for how long, accounts of each refresh.
    """

    records: int
    repeats: int
    steady_seconds: float
    gate_rate: int
    gate_seconds: float
    accounts: tuple[int, ...]


async def measure(site: Site, size: Size) -> dict[str, Any]:
    """Runs everything, remarks on stderr; Failure when a worker ends or a drain is not exact."""
    document: dict[str, Any] = {"machine": machine(), "versions": versions(site)}
    drains, place = [], None
    for run in range(size.repeats):
        place, done = await _drain_of(site, f"mixed traffic, run {run + 1}", MIXED, size.records)
        drains.append(done)
    main = sorted(drains, key=lambda done: done.seconds)[len(drains) // 2]
    document["end_to_end"] = main.document()
    document["runs_per_second"] = [round(done.records / done.seconds) for done in drains]
    _say("raw limits, on what the last drain left behind")
    assert place is not None  # noqa: S101 - at least one run
    document["limits"] = await raw_limits(site, place, size.records)
    half = size.records // 2
    for name, what, spec in (
        ("hot_account", "one account with 40 % of the traffic", HOT_ACCOUNT),
        ("one_account", "everything on one account", ONE_ACCOUNT),
    ):
        _, done = await _drain_of(site, what, spec, half)
        document[name] = done.document()
    _, done = await _drain_of(site, "one rater alone", MIXED, half, raters=1, warehouse=False)
    document["one_rater"] = done.document()
    document["naive"] = await _naive(site, max(1_000, size.records // 15))
    half_rate = round(main.records / main.seconds / 2)
    document["latency"] = [
        await _latency(site, rate, size.steady_seconds) for rate in (STEADY_RATE, half_rate)
    ]
    _say("the caller's cost of the client")
    document["caller"] = await caller_cost(await site.new_place("caller"), CALLS)
    _say("rating alone, beside genai-prices and LiteLLM")
    document["rating"] = await asyncio.to_thread(rating_cost)
    half_of_one = document["one_rater"]["records_per_second"] // 2
    _say(f"the gate at {size.gate_rate:,} requests/s, its rater at {half_of_one:,} events/s")
    document["gate"] = await gate(site, size.gate_rate, size.gate_seconds, half_of_one)
    document["refresh"] = [await _refresh(site, accounts) for accounts in size.accounts]
    document["ratios"] = _ratios(document)
    return document


async def _drain_of(
    site: Site,
    what: str,
    spec: LoadSpec,
    records: int,
    *,
    raters: int = 2,
    warehouse: bool = True,
) -> tuple[Place, Drain]:
    _say(f"{what}: publishing {records:,} records, then draining them")
    place = await site.new_place("drain")
    await publish(place, spec, records)
    done = await drain(site, place, records, raters=raters, warehouse=warehouse)
    if warehouse and not done.exact:
        raise Failure(f"{what}: the stores do not agree after the drain")
    return place, done


async def _naive(site: Site, records: int) -> dict[str, int]:
    _say(f"the naive design: {records:,} records, one transaction each")
    place = await site.new_place("naive")
    manifest = await publish(place, replace(MIXED, poison=0.0), records)
    rate = await naive_rate(
        site, place, manifest["unique"], accounts=MIXED.accounts, workers=NAIVE_WORKERS
    )
    return {"records": records, "workers": NAIVE_WORKERS, "records_per_second": rate}


async def _latency(site: Site, rate: int, seconds: float) -> dict[str, Any]:
    _say(f"latency at {rate:,} events/s for {seconds:.0f} s")
    return (await steady(site, await site.new_place("steady"), rate, seconds)).document()


async def _refresh(site: Site, accounts: int) -> dict[str, Any]:
    _say(f"the monthly allowance of {accounts:,} accounts, twice, with a kill")
    return await refresh_all(site, accounts)


def _ratios(document: dict[str, Any]) -> dict[str, float]:
    """The whole way as a share of each raw limit, and as a multiple of the naive design."""
    whole = document["end_to_end"]["records_per_second"]
    shares = {
        f"of_raw_{name}": round(whole / limit, 3) for name, limit in document["limits"].items()
    }
    return {**shares, "of_naive": round(whole / document["naive"]["records_per_second"], 1)}


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
