"""Random usage as an event may carry it, and the names of the models that have a price."""

from typing import Any

from genai_prices.data import providers
from hypothesis import strategies as st

MODELS = [(provider.id, model.id) for provider in providers for model in provider.models]


@st.composite
def token_counts(draw: st.DrawFn, total: int = 10**9) -> dict[str, Any]:
    """Counts that an event may carry: the parts within their totals."""
    counts = {"output": draw(st.integers(0, total))}
    left = counts["input"] = draw(st.integers(0, total) | st.sampled_from((200_000, 200_001)))
    for kind in ("cache_read", "cache_write", "audio_input", "image_input", "video_input"):
        counts[kind] = draw(st.integers(0, left) | st.just(0))
        left -= counts[kind]
    counts["cache_write_1h"] = draw(st.integers(0, counts["cache_write"]))
    left = counts["output"]
    for kind in ("reasoning", "audio_output", "image_output"):
        counts[kind] = draw(st.integers(0, left) | st.just(0))
        left -= counts[kind]
    return counts
