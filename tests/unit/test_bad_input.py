"""The bad-input matrix: every row has its one outcome, quickly, and nothing ever raises."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.decoding import _printable
from schemas.events import Reason, Rejected, TimeWindow, UsageEvent, decode, payload_hash
from tests.bad_records import mixed_records
from tests.bad_rows import ODD_BUT_GOOD, ROWS, good_event, record_of, to_bytes

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
APPENDED_AT_MS = int(NOW.timestamp()) * 1000
WINDOW = TimeWindow()
ACCOUNT = "acct-0001"
# Reasons that the ledger or the price book finds, in records that decode well.
FOUND_LATER = {Reason.UNPRICED, Reason.DUP_MISMATCH, Reason.UNKNOWN_ACCOUNT}


def event() -> dict[str, Any]:
    return good_event(Random(1), 1, ACCOUNT, NOW)


def read(value: bytes | None, key: bytes | None = ACCOUNT.encode()) -> UsageEvent | Rejected:
    return decode(value, key, APPENDED_AT_MS, WINDOW)


def rejected(value: bytes | None, key: bytes | None = ACCOUNT.encode()) -> Rejected:
    outcome = read(value, key)
    assert isinstance(outcome, Rejected), outcome
    return outcome


def accepted(value: bytes | None, key: bytes | None = ACCOUNT.encode()) -> UsageEvent:
    outcome = read(value, key)
    assert isinstance(outcome, UsageEvent), outcome
    return outcome


@pytest.mark.parametrize("row", [*ROWS, *ODD_BUT_GOOD])
def test_every_row_has_its_outcome(row: str) -> None:
    record = record_of(row, event())
    if record.expected == "charged" or record.expected in FOUND_LATER:
        accepted(record.value, record.key)
    else:
        assert rejected(record.value, record.key).reason is record.expected


def test_the_good_event_that_the_rows_spoil_is_accepted() -> None:
    assert accepted(to_bytes(event())).data.model


def test_every_reason_that_decoding_can_give_is_in_the_matrix() -> None:
    decided_later = {*FOUND_LATER, Reason.UNPROCESSABLE}
    assert {row.expected for row in ROWS.values()} >= set(Reason) - decided_later


def test_duplicate_keys_the_last_one_is_validated_priced_and_hashed() -> None:
    spoilt = to_bytes(event())[:-2] + b',"quantity":5,"quantity":7},"id":"first","id":"last"}'
    twice, plain = accepted(spoilt), event()
    plain["data"]["quantity"] = 7
    assert (twice.id, twice.data.quantity) == ("last", 7)
    assert payload_hash(twice) == payload_hash(accepted(to_bytes(plain)))
    hidden = to_bytes(event())[:-2] + b',"quantity":7,"quantity":-5}}'
    assert rejected(hidden).reason is Reason.NEGATIVE
    loser = to_bytes(event())[:-1] + b',"id":"first","id":"last","specversion":"2"}'
    assert rejected(loser).event_id == "last"


def at(moment: datetime) -> UsageEvent | Rejected:
    return read(to_bytes(event() | {"time": moment.isoformat()}))


def test_the_time_window_is_inclusive_at_both_ends() -> None:
    tick = timedelta(microseconds=1)
    oldest, newest = NOW - timedelta(days=35), NOW + timedelta(minutes=5)
    assert isinstance(at(oldest), UsageEvent)
    assert isinstance(at(newest), UsageEvent)
    too_old, future = at(oldest - tick), at(newest + tick)
    assert isinstance(too_old, Rejected)
    assert isinstance(future, Rejected)
    assert (too_old.reason, future.reason) == (Reason.TOO_OLD, Reason.FUTURE_TIME)


@pytest.mark.parametrize("appended_at_ms", [-1, 0, -(2**63), 2**63 - 1])
def test_any_append_time_is_compared_without_overflow(appended_at_ms: int) -> None:
    outcome = decode(to_bytes(event()), ACCOUNT.encode(), appended_at_ms, WINDOW)
    assert isinstance(outcome, Rejected)
    expected = Reason.TOO_OLD if appended_at_ms > APPENDED_AT_MS else Reason.FUTURE_TIME
    assert outcome.reason is expected


def test_digits_past_a_microsecond_are_cut_not_rounded() -> None:
    value = to_bytes(event() | {"time": "2026-11-21T08:59:59.999999999+00:00"})
    assert accepted(value).time == datetime(2026, 11, 21, 8, 59, 59, 999999, tzinfo=UTC)


def test_times_are_in_utc_whatever_their_offset() -> None:
    moment = accepted(to_bytes(event() | {"time": "2026-11-21T14:29:00+05:30"})).time
    assert moment.tzinfo is UTC
    assert moment == datetime(2026, 11, 21, 8, 59, tzinfo=UTC)


class TestWhoIsNamed:
    def test_subject_and_id_of_a_bad_event(self) -> None:
        bad = rejected(to_bytes(event() | {"data": None}))
        assert (bad.account_id, bad.event_id) == (ACCOUNT, "e-00000001")

    def test_only_valid_ones(self) -> None:
        bad = rejected(to_bytes(event() | {"subject": "a\x00b", "id": "x" * 129}), b"\xff")
        assert (bad.account_id, bad.event_id) == (None, None)

    def test_the_key_when_there_is_no_subject(self) -> None:
        assert rejected(b"{").account_id == ACCOUNT
        assert rejected(None).account_id == ACCOUNT
        assert rejected(bytes(70_000)).account_id == ACCOUNT
        assert rejected(b"{", b"a b").account_id is None
        assert rejected(b"{", b"x" * 129).account_id is None
        assert rejected(b"{", ACCOUNT.encode() + b"\n").account_id is None

    def test_the_subject_when_the_key_is_another(self) -> None:
        assert rejected(to_bytes(event()), b"acct-other").account_id == ACCOUNT
        spoilt = to_bytes(event() | {"data": None})
        assert rejected(spoilt, b"acct-other").account_id == ACCOUNT


class TestDetail:
    """It is stored, logged and shown, so it holds nothing that the record chose."""

    def test_names_the_field_and_the_rule(self) -> None:
        assert rejected(to_bytes(event() | {"data": {"quantity": -1}})).detail == (
            "data.quantity: Input should be greater than or equal to 0"
        )

    def test_names_no_attribute(self) -> None:
        data = {"attributes": {"card-4111": 1, "\x00": "\x1b[31m"}}
        detail = rejected(to_bytes(event() | {"data": data})).detail
        assert detail.startswith("data.attributes: ")
        assert "4111" not in detail

    def test_names_an_unknown_kind_of_token(self) -> None:
        tokens = {"input": 9, "tokens_of_tomorrow": 9}
        detail = rejected(to_bytes(event() | {"data": {"tokens": tokens}})).detail
        assert detail == "data.tokens: no such field tokens_of_tomorrow"

    @pytest.mark.parametrize("name", ["", "\x1b[31m", "Card 4111", "é", "x" * 33, "4111"])
    def test_but_only_one_that_reads_as_a_name(self, name: str) -> None:
        detail = rejected(to_bytes(event() | {"data": {"tokens": {name: 9}}})).detail
        assert detail == "data.tokens: no such field"

    def test_lists_no_names_without_end(self) -> None:
        tokens = {f"kind_{number}": -1 for number in range(101)}
        outcome = rejected(to_bytes(event() | {"data": {"tokens": tokens}}))
        assert (outcome.reason, outcome.detail) == (Reason.INVALID, "more than 100 unknown names")
        assert (outcome.account_id, outcome.event_id) == (ACCOUNT, "e-00000001")
        later = event() | {"data": {"tokens": tokens}, "type": "tollgate.usage.v2"}
        assert rejected(to_bytes(later)).reason is Reason.FUTURE_SCHEMA

    def test_quotes_no_time(self) -> None:
        detail = rejected(to_bytes(event() | {"time": "٢٠٢٦-11-21T09:00:00Z"})).detail
        assert detail.startswith("time: a time is RFC 3339")

    def test_any_text_becomes_printable_and_short(self) -> None:
        assert _printable("a\x00\n\x1b\x7f\ud800é~") == "a??????~"
        assert len(_printable("x" * 10_000)) == 300


class TestWhichReason:
    """When several things are wrong, the answer is still one, and documented."""

    def test_the_version_outranks_the_fields(self) -> None:
        value = to_bytes(event() | {"type": "tollgate.usage.v2", "time": 5, "data": None})
        assert rejected(value, b"another").reason is Reason.FUTURE_SCHEMA

    def test_a_wrong_shape_outranks_a_negative_count(self) -> None:
        data = {"tokens": {"input": -1, "output": "2"}}
        assert rejected(to_bytes(event() | {"data": data})).reason is Reason.INVALID

    def test_the_fields_outrank_the_key(self) -> None:
        data = {"quantity": -1}
        assert rejected(to_bytes(event() | {"data": data}), None).reason is Reason.NEGATIVE

    def test_the_key_outranks_the_time(self) -> None:
        value = to_bytes(event() | {"time": "1900-01-01T00:00:00Z"})
        assert rejected(value, None).reason is Reason.KEY_MISMATCH


def well_formed(outcome: UsageEvent | Rejected) -> None:
    """What the stores rely on: no text of a rejection can break a row, a log line or a header."""
    if isinstance(outcome, UsageEvent):
        assert -(2**63) <= payload_hash(outcome) < 2**63
        return
    assert outcome.detail.isascii()
    assert outcome.detail.isprintable()
    assert 0 < len(outcome.detail) <= 300
    for claimed in (outcome.account_id, outcome.event_id):
        assert claimed is None or (claimed.isascii() and claimed.isprintable())
        assert claimed is None or 1 <= len(claimed) <= 128


@given(st.none() | st.binary(max_size=300), st.none() | st.binary(max_size=140), st.integers())
@settings(max_examples=500, deadline=None)
@example(b"{", b"", -1)
def test_no_bytes_raise(value: bytes | None, key: bytes | None, appended_at_ms: int) -> None:
    well_formed(decode(value, key, appended_at_ms, WINDOW))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec=None), max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
places = st.sampled_from(
    [(name,) for name in event()]
    + [("data", name) for name in ("action", "tokens", "quantity", "hold_id", "attributes")]
    + [("data", name) for name in ("service_tier", "unit", "billed")]
    + [("data", "tokens", name) for name in ("input", "output", "cache_read", "reasoning")]
)


@given(place=places, planted=json_values, key=st.none() | st.just(ACCOUNT.encode()))
@settings(max_examples=800, deadline=None)
def test_no_value_at_any_place_raises(place: tuple[str, ...], planted: Any, key: Any) -> None:
    spoilt = event()
    inner = spoilt
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = planted
    well_formed(read(json.dumps(spoilt).encode(), key))


@given(data=st.data(), row=st.sampled_from([*ROWS, *ODD_BUT_GOOD]))
@settings(max_examples=500, deadline=None)
def test_no_damaged_record_raises(data: st.DataObject, row: str) -> None:
    record = record_of(row, event())
    value = bytearray(record.value or b"")
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(value)))
        end = min(len(value), start + data.draw(st.integers(0, 8)))
        value[start:end] = data.draw(st.binary(max_size=8))
    well_formed(read(bytes(value), record.key))


def filled(head: bytes, piece: bytes, tail: bytes = b"") -> bytes:
    room = (65_536 - len(head) - len(tail)) // len(piece)
    return head + piece * room + tail


GOOD = to_bytes(event())
OPEN = GOOD[:-1]
IN_DATA = GOOD[:-2]
ADVERSARIAL = {
    "nested arrays": filled(b"", b"["),
    "nested objects": filled(b"", b'{"":'),
    "nested to the limit, often": filled(OPEN + b',"x":[0', b"," + b"[" * 150 + b"]" * 150, b"]}"),
    "empty arrays": filled(OPEN + b',"x":[0', b",[]", b"]}"),
    "one huge number": filled(OPEN + b',"x":', b"9", b"}"),
    "largest numbers": filled(OPEN + b',"x":[0', b"," + b"9" * 4_290, b"]}"),
    "exponents": filled(OPEN + b',"x":[0', b",1e999999", b"]}"),
    "empty names": filled(OPEN, b',"":0', b"}"),
    "an attribute often": filled(IN_DATA + b',"attributes":{"":0', b',"":0', b"}}}"),
    "bad attributes": IN_DATA
    + b',"attributes":{'
    + b",".join(b'"%d!":0' % number for number in range(6_000))
    + b"}}}",
    "unknown kinds": IN_DATA
    + b',"tokens":{'
    + b",".join(b'"%d":0' % number for number in range(7_200))
    + b"}}}",
    "unknown kinds in the bill": IN_DATA
    + b',"billed":{'
    + b",".join(b'"b%d":0' % number for number in range(6_000))
    + b"}}}",
    "attributes often": filled(IN_DATA, b',"attributes":{"a":1}', b"}}"),
    "tokens often, bad": filled(IN_DATA, b',"tokens":{"input":-1}', b"}}"),
    "subjects": filled(OPEN, b',"subject":1', b"}"),
    "data often": filled(OPEN, b',"data":{"tokens":{}}', b"}"),
    "escapes": filled(OPEN + b',"x":"', b"\\u00e9", b'"}'),
    "long id": filled(OPEN + b',"id":"', b"a", b'"}'),
    "long model": filled(IN_DATA + b',"model":"', b"a", b'"}}'),
    "long attribute": filled(IN_DATA + b',"attributes":{"a":"', b"\xc3\xa9", b'"}}}'),
    "long time": filled(OPEN + b',"time":"', b"1", b'"}'),
    "long type": filled(OPEN + b',"type":"tollgate.usage.v', b"1", b'"}'),
    "NaN often": filled(OPEN + b',"x":[0', b",NaN", b"]}"),
    "NaN in text": filled(OPEN + b',"x":[0', b',"NaN"', b"]}"),
    "wrong everywhere": json.dumps(
        {"specversion": 1, "id": 2, "source": 3, "type": 4, "subject": 5, "time": 6}
        | {"data": {"tokens": dict.fromkeys(event()["data"]["tokens"], -1), "attributes": 1}}
        | {f"f{number}": [{}] for number in range(4_000)}
    ).encode()[:65_536],
    "white space": filled(b"", b" "),
    "quotes": filled(b"", b'"'),
    "zeros": bytes(65_536),
    "not UTF-8": filled(b'{"x":"', b"\xff"),
}


BUSY_SECONDS_MAX = 10.0
PLAIN = filled(b'{"x":[0', b",1", b"]}")
# What `json.loads` takes for PLAIN where the 5 ms are promised; a slower machine may take longer.
PLAIN_MS = 1.2


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_64_kib_of_anything_take_5_ms_at_most(name: str) -> None:
    value = ADVERSARIAL[name]
    assert len(value) <= 65_536
    # A busy machine makes decodes slower than they are, for seconds; it cannot make one faster.
    best_ms, until = _decode_ms(value), time.monotonic() + BUSY_SECONDS_MAX
    while best_ms > 5 and time.monotonic() < until:
        best_ms = min(best_ms, _decode_ms(value) / _slowness())
    assert best_ms <= 5, best_ms


def _decode_ms(value: bytes) -> float:
    return _thread_ms(lambda: well_formed(read(value)))


def _slowness() -> float:
    """How much longer than where the 5 ms are promised this machine takes just now; at least 1."""
    return max(1.0, _thread_ms(lambda: json.loads(PLAIN)) / PLAIN_MS)


def _thread_ms(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return (time.thread_time() - started) * 1000


class TestMixedRecords:
    """The oracle of the pipeline's test is itself held to the decoder."""

    def test_decoding_agrees_with_every_expectation(self) -> None:
        for record in mixed_records(3, 6_000, 0.3, now=NOW, unknown_accounts=True):
            outcome = read(record.value, record.key)
            if record.expected in ("charged", "duplicate") or record.expected in FOUND_LATER:
                assert isinstance(outcome, UsageEvent), record
            else:
                assert isinstance(outcome, Rejected), record
                assert outcome.reason is record.expected, record

    def test_claims_agree_too(self) -> None:
        claimed: dict[tuple[str, str], int] = {}
        for record in mixed_records(4, 6_000, 0.3, now=NOW, duplicate_share=0.2):
            outcome = read(record.value, record.key)
            if isinstance(outcome, Rejected) or record.expected is Reason.UNPRICED:
                continue
            identity, payload = (outcome.subject, outcome.id), payload_hash(outcome)
            if identity not in claimed:
                claimed[identity] = payload
                expected = "charged"
            else:
                same = claimed[identity] == payload
                expected = "duplicate" if same else Reason.DUP_MISMATCH
            assert expected == record.expected, record

    def test_every_row_comes_up_and_a_seed_repeats(self) -> None:
        records = mixed_records(5, 3_000, 0.3, now=NOW, unknown_accounts=True)
        assert {record.row for record in records} >= {*ROWS, *ODD_BUT_GOOD}
        assert {record.expected for record in records} >= set(Reason) - {Reason.UNPROCESSABLE}
        assert records == mixed_records(5, 3_000, 0.3, now=NOW, unknown_accounts=True)
