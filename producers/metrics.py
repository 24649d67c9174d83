"""A client's counts for Prometheus, written without a library so that the client stays light."""

from typing import Final

from producers.stats import Stats

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_OUTCOMES: Final = ("accepted", "delivered", "failed", "dropped", "invalid", "recovered")
_PLACES: Final = ("buffered", "spilled")


def exposition(stats: Stats) -> str:
    """The counts in Prometheus' text format, for an app to serve or to append to its own."""
    lines = [
        "# HELP tollgate_client_events_total Usage events of this client by outcome.",
        "# TYPE tollgate_client_events_total counter",
    ]
    for outcome in _OUTCOMES:
        count = getattr(stats, outcome)
        lines.append(f'tollgate_client_events_total{{outcome="{outcome}"}} {count}')
    lines.append("# HELP tollgate_client_waiting Usage events that wait for Kafka.")
    lines.append("# TYPE tollgate_client_waiting gauge")
    lines += [
        f'tollgate_client_waiting{{place="{place}"}} {getattr(stats, place)}' for place in _PLACES
    ]
    return "\n".join(lines) + "\n"
