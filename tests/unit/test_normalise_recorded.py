"""A file of recorded provider answers: every row becomes usage or a named refusal.

TOLLGATE_TRACES names a directory with the published recordings (864 rows of 17 hosts); without it,
the rows of tests/data/recorded_usage.jsonl, made by hand in the same forms, go through the same
test. What was read is compared with genai-prices, which knows providers by itself.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot

from producers.normalise.outcome import Normalised, Refused
from producers.normalise.recorded import normalise_recorded
from schemas.events import TokenCounts

TRACES = os.environ.get("TOLLGATE_TRACES")
PUBLISHED = Path(TRACES or "") / "openllmetry_usage.jsonl"
SAMPLES = Path(__file__).parents[1] / "data" / "recorded_usage.jsonl"
ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in (PUBLISHED if TRACES else SAMPLES).read_text(encoding="utf-8").splitlines()
]

# By provider, because hosts of Azure and of databases are somebody's own: rows that became usage.
READ = (
    {
        "anthropic": 90,
        "aws": 42,
        "azure": 43,
        "cohere": 55,
        "deepseek": 3,
        "google": 2,
        "groq": 39,
        "mistral": 19,
        "openai": 456,
        "together": 6,
        "voyageai": 4,
        "writer": 64,
    }
    if TRACES
    else {
        "anthropic": 6,
        "aws": 6,
        "azure": 2,
        "cohere": 8,
        "deepseek": 1,
        "google": 1,
        "groq": 2,
        "mistral": 3,
        "openai": 7,
        "together": 1,
        "voyageai": 1,
        "writer": 2,
    }
)
# And rows that did not, by what is at their host.
REFUSED = (
    {
        ("amazonaws", "incomplete"): 3,
        ("localhost", "unknown_provider"): 37,
        ("pinecone", "unknown_units"): 1,
    }
    if TRACES
    else {
        ("amazonaws", "incomplete"): 1,
        ("localhost", "unknown_provider"): 2,
        ("pinecone", "unknown_units"): 1,
    }
)
PLACES = ("amazonaws", "localhost", "pinecone")

# Why genai-prices reads nothing where a row was read. It answers each with an exception.
NOT_READ_THERE = {
    "no such provider": "a provider that it does not know, as Writer",
    "no mapping": "a provider that it has prices for and no mapping, as Together and Voyage",
    "part of a stream": "the last usage of an Anthropic stream has no input; the first has it",
    "no tokens": "search units of Cohere's rerank, which are no tokens",
    "embedding": "Cohere's embeddings bill no output, and its mapping wants one",
    "foreign form": "a container on SageMaker that answers in OpenAI's form",
}


def test_every_row_is_usage_or_a_named_refusal() -> None:
    read: Counter[str] = Counter()
    refused: Counter[tuple[str, str]] = Counter()
    for row in ROWS:
        found = normalise_recorded(row)
        if isinstance(found, Normalised):
            assert len(found.lines) == 1, "none of these rows bills twice"
            read[found.lines[0].provider] += 1
        else:
            place = next(place for place in PLACES if place in row["host"])
            refused[place, str(found.reason)] += 1
    assert dict(read) == READ
    assert dict(refused) == REFUSED
    assert sum(read.values()) + sum(refused.values()) == len(ROWS)


def test_a_server_of_ones_own_is_read_once_it_has_a_name() -> None:
    rows = [row for row in ROWS if row["host"].startswith("localhost")]
    for row in rows:
        found = normalise_recorded(row, "vllm")
        assert isinstance(found, Normalised), found
        assert (found.lines[0].provider, found.lines[0].model) == ("vllm", row["response_model"])
    assert rows


def test_models_are_the_responses_except_where_the_request_says_more() -> None:
    for row in ROWS:
        found = normalise_recorded(row)
        if isinstance(found, Refused) or not found.lines[0].model:
            continue
        line = found.lines[0]
        if line.provider == "aws":
            tail = row["path"].replace("%3A", ":").replace("%2F", "/").rsplit("/", 1)[0]
            assert tail.endswith(line.model)
        else:
            assert line.model == (row["response_model"] or row["request_model"])


KINDS = (
    ("input", "input_tokens"),
    ("output", "output_tokens"),
    ("cache_read", "cache_read_tokens"),
    ("cache_write", "cache_write_tokens"),
    ("cache_write_1h", "cache_write_1h_tokens"),
    ("reasoning", "output_reasoning_tokens"),
    ("audio_input", "input_audio_tokens"),
    ("audio_output", "output_audio_tokens"),
    ("image_input", "input_image_tokens"),
    ("image_output", "output_image_tokens"),
    ("video_input", "input_video_tokens"),
)
FLAVORS = ("default", "chat", "responses", "embeddings", "anthropic")


def read_by_genai_prices(row: dict[str, Any]) -> TokenCounts | str:
    """What its provider's mapping says, without its search for a model; or why there is none."""
    address = f"https://{row['host'].removesuffix(':443')}{row['path']}"
    usage = row["usage"]
    body = {
        "usage": usage,
        "meta": usage,
        "usageMetadata": usage,
        "model": "m",
        "modelVersion": "m",
    }
    try:
        provider = get_snapshot().find_provider(None, None, address)
    except LookupError:
        return "no such provider"
    if not provider.extractors:
        return "no mapping"
    known = {extractor.api_flavor for extractor in provider.extractors}
    problems = []
    for flavor in (flavor for flavor in FLAVORS if flavor in known):
        try:
            _, said = provider.extract_usage(body, api_flavor=flavor)
        except ValueError as problem:
            problems.append(str(problem))
        else:
            return TokenCounts(**{ours: int(getattr(said, name) or 0) for ours, name in KINDS})
    return explained(row, provider.id)


def explained(row: dict[str, Any], provider: str) -> str:
    usage = row["usage"]
    if provider == "anthropic" and "first_usage" in row and "input_tokens" not in usage:
        return "part of a stream"
    if provider == "cohere" and "search_units" in usage["billed_units"]:
        return "no tokens"
    if provider == "cohere" and "output_tokens" not in usage["billed_units"]:
        return "embedding"
    if provider == "aws" and "prompt_tokens" in usage:
        return "foreign form"
    return "not explained"


@pytest.mark.parametrize("place", sorted({row["host"] for row in ROWS}))
def test_genai_prices_reads_the_same_or_a_difference_has_its_reason(place: str) -> None:
    for row in (row for row in ROWS if row["host"] == place):
        found, other = normalise_recorded(row), read_by_genai_prices(row)
        if isinstance(found, Refused):
            # Never more cautious than the oracle, but where output without a count is a guess.
            assert isinstance(other, str), (row, found, other)
        elif isinstance(other, str):
            assert other in NOT_READ_THERE, (row, found)
        else:
            assert found.lines[0].tokens == other, row


def test_most_rows_are_compared() -> None:
    compared = Counter(
        "the same" if isinstance(other, TokenCounts) else other
        for row in ROWS
        if isinstance(normalise_recorded(row), Normalised)
        for other in [read_by_genai_prices(row)]
    )
    assert set(compared) <= {"the same", *NOT_READ_THERE}
    assert compared["the same"] == (706 if TRACES else 32)
    assert compared.total() == sum(READ.values())
