"""The spill keeps whole events in order, within its size, through crashes, for many clients."""

import json
from pathlib import Path

import pytest

from producers.spill import SEGMENT_BYTES_MAX, Spill

MIB = 1024 * 1024


def records(first: int, count: int, padding: int = 0) -> list[tuple[bytes, bytes]]:
    return [
        (
            f"acct-{n % 3}".encode(),
            json.dumps({"id": n, "subject": f"acct-{n % 3}", "pad": "x" * padding}).encode(),
        )
        for n in range(first, first + count)
    ]


def drain(spill: Spill) -> list[tuple[bytes, bytes]]:
    found = []
    while (segment := spill.oldest()) is not None:
        found += segment.records()
        spill.remove(segment)
    return found


def crash(spill: Spill) -> None:
    """The process is gone: its locks are free, its files are as they are."""
    spill.forget()


def test_comes_out_in_order_over_several_segments(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 64 * MIB)
    given = records(0, 3_000, padding=2_000)
    for start in range(0, 3_000, 100):
        assert spill.append(given[start : start + 100]) == 100
    assert len(list(tmp_path.glob("*/*.jsonl"))) > 1
    assert spill.events == 3_000
    assert drain(spill) == given
    spill.close()
    assert list(tmp_path.iterdir()) == []


def test_events_of_a_crashed_client_are_adopted_once(tmp_path: Path) -> None:
    first = Spill(tmp_path, MIB)
    first.append(records(0, 5))
    living = Spill(tmp_path, MIB)
    assert living.events == 0, "the owner lives: nothing to adopt"
    crash(first)
    heir = Spill(tmp_path, MIB)
    too_late = Spill(tmp_path, MIB)
    assert (heir.events, too_late.events) == (5, 0)
    heir.append(records(5, 2))
    assert drain(heir) == records(0, 7)


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_torn_last_line_is_no_event(tmp_path: Path, cut: int) -> None:
    spill = Spill(tmp_path, MIB)
    spill.append(records(0, 3))
    crash(spill)
    [file] = tmp_path.glob("*/*.jsonl")
    file.write_bytes(file.read_bytes()[:-cut])
    assert drain(Spill(tmp_path, MIB)) == records(0, 2)


def test_a_line_that_the_disk_changed_does_not_stop_the_others(tmp_path: Path) -> None:
    spill = Spill(tmp_path, MIB)
    spill.append(records(0, 3))
    crash(spill)
    [file] = tmp_path.glob("*/*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b"\x00\x00\xff\n" + lines[2])
    assert drain(Spill(tmp_path, MIB)) == [records(0, 1)[0], records(2, 1)[0]]


def test_is_bounded_and_says_how_many_it_took(tmp_path: Path) -> None:
    given = records(0, 10)
    room = sum(len(value) + 1 for _, value in given[:4])
    spill = Spill(tmp_path, room + 3)
    assert spill.fits(given[:4])
    assert not spill.fits(given[:5])
    assert spill.append(given) == 4
    assert spill.append(given[4:]) == 0
    assert drain(spill) == given[:4]
    assert spill.append(given[4:]) == 4, "delivered events make room"


def test_what_arrives_while_the_oldest_is_sent_comes_after_it(tmp_path: Path) -> None:
    spill = Spill(tmp_path, MIB)
    spill.append(records(0, 2))
    oldest = spill.oldest()
    assert oldest is not None
    spill.append(records(2, 2))
    assert oldest.records() == records(0, 2)
    spill.remove(oldest)
    assert drain(spill) == records(2, 2)


def test_a_failed_write_leaves_no_half_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = Spill(tmp_path, MIB)
    spill.append(records(0, 1))

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("producers.spill.os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            spill.append(records(1, 5))
    assert spill.append(records(1, 5)) == 5
    assert drain(spill) == records(0, 6)


def test_segments_are_small_enough_to_send_in_one_piece() -> None:
    assert SEGMENT_BYTES_MAX <= 4 * MIB
