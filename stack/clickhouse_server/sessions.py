"""Connections to the engine: one for each statement, or one kept for a client's session."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from chdb import _chdb  # the C++ class: `chdb.session` adds Python around every call

from stack.clickhouse_server.errors import error

SESSION_SECONDS_DEFAULT = 60
SESSION_SECONDS_MAX = 3600  # ClickHouse's own limits


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """The session that a statement belongs to; `must_exist` is ClickHouse's session_check."""

    name: str
    seconds: float = SESSION_SECONDS_DEFAULT
    must_exist: bool = False


@dataclass(slots=True)
class _Session:
    connection: Any
    expires_at: float = 0.0
    busy: threading.Lock = field(default_factory=threading.Lock)


class Connections:
    """Gives a connection for one statement at a time. Safe to use from many threads."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._sessions: dict[str, _Session] = {}
        self._guard = threading.Lock()

    @contextmanager
    def of(self, session: SessionRequest | None) -> Iterator[Any]:
        """A connection with nothing set on it; of a session, with what its statements left there.

        Raises EngineError when the session is at work already, or is missing and must exist.
        """
        if session is None:
            connection = _open(self._address)
            try:
                yield connection
            finally:
                connection.close()
            return
        kept = self._enter(session)
        try:
            yield kept.connection
        finally:
            kept.expires_at = time.monotonic() + session.seconds
            kept.busy.release()

    def close(self) -> None:
        """Closes the connection of every session."""
        with self._guard:
            for kept in self._sessions.values():
                kept.connection.close()
            self._sessions.clear()

    def _enter(self, session: SessionRequest) -> _Session:
        with self._guard:
            self._forget_expired()
            kept = self._sessions.get(session.name)
            if kept is None:
                if session.must_exist:
                    raise error(372, "SESSION_NOT_FOUND", f"Session {session.name} not found")
                kept = self._sessions[session.name] = _Session(_open(self._address))
            if not kept.busy.acquire(blocking=False):
                message = f"Session {session.name} is locked by a concurrent client"
                raise error(373, "SESSION_IS_LOCKED", message)
            return kept

    def _forget_expired(self) -> None:
        now = time.monotonic()
        for name, kept in list(self._sessions.items()):
            if kept.expires_at < now and kept.busy.acquire(blocking=False):
                kept.connection.close()
                del self._sessions[name]


def _open(address: str) -> Any:
    return _chdb.connect(address)  # type: ignore[attr-defined]  # C++, without types
