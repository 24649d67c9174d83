"""Each provider's usage, as its public documentation shows it, becomes the lines that it bills.

The figures in tests/data/provider_usage.jsonl are made by hand in the form that is documented.
"""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from producers.normalise.lines import _READERS, Form, form_of
from producers.normalise.locate import Found, find
from producers.normalise.outcome import Line, Normalised, Refusal, Refused
from producers.normalise.response import normalise
from schemas.events import BilledCost, ServiceTier, TokenCounts

DOCUMENT = (Path(__file__).parents[2] / "docs" / "provider-usage.md").read_text(encoding="utf-8")
CASES: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "provider_usage.jsonl")
    .read_text(encoding="utf-8")
    .splitlines()
]


def expected(case: dict[str, Any]) -> tuple[Line, ...]:
    lines = []
    for line in case["lines"]:
        named = dict(line)
        named["tokens"] = TokenCounts(**named.get("tokens", {}))
        named["service_tier"] = ServiceTier(named.get("service_tier", "standard"))
        if "billed" in named:
            named["billed"] = BilledCost(**named["billed"])
        lines.append(Line(**named))
    return tuple(lines)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_every_documented_form_has_its_lines_or_its_refusal(case: dict[str, Any]) -> None:
    found = normalise(case["response"], **case["call"])
    if "refused" in case:
        assert isinstance(found, Refused), found
        assert found.reason == case["refused"], found
        return
    assert found == Normalised(expected(case), case["response_id"])


def test_every_refusal_and_every_form_is_among_the_cases() -> None:
    assert {case["refused"] for case in CASES if "refused" in case} == set(Refusal)
    usages = [(find(case["response"]), case["call"]) for case in CASES if "lines" in case]
    forms = {
        form_of(found.usage, call.get("provider", ""))
        for found, call in usages
        if isinstance(found, Found)
    }
    assert forms == set(Form) == set(_READERS)


def test_the_example_in_the_document_prints_what_it_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocks = re.findall(r"```(?:python|text)\n(.*?)```", DOCUMENT, re.DOTALL)
    program, printed = next(
        (block, after) for block, after in itertools.pairwise(blocks) if "import normalise" in block
    )
    exec(program, {})  # noqa: S102 - the document's own
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_names_of_ours_are_those_of_the_price_book(case: dict[str, Any]) -> None:
    """A line of tokens has a model, every other line none: it would be free under its price."""
    found = normalise(case["response"], **case["call"])
    for line in found.lines if isinstance(found, Normalised) else ():
        assert bool(line.model) is not bool(line.action)
        assert line.model or (line.tokens == TokenCounts() and line.unit)
