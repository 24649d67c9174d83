"""The traffic that is measured: generated usage, published to a place before anything drains it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from bench.site import Place
from producers.load import Load, LoadSpec
from producers.sending import publish_records

SPAN_SECONDS = 3_600.0
ZIPF_SHARE = 0.147  # what the first of 500 accounts has when the shares are a plain Zipf law
MIXED = LoadSpec(
    events=0,
    seed=20261121,
    start=datetime.min.replace(tzinfo=UTC),
    span_seconds=SPAN_SECONDS,
    accounts=500,
    models=20,
    hot_share=ZIPF_SHARE,
    duplicates=0.02,
    changed_timestamps=0.5,
    poison=0.005,
)
"""500 accounts, 20 models, 2 % duplicates, 0.5 % poison; like the traffic of `tollgate demo`."""


async def publish(place: Place, spec: LoadSpec, records: int) -> dict[str, Any]:
    """Publishes so many records, with times in the last hour, and returns their manifest."""
    start = datetime.now(UTC) - timedelta(seconds=spec.span_seconds)
    load = Load(replace(spec, events=records, start=start))
    await publish_records(place.settings.kafka, place.topic, load)
    return load.manifest.document()
