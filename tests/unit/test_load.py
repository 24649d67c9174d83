"""The generator: repeatable, shaped like the published traces, and right about its own answer."""

import json
import statistics
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from core.prices import PriceHistory
from core.rating import Rated, rate
from producers.connection import RawRecord
from producers.load import Load, LoadSpec
from producers.load_poison import KINDS, Poison
from producers.load_shapes import MODELS, Profile
from schemas.events import Reason, Rejected, TimeWindow, UsageEvent, decode, payload_hash
from tests import priced_usage
from tests.priced_usage import FREE

NOW = datetime(2026, 11, 21, 9, 0, 0, 123456, tzinfo=UTC)
SPEC = LoadSpec(
    events=20_000, seed=7, start=NOW - timedelta(hours=1), span_seconds=3600.0, accounts=300
)
DIRTY = replace(SPEC, duplicates=0.05, changed_timestamps=0.4, poison=0.05)


@pytest.fixture(scope="module")
def history() -> PriceHistory:
    return priced_usage.history()


def decoded(record: RawRecord) -> UsageEvent | Rejected:
    key, value = record
    return decode(value, key, int(NOW.timestamp() * 1000), TimeWindow())


def events_of(spec: LoadSpec) -> list[UsageEvent]:
    found = [decoded(record) for _, record in Load(spec)]
    return [event for event in found if isinstance(event, UsageEvent)]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, again = list(Load(DIRTY)), list(Load(DIRTY))
    assert first == again
    other = list(Load(replace(DIRTY, seed=8)))
    assert {value for _, (_, value) in other}.isdisjoint(
        value for _, (_, value) in first if value and len(value) > 100 and b"load-7-" in value
    )


def test_the_manifest_is_what_an_independent_reading_finds(history: PriceHistory) -> None:
    load = Load(DIRTY)
    charged: dict[tuple[str, str], int] = {}
    reasons: Counter[Reason] = Counter()
    times: dict[tuple[str, str], datetime] = {}
    duplicates = changed = tokens_in = tokens_out = 0
    for _, record in load:
        event = decoded(record)
        if isinstance(event, Rejected):
            reasons[event.reason] += 1
            continue
        priced = rate(event, history, FREE)
        identity, digest = (event.subject, event.id), payload_hash(event)
        if isinstance(priced, Rejected):
            reasons[priced.reason] += 1
        elif identity not in charged:
            charged[identity], times[identity] = digest, event.time
            tokens_in += event.data.tokens.input
            tokens_out += event.data.tokens.output
        elif charged[identity] == digest:
            duplicates += 1
            changed += times[identity] != event.time
        else:
            reasons[Reason.DUP_MISMATCH] += 1
    manifest = load.manifest
    assert reasons == manifest.poison
    assert len(charged) == manifest.unique
    assert (duplicates, changed) == (manifest.duplicates, manifest.changed_timestamps)
    assert (tokens_in, tokens_out) == (manifest.input_tokens, manifest.output_tokens)
    assert manifest.records == 20_000
    assert manifest.records == manifest.unique + duplicates + sum(reasons.values())
    assert 0.04 < duplicates / 20_000 < 0.06
    assert 0.04 < sum(reasons.values()) / 20_000 < 0.06
    assert set(reasons) == {kind.reason for kind in KINDS}, "every kind of poison came"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_poison_gets_its_reason(history: PriceHistory, kind: Poison) -> None:
    [good] = events_of(replace(SPEC, events=1, work=0.0))
    [(_, (_, value))] = Load(replace(SPEC, events=1, work=0.0))
    assert value is not None
    bad = decoded(kind.make(json.loads(value)))
    if isinstance(bad, Rejected):
        assert bad.reason is kind.reason
    elif kind.of_earlier:
        assert (bad.subject, bad.id) == (good.subject, good.id)
        assert payload_hash(bad) != payload_hash(good)
    else:
        priced = rate(bad, history, FREE)
        assert isinstance(priced, Rejected)
        assert priced.reason is kind.reason


def test_every_model_and_action_has_a_price(history: PriceHistory) -> None:
    seen = set()
    for event in events_of(replace(SPEC, work=0.2)):
        priced = rate(event, history, FREE)
        assert isinstance(priced, Rated), (event.data, priced)
        assert priced.rated_micro > 0 or event.data.tokens.input < 20
        seen.add((event.data.provider, event.data.model))
    assert {(model.provider, model.name) for model in MODELS} <= seen


@pytest.mark.parametrize(
    ("profile", "median_in", "median_out"),
    # exp of the published means of the logarithms
    [("chat", 757, 151), ("large", 437, 42), ("reasoning", 189, 880), ("image", 925, 67)],
)
def test_token_sizes_have_the_published_medians(
    profile: str, median_in: int, median_out: int
) -> None:
    events = events_of(replace(SPEC, profile=Profile(profile), work=0.0))
    tokens = [event.data.tokens for event in events]
    assert statistics.median(t.input for t in tokens) == pytest.approx(median_in, rel=0.07)
    outputs = [t.output for t in tokens if t.output]
    assert statistics.median(outputs) == pytest.approx(median_out, rel=0.1)
    if profile == "reasoning":
        shares = [t.reasoning / t.output for t in tokens if t.output > 100]
        assert statistics.median(shares) == pytest.approx(0.76, abs=0.03)
    if profile == "image":
        images = [t.image_input for t in tokens if t.input > 1280]
        assert statistics.median(images) == pytest.approx(468, rel=0.1)


def test_traffic_is_bursty_and_skewed() -> None:
    events = events_of(SPEC)
    accounts = Counter(event.subject for event in events)
    [(busiest, count)] = accounts.most_common(1)
    assert busiest == "acct-00001"
    assert count / len(events) == pytest.approx(0.4, abs=0.03)
    assert len(accounts) > 250
    assert sum(1 for total in accounts.values() if total < 20) > 100, "many are small"

    def fano(slot_seconds: int) -> float:
        slots = Counter(
            int((event.time - SPEC.start).total_seconds()) // slot_seconds for event in events
        )
        counts = [slots[slot] for slot in range(3600 // slot_seconds)]
        return statistics.variance(counts) / statistics.mean(counts)

    assert fano(1) > 1.4
    assert fano(60) > 10
    steady = [event.time for event in events_of(replace(SPEC, steady=True))]
    minutes = Counter((moment - SPEC.start) // timedelta(minutes=1) for moment in steady)
    calm = [minutes[minute] for minute in range(60)]
    assert statistics.variance(calm) / statistics.mean(calm) < 5


def test_includes_what_breaks_naive_pipelines() -> None:
    texts = [value for _, (_, value) in Load(SPEC) if value]
    events = events_of(SPEC)
    assert any(event.data.tokens.input and not event.data.tokens.output for event in events)
    assert sum(a.time == b.time for a, b in pairwise(events)) > 200, "equal timestamps"
    assert any(b'0Z"' in text and text.split(b'"time":"')[1][26:28] == b"0Z" for text in texts)
    assert len({event.id for event in events}) == len(events)


def test_cached_share_is_sticky_in_a_conversation() -> None:
    talks: dict[str, list[float]] = {}
    for event in events_of(replace(SPEC, work=0.0, profile=Profile.CHAT)):
        tokens = event.data.tokens
        if tokens.input > 1_000:
            talks.setdefault(event.data.resource_id, []).append(tokens.cache_read / tokens.input)
    long = [shares for shares in talks.values() if len(shares) > 3]
    assert max(max(shares) - min(shares) for shares in long) < 0.01
    assert statistics.pstdev([shares[0] for shares in long]) > 0.1, "but differs between them"


def test_times_stay_within_the_span() -> None:
    due = [seconds for seconds, _ in Load(SPEC)]
    assert all(a <= b for a, b in pairwise(due))
    assert due[0] >= 0
    assert 3400 < due[-1] <= 3600
