"""Structured logs: one line per entry, the stage on each, and no secret or payload in any.

Everything goes to stderr: stdout belongs to results. Libraries that use `logging` end up in the
same lines.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from adapters.settings import Settings

VALUE_CHARS_MAX = 2_000  # a longer value is cut: a log line is not the place for a record
# Fields that hold what must not be read in a log, whatever is in them.
SECRET_FIELDS = frozenset(
    {"authorization", "api_key", "dsn", "key", "password", "payload", "secret", "token", "value"}
)
_REDACTED = "[redacted]"
_SECRETS_IN_TEXT = (
    (re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s:/@]*:)\S*@"), r"\1" + _REDACTED + "@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 " + _REDACTED),
    (re.compile(r"(?i)\b(password|passwd|secret|token)=[^\s&]+"), r"\1=" + _REDACTED),
    (re.compile(r"\b(tg_[0-9a-f]{16})_[0-9a-f]+"), r"\1_" + _REDACTED),
    (re.compile(r"\b(sk|pk|rk)-[A-Za-z0-9_-]{8,}"), r"\1-" + _REDACTED),
)
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_CHATTY = ("aiokafka", "faststream", "asyncio", "uvicorn", "urllib3", "clickhouse_connect")

Entry = MutableMapping[str, Any]


def redact_text(text: str) -> str:
    """The text without passwords, bearer tokens and API keys, cut to 2,000 characters."""
    shown = text[: 4 * VALUE_CHARS_MAX]  # a secret that this cuts in two is cut away below
    for pattern, replacement in _SECRETS_IN_TEXT:
        shown = pattern.sub(replacement, shown)
    if len(shown) <= VALUE_CHARS_MAX:
        return shown
    return f"{shown[:VALUE_CHARS_MAX]}... (of {len(text)} characters)"


def redact(_logger: object, _method: str, entry: Entry) -> Entry:
    """Takes secrets, payloads and raw bytes out of an entry before anything renders it."""
    for name, value in entry.items():
        if name.lower() in SECRET_FIELDS:
            entry[name] = _REDACTED
        else:
            entry[name] = _plain(value)
    return entry


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return redact(None, "", {str(name): inner for name, inner in value.items()})
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    return redact_text(str(value))


def escape_controls(_logger: object, _method: str, entry: Entry) -> Entry:
    """Makes line breaks and terminal codes visible: an event cannot forge a line on a console."""
    for name, value in entry.items():
        if isinstance(value, str) and name != "exception":
            entry[name] = "".join(
                char if char.isprintable() else char.encode("unicode_escape").decode()
                for char in value
            )
    return entry


def configure_logs(settings: Settings, *, stage: str) -> None:
    """Sets up logging for the process, once: JSON lines, or readable lines on a terminal.

    Every entry carries `stage`, `level` and `time` (UTC). `structlog.get_logger()` and `logging`
    both end here. Calling it again replaces the set-up.
    """
    level = _LEVELS[settings.log_level]
    shape = _shape(settings.log_format)
    shared: list[structlog.typing.Processor] = [
        _stage_adder(stage),
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(shape),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _stage_adder(stage: str) -> structlog.typing.Processor:
    def add_stage(_logger: object, _method: str, entry: Entry) -> Entry:
        entry.setdefault("stage", stage)
        return entry

    return add_stage


def _shape(wanted: Literal["auto", "json", "console"]) -> Literal["json", "console"]:
    if wanted == "auto":
        return "console" if sys.stderr.isatty() else "json"
    return wanted


def _renderers(shape: Literal["json", "console"]) -> list[structlog.typing.Processor]:
    if shape == "json":
        return [structlog.processors.JSONRenderer(sort_keys=False)]
    return [escape_controls, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
