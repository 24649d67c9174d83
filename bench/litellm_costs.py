"""Runs in LiteLLM's environment: times `cost_per_token` on the events given on standard input.

Imports nothing of this project. Its network access is switched off before it is imported.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

ROUNDS = 5


def main() -> int:
    """Prints one JSON object: the best round's microseconds per event, and the silent zeros."""
    import litellm  # type: ignore[import-not-found]  # noqa: PLC0415 - after the environment is set

    shapes: list[dict[str, Any]] = json.load(sys.stdin)

    def cost(shape: dict[str, Any]) -> float:
        prompt, completion = litellm.cost_per_token(
            model=shape["model"],
            custom_llm_provider=shape["provider"],
            prompt_tokens=shape["input"],
            completion_tokens=shape["output"],
            cache_read_input_tokens=shape["cache_read"],
        )
        return float(prompt + completion)

    zeros = sum(cost(shape) == 0 for shape in shapes)
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for shape in shapes:
            cost(shape)
        best = min(best, time.perf_counter() - begun)
    report = {
        "version": version("litellm"),
        "events": len(shapes),
        "each_us": round(best / len(shapes) * 1e6, 2),
        "zeros": zeros,
    }
    json.dump(report, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
