"""`tollgate publish` and `tollgate load` on a real broker: the topic holds what they say."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from adapters.settings import Settings
from schemas.events import Rejected, TimeWindow, UsageEvent, decode
from tests.commands import tollgate
from tests.topic_records import read_all

DATA = Path(__file__).parents[1] / "data"
SHIFTED = ("--shift-to-now", "last", "--model", "openai/gpt-4o")


def answer(environment: dict[str, str], *arguments: str, typed: str = "") -> Any:
    done = tollgate(environment, *arguments, "--json", typed=typed)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def held(settings: Settings, topics: dict[str, str]) -> list[UsageEvent | Rejected]:
    return [
        decode(record.value, record.key, record.timestamp, TimeWindow())
        for record in read_all(settings.kafka, topics["usage.events"])
    ]


@pytest.mark.parametrize("file", sorted(DATA.glob("*.csv")), ids=lambda path: path.name)
def test_a_trace_arrives_whole_and_twice_is_the_same(
    settings: Settings, topics: dict[str, str], environment: dict[str, str], file: Path
) -> None:
    said = answer(environment, "publish", str(file), *SHIFTED)
    again = answer(environment, "publish", str(file), *SHIFTED)
    assert said["published"] == again["published"] == said["events"] > 50
    events = held(settings, topics)
    assert not [event for event in events if isinstance(event, Rejected)]
    arrived = Counter((event.subject, event.id) for event in events)
    assert len(arrived) == said["events"]
    assert set(arrived.values()) == {2}
    assert sum(event.data.tokens.input for event in events) == 2 * said["input_tokens"]
    assert {event.data.model for event in events} == {"gpt-4o"}


def test_lines_from_stdin_and_a_dry_run(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    line = '{"account": "acct-1", "action": "data_export", "event_id": "export-1"}\n'
    dry = answer(environment, "publish", "-", "--dry-run", typed=line)
    assert (dry["events"], dry["published"]) == (1, 0)
    assert answer(environment, "publish", "-", "--rate", "100", typed=line)["published"] == 1
    [event] = held(settings, topics)
    assert isinstance(event, UsageEvent)
    assert event.id == "export-1"


def test_refused_rows_are_named_and_the_rest_is_published(
    topics: dict[str, str], environment: dict[str, str]
) -> None:
    lines = '{"account": "acct-1", "action": "data_export"}\n{"account": "a b"}\n'
    done = tollgate(environment, "publish", "-", typed=lines)
    assert done.returncode == 1
    assert "1 events" in done.stdout
    assert "row 2: subject" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["missing.csv"], 1, "No such file"),
        ([str(DATA / "azure_trace.csv"), "--map", "x=y"], 2, "'x' is not one of"),
        ([str(DATA / "azure_trace.csv"), "--map-model", "x"], 2, "NAME=PROVIDER/NAME"),
        ([str(DATA / "azure_trace.csv"), "--shift-to-now", "noon"], 2, "last or first"),
    ],
)
def test_a_wrong_call_is_one_line(
    environment: dict[str, str], arguments: list[str], status: int, says: str
) -> None:
    done = tollgate(environment, "publish", *arguments)
    assert done.returncode == status
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


def test_a_missing_topic_says_what_to_do(environment: dict[str, str]) -> None:
    done = tollgate(environment, "load", "--events", "10")
    assert done.returncode == 1
    assert "tollgate migrate" in done.stderr


def test_the_load_is_what_its_manifest_says(
    settings: Settings, topics: dict[str, str], environment: dict[str, str]
) -> None:
    options = ["--events", "4000", "--seed", "7", "--duplicates", "0.05", "--poison", "0.05"]
    said = answer(environment, "load", *options, "--changed-timestamps", "0.5")
    events = held(settings, topics)
    assert said["published"] == len(events) == 4_000
    reasons = Counter(event.reason.value for event in events if isinstance(event, Rejected))
    later = {"unpriced", "dup_mismatch"}
    assert reasons == {why: n for why, n in said["poison"].items() if why not in later}
    good = Counter((e.subject, e.id) for e in events if isinstance(e, UsageEvent))
    priced_later = said["poison"]["unpriced"]
    assert len(good) == said["unique"] + priced_later
    repeated = said["duplicates"] + said["poison"]["dup_mismatch"]
    assert sum(good.values()) == len(good) + repeated


def test_a_paced_load_keeps_its_rate(topics: dict[str, str], environment: dict[str, str]) -> None:
    said = answer(environment, "load", "--duration", "3", "--rate", "200", "--steady")
    assert said["published"] == 600
    assert 2.0 < said["seconds"] < 10.0
