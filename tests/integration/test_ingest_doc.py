"""What docs/ingest.md shows was really answered: its requests, one after the other."""

import json
import re
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import httpx2

from adapters.settings import Settings
from tests.apis import client, serve, with_tokens

TEXT = (Path(__file__).parents[2] / "docs" / "ingest.md").read_text(encoding="utf-8")
TIME = "2026-11-21T09:00:00Z"
EXCHANGE = re.compile(
    r"^```http\n(POST .*?)^```\n\n^```http\n(\d.*?)^```", re.MULTILINE | re.DOTALL
)


async def _answer(app: httpx2.AsyncClient, shown: str) -> str:
    """The answer to a request of the page, as the page shows answers."""
    head, _, body = shown.partition("\n\n")
    first, *lines = head.splitlines()
    headers = dict(line.split(": ") for line in lines)
    del headers["Authorization"]
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = await app.post(
        first.removeprefix("POST "), content=body.replace(TIME, now), headers=headers
    )
    status = f"{answer.status_code} {HTTPStatus(answer.status_code).phrase}\n"
    return f"{status}\n{json.dumps(answer.json(), indent=2)}\n" if answer.content else status


async def test_the_page_shows_what_is_answered(settings: Settings, topics: dict[str, str]) -> None:
    shown = EXCHANGE.findall(TEXT)
    assert [answer[:3] for _, answer in shown] == ["204", "207", "202"]
    async with serve(with_tokens(settings)) as address, client(address, "app", "service") as app:
        for request, answer in shown:
            assert await _answer(app, request) == answer
