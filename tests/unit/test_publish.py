"""Files become usage events: formats, names, identities, attribution, times."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from producers.trace_events import Attribution, EventMaker, Refused, time_of, time_range
from producers.trace_rows import Format, Row, UnreadableError, parse_mapping, read_rows
from schemas.events import UsageEvent

DATA = Path(__file__).parents[1] / "data"
NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
NOBODY = Attribution(seed=0)


def events(
    path: Path,
    mapping: dict[str, str] | None = None,
    attribution: Attribution = NOBODY,
    wanted: Format | None = None,
) -> list[UsageEvent | Refused]:
    maker = EventMaker(path.name, attribution, shift=timedelta(), now=NOW)
    return list(maker.events(read_rows(path, mapping or {}, wanted)[1]))


def good(found: list[UsageEvent | Refused]) -> list[UsageEvent]:
    assert not [answer for answer in found if isinstance(answer, Refused)]
    return [answer for answer in found if isinstance(answer, UsageEvent)]


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(*lines: object, name: str = "usage") -> Path:
        path = tmp_path / name
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("\n".join(texts), encoding="utf-8")
        return path

    return write


def test_azure_trace_is_recognised_and_attributed_by_seed() -> None:
    path = DATA / "azure_trace.csv"
    assert read_rows(path, {})[0] is Format.AZURE
    several = Attribution(seed=3, accounts=20, models=5)
    first = good(events(path, attribution=several))
    assert len(first) == 60
    assert first == good(events(path, attribution=several))
    other = good(events(path, attribution=Attribution(seed=4, accounts=20, models=5)))
    assert [event.subject for event in other] != [event.subject for event in first]
    assert 1 < len({event.subject for event in first}) <= 20
    assert 1 < len({event.data.model for event in first}) <= 5
    assert first[0].time.tzinfo is UTC
    assert first[0].time.year == 2023
    assert any(event.data.tokens.output == 0 for event in first)


def test_servegen_trace_keeps_its_accounts_and_parts() -> None:
    path = DATA / "servegen_trace.csv"
    found, rows = read_rows(path, {})
    assert found is Format.SERVEGEN
    table = [row.fields for row in rows]
    renamed = Attribution(seed=0, renamed={"m-large": "openai/gpt-4o"})
    made = good(events(path, attribution=renamed))
    assert [event.subject for event in made] == [fields["account_id"] for fields in table]
    assert Counter(event.data.model for event in made) == {"gpt-4o": 27, "r-small": 53}
    assert {event.data.provider for event in made if event.data.model == "gpt-4o"} == {"openai"}
    assert any(event.data.tokens.reasoning for event in made)
    assert any(event.data.tokens.image_input for event in made)
    noted = [event.data.attributes for event in made if event.data.attributes]
    assert noted == [{"video_tokens": "5"}]
    span = time_range(read_rows(path, {})[1])
    assert span is not None
    assert span[1] - span[0] == made[-1].time - made[0].time


def test_one_model_for_all_replaces_what_the_file_says() -> None:
    one = Attribution(seed=0, model="openrouter/anthropic/claude-sonnet-4.5")
    made = good(events(DATA / "servegen_trace.csv", attribution=one))
    names = {(event.data.provider, event.data.model) for event in made}
    assert names == {("openrouter", "anthropic/claude-sonnet-4.5")}


def test_identity_is_file_name_and_row(file: Any) -> None:
    lines = ["account_id,model,input_tokens", "acct-1,gpt-4o,1", "acct-1,gpt-4o,1"]
    first, second = good(events(file(*lines, name="a.csv")))
    assert first.id != second.id
    assert [event.id for event in good(events(file(*lines, name="a.csv")))] == [first.id, second.id]
    assert good(events(file(*lines, name="b.csv")))[0].id != first.id
    moved = EventMaker("a.csv", NOBODY, shift=timedelta(days=9), now=NOW)
    again = good(list(moved.events(read_rows(file(*lines, name="a.csv"), {})[1])))
    assert [event.id for event in again] == [first.id, second.id]


def test_cloud_events_and_flat_lines_mix(file: Any) -> None:
    cloud = {
        "specversion": "1.0",
        "id": "event-1",
        "source": "app/chat",
        "type": "tollgate.usage.v1",
        "subject": "acct-1",
        "time": "2026-11-21T08:00:00Z",
        "data": {"model": "gpt-4o", "tokens": {"input": 7}},
    }
    flat = {
        "account": "acct-2",
        "id": "event-2",
        "timestamp": "2026-11-21T08:30:00+01:00",
        "model": "gpt-4o",
        "input_tokens": 5,
        "cache_read_tokens": 3,
        "attributes": {"team": "x"},
        "ignored": [1, 2],
    }
    made = good(events(file(cloud, "", flat, {"account": "acct-3", "action": "data_export"})))
    assert [event.id for event in made][:2] == ["event-1", "event-2"]
    assert [event.subject for event in made] == ["acct-1", "acct-2", "acct-3"]
    assert made[1].time == datetime(2026, 11, 21, 7, 30, tzinfo=UTC)
    assert made[1].data.tokens.cache_read == 3
    assert made[1].data.attributes == {"team": "x"}
    assert made[2].time == NOW, "without a time it happened now"


def test_columns_of_other_names_are_mapped(file: Any) -> None:
    path = file("User,At,Prompt,Tokens Out,Team", "u-1,2026-11-21 08:00:00.1234567,10,5,red")
    pairs = ["account_id=User", "time=At", "input_tokens=Prompt"]
    pairs += ["output_tokens=Tokens Out", "attributes.team=Team"]
    one = Attribution(seed=0, model="openai/gpt-4o")
    [event] = good(events(path, parse_mapping(pairs), one))
    assert (event.subject, event.data.tokens.input, event.data.tokens.output) == ("u-1", 10, 5)
    assert event.time == datetime(2026, 11, 21, 8, 0, 0, 123456, tzinfo=UTC)
    assert event.data.attributes == {"team": "red"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a b,gpt-4o,1", "subject"),
        (",gpt-4o,1", "--accounts"),
        ("acct-1,gpt-4o,-1", "greater than or equal"),
        ("acct-1,gpt-4o,1.5", "integer"),
        ("acct-1,gpt-4o,1_000", "integer"),
        ("acct-1,gpt-4o,\u0661", "integer"),
        ("acct-1,gpt-4o", "2 cells"),
        ("acct-1,gpt-4o,99999999999", "less than or equal"),
    ],
)
def test_a_bad_row_is_refused_by_number_and_the_others_go_on(
    file: Any, row: str, says: str
) -> None:
    path = file("account_id,model,input_tokens", "acct-1,gpt-4o,1", row, "acct-1,gpt-4o,2")
    first, refused, last = events(path)
    assert isinstance(first, UsageEvent)
    assert isinstance(last, UsageEvent)
    assert isinstance(refused, Refused)
    assert refused.number == 2
    assert says in refused.problem


@pytest.mark.parametrize("line", ["{", "[1]", '{"time": "never", "account": "a"}', '{"x": 1}'])
def test_a_bad_line_is_refused(file: Any, line: str) -> None:
    fine = {"account": "acct-1", "action": "data_export"}
    assert [type(answer) for answer in events(file(fine, line, fine))] == [
        UsageEvent,
        Refused,
        UsageEvent,
    ]


@pytest.mark.parametrize(
    ("lines", "mapping", "says"),
    [
        ([""], {}, "empty"),
        (["When,Who", "1,2"], {}, "--map"),
        (["When,Who", "1,2"], {"account_id": "Whom"}, "no column 'Whom'"),
    ],
)
def test_a_file_that_cannot_be_read_as_usage_says_why(
    file: Any, lines: list[str], mapping: dict[str, str], says: str
) -> None:
    with pytest.raises(UnreadableError, match=says):
        read_rows(file(*lines), mapping)


@pytest.mark.parametrize("pair", ["input_tokens", "input_tokens=", "tokens_in=X"])
def test_a_mapping_of_nothing_we_know_is_refused(pair: str) -> None:
    with pytest.raises(UnreadableError):
        parse_mapping([pair])


def test_times_without_a_zone_are_utc_and_bad_ones_do_not_count() -> None:
    rows = [
        Row(1, {"time": "2026-11-21 08:00:00"}),
        Row(2, {"time": "never"}),
        Row(3, {"time": "2026-11-21T10:00:00+01:00"}),
        Row(4, {}),
    ]
    assert time_of(rows[0]) == datetime(2026, 11, 21, 8, tzinfo=UTC)
    assert time_range(rows) == (
        datetime(2026, 11, 21, 8, tzinfo=UTC),
        datetime(2026, 11, 21, 9, tzinfo=UTC),
    )
    assert time_range(rows[3:]) is None


SOME = Attribution(seed=0, accounts=3)


class TestProviderUsage:
    """Recorded calls become what the provider bills; they are read only when asked for."""

    def test_a_call_that_bills_twice_is_two_events(self, file: Any) -> None:
        usage = {
            "input_tokens": 5,
            "cache_read_input_tokens": 30,
            "output_tokens": 7,
            "server_tool_use": {"web_search_requests": 2},
        }
        call = {
            "host": "api.anthropic.com",
            "response": {"model": "claude-sonnet-4-5", "usage": usage},
            "account": "acct-1",
            "event_id": "call-1",
            "time": "2026-11-21T08:00:00Z",
            "resource_id": "chat-1",
            "attributes": {"team": "red"},
        }
        tokens, searches = good(events(file(call), wanted=Format.PROVIDER_USAGE))
        assert (tokens.id, searches.id) == ("call-1", "call-1.2")
        assert (tokens.data.tokens.input, tokens.data.tokens.cache_read) == (35, 30)
        assert (searches.data.action, searches.data.quantity) == ("web_search.anthropic", 2)
        for event in (tokens, searches):
            assert (event.subject, event.data.resource_id) == ("acct-1", "chat-1")
            assert event.time == datetime(2026, 11, 21, 8, tzinfo=UTC)
            assert event.data.attributes["team"] == "red"

    def test_a_stream_a_usage_alone_and_a_batch(self, file: Any) -> None:
        usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
        azure = {"host": "acme.openai.azure.com", "response_model": "gpt-4o", "usage": usage}
        stream = {"provider": "groq", "events": [{"model": "m"}, {"x_groq": {"usage": usage}}]}
        made = good(
            events(file(azure, stream, {**azure, "batch": True}), None, SOME, Format.PROVIDER_USAGE)
        )
        assert [(event.data.provider, event.data.model) for event in made] == [
            ("azure", "gpt-4o"),
            ("groq", "m"),
            ("azure", "gpt-4o"),
        ]
        assert [event.data.service_tier for event in made] == ["standard", "standard", "batch"]
        assert len({event.id for event in made}) == 3

    def test_a_host_of_ones_own_gets_its_provider_and_a_model_its_price(self, file: Any) -> None:
        usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
        call = {"host": "localhost:8000", "response_model": "opt-125m", "usage": usage}
        path = file(call)
        [refused] = events(path, None, SOME, Format.PROVIDER_USAGE)
        assert isinstance(refused, Refused)
        assert refused.problem.startswith("unknown_provider: ")
        named = Attribution(seed=0, accounts=3, hosts={"localhost:8000": "vllm"})
        [event] = good(events(path, None, named, Format.PROVIDER_USAGE))
        assert (event.data.provider, event.data.model) == ("vllm", "opt-125m")
        renamed = Attribution(
            seed=0,
            accounts=3,
            hosts={"localhost:8000": "vllm"},
            renamed={"opt-125m": "openai/gpt-4o"},
        )
        [event] = good(events(path, None, renamed, Format.PROVIDER_USAGE))
        assert (event.data.provider, event.data.model) == ("openai", "gpt-4o")

    @pytest.mark.parametrize(
        ("call", "says"),
        [
            ({"host": "api.openai.com"}, "usage_missing: "),
            ({"host": "api.openai.com", "usage": 5}, "usage_missing: "),
            ({"host": 5, "usage": {"prompt_tokens": 4, "total_tokens": 4}}, "unknown_provider: "),
            ({"provider": "x", "usage": {"prompt_tokens": 4, "total_tokens": 4}}, "unknown_model"),
            (
                {
                    "provider": "x",
                    "request_model": "m",
                    "usage": {"prompt_tokens": 4, "total_tokens": 4},
                    "attributes": 5,
                },
                "int",
            ),
            (
                {
                    "provider": "x",
                    "request_model": "m",
                    "usage": {"prompt_tokens": 4, "total_tokens": 4},
                    "time": "never",
                },
                "never",
            ),
        ],
    )
    def test_what_is_refused_says_why(self, file: Any, call: dict[str, Any], says: str) -> None:
        [refused] = events(file(call), None, SOME, Format.PROVIDER_USAGE)
        assert isinstance(refused, Refused)
        assert says in refused.problem

    def test_without_being_asked_for_it_is_refused_and_not_guessed_at(self, file: Any) -> None:
        usage = {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
        path = file({"host": "api.openai.com", "response_model": "gpt-4o", "usage": usage})
        assert read_rows(path, {})[0] is Format.JSON_LINES
        [refused] = events(path, None, SOME)
        assert isinstance(refused, Refused)
