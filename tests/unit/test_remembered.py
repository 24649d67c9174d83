"""Verified credentials are remembered for a while, never past their expiry, and not as they are."""

import pickle
import time

import pytest

from api import remembered
from api.callers import Caller, Role
from api.remembered import Remembered

CALLER = Caller("acme", Role.USER, "acme")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    made = Clock()
    monkeypatch.setattr(remembered, "time", made)
    return made


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.now = self.wall = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall


def test_a_credential_is_known_until_then(clock: Clock) -> None:
    known = Remembered()
    known.keep("secret", CALLER, until=1_060.0)
    assert known.find("secret") == CALLER
    assert known.find("Secret") is None
    clock.now = 1_060.0
    assert known.find("secret") is None


def test_it_is_not_known_past_its_expiry_whatever_the_other_clock_says(clock: Clock) -> None:
    known = Remembered()
    known.keep("secret", CALLER, until=1_060.0, expires_at=1_005)
    clock.wall = 1_004.9
    assert known.find("secret") == CALLER
    clock.wall = 1_005.0
    assert known.find("secret") is None


def test_an_expiry_in_a_far_future_is_no_error() -> None:
    known = Remembered()
    known.keep("secret", CALLER, until=time.monotonic() + 9, expires_at=10**400)
    assert known.find("secret") == CALLER


def test_memory_is_bounded_and_holds_no_credential() -> None:
    known = Remembered(most=10)
    for n in range(25):
        known.keep(f"secret-{n}", CALLER, until=time.monotonic() + 9)
    assert len(known._callers) <= 10
    assert known.find("secret-24") == CALLER
    assert b"secret" not in pickle.dumps(known._callers)
