"""Runs with LiteLLM in an environment of its own: calls with mocked answers, and its own callback.

Writes the id of each answer, then waits for the end of its input: LiteLLM calls back in the
background.
"""

import asyncio
import json
import sys

import litellm

litellm.callbacks = ["openmeter"]
CALL = {"messages": [{"role": "user", "content": "How much?"}], "mock_response": "A few credits."}


def main() -> None:
    """One call of each kind that apps make: plain, streamed, through a gateway, awaited."""
    told = {"plain": litellm.completion(model="gpt-4o", user="acct-1", **CALL).id}
    gateway = "openrouter/anthropic/claude-3.5-sonnet"
    told["gateway"] = litellm.completion(model=gateway, user="acct-1", **CALL).id
    chunks = list(litellm.completion(model="openai/gpt-4o", user="acct-1", stream=True, **CALL))
    told["streamed"] = chunks[0].id

    async def awaited() -> None:
        mini = await litellm.acompletion(model="openai/gpt-4o-mini", user="acct-2", **CALL)
        told["awaited"] = mini.id
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)

    asyncio.run(awaited())


main()
