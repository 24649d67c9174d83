"""Tracking without carrying a client about: helpers over one client of the process.

It is configured by `configure`, or at the first call by the environment: TOLLGATE_KAFKA (bootstrap
servers, default the local stack's), TOLLGATE_TOPIC_PREFIX, TOLLGATE_SOURCE (default "app") and
TOLLGATE_SPILL_DIRECTORY (default: no spill).
"""

import os
import threading
from typing import Final, Unpack

from producers.client import UsageClient
from producers.provider_tracking import ProviderDetails
from producers.stats import Stats
from producers.tracking import AiDetails, Details
from producers.worker import Options
from schemas.topics import USAGE_EVENTS

_LOCAL_KAFKA: Final = "127.0.0.1:19092"

_client: UsageClient | None = None
_choosing = threading.Lock()


def configure(client: UsageClient) -> None:
    """Makes this the client of the helpers; the one before it is closed, delivering what it has."""
    global _client
    with _choosing:
        previous, _client = _client, client
    if previous is not None and previous is not client:
        previous.close()


def track_ai_usage(
    account_id: str,
    provider: str,
    model: str,
    input_tokens: int,
    output_tokens: int,
    **details: Unpack[AiDetails],
) -> str | None:
    """Tracks one call to a model and returns the event's id, or None when it was refused.

    Never blocks and never raises for a tracking failure; see `UsageClient.track_ai_usage`.
    """
    return default_client().track_ai_usage(
        account_id, provider, model, input_tokens, output_tokens, **details
    )


def track_provider_usage(
    account_id: str,
    response: object,
    *,
    provider: str = "",
    host: str = "",
    path: str = "",
    request_model: str = "",
    service_tier: str = "",
    **details: Unpack[ProviderDetails],
) -> tuple[str, ...]:
    """Tracks what a provider answered and returns the ids of the events, none when refused.

    Never blocks and never raises for a tracking failure; see `UsageClient.track_provider_usage`.
    """
    return default_client().track_provider_usage(
        account_id,
        response,
        provider=provider,
        host=host,
        path=path,
        request_model=request_model,
        service_tier=service_tier,
        **details,
    )


def track_compute_usage(
    account_id: str, action: str, quantity: int = 1, **details: Unpack[Details]
) -> str | None:
    """Tracks work that is no call to a model; see `UsageClient.track_compute_usage`."""
    return default_client().track_compute_usage(account_id, action, quantity, **details)


def stats() -> Stats:
    """What became of every call so far, counted exactly."""
    return default_client().stats()


def default_client() -> UsageClient:
    """The client of the helpers; made from the environment unless there is one."""
    global _client  # noqa: PLW0603 - the same
    if _client is None:
        with _choosing:
            if _client is None:
                _client = _from_environment()
    return _client


def _from_environment() -> UsageClient:
    prefix = os.environ.get("TOLLGATE_TOPIC_PREFIX", "")
    return UsageClient(
        os.environ.get("TOLLGATE_KAFKA") or _LOCAL_KAFKA,
        os.environ.get("TOLLGATE_SOURCE") or "app",
        spill_directory=os.environ.get("TOLLGATE_SPILL_DIRECTORY") or None,
        options=Options(topic=prefix + USAGE_EVENTS.name),
    )
