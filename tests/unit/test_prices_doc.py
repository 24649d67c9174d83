"""docs/pricing.md is true: its pieces are one price book, and its figures what rating says."""

import re
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from adapters import book_file
from core.charge_models import ChargeModel
from core.prices import PriceBook, parse_book
from core.rating import AccountFacts, Counting, rate_with
from schemas.price_book import price_book
from schemas.reasons import Rejected
from schemas.usage import BilledCost, PowerLevel, ServiceTier
from tests.priced_usage import EPOCH, NOVEMBER, real_catalog, usage

PAGE = Path(__file__).parents[2] / "docs" / "pricing.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\{.*\})` \| (\S+) \| (.*) \|$", TEXT, re.MULTILINE)


def example() -> dict[str, Any]:
    """The price book that the page's pieces are together."""
    whole: dict[str, Any] = {}
    for piece in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        for section, value in book_file.parse(piece, PAGE).document.items():
            known = whole.setdefault(section, value)
            if known is not value:
                known.update(value)
    return whole


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return parse_book(example(), version=1, effective_from=EPOCH, catalog=real_catalog())


def test_the_pieces_are_a_price_book_for_the_schema_too(book: PriceBook) -> None:
    assert book.flat is not None
    assert list(Draft7Validator(price_book()).iter_errors(example())) == []


@pytest.mark.parametrize(("written", "amount", "because"), ROWS, ids=[row[0] for row in ROWS])
def test_the_usage_costs_what_the_page_says(
    book: PriceBook, written: str, amount: str, because: str
) -> None:
    fields = yaml.load(written, Loader=yaml.BaseLoader)  # noqa: S506 - it makes text only
    for name in fields.keys() & {"quantity", "before", *_KINDS}:
        fields[name] = int(fields[name])
    facts = AccountFacts(fields.pop("tier", "pro"), demo=False)
    before = fields.pop("before", 0)
    day = fields.pop("time", None)
    when = datetime.fromisoformat(day).replace(tzinfo=UTC) if day else NOVEMBER
    if "billed" in fields:
        fields["billed"] = BilledCost(*fields["billed"].split())
    if "own_key" in fields:
        fields["own_key"] = fields["own_key"] == "true"
    fields["power_level"] = PowerLevel(fields.get("power_level", "balanced"))
    fields["service_tier"] = ServiceTier(fields.get("service_tier", "standard"))
    answer = rate_with(usage(time=when, **fields), book, facts)
    if isinstance(answer, Counting):
        answer = answer.rated(before)
    if isinstance(answer, Rejected):
        assert amount == answer.reason == "unpriced", answer
        assert because in answer.detail
    else:
        assert answer.rated_micro == Fraction(amount) * 1_000_000


_KINDS = {
    *("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning"),
    *("audio_input", "audio_output", "image_input", "image_output", "video_input"),
}


def test_every_charge_model_has_a_formula_and_figures() -> None:
    for model in ChargeModel:
        (section,) = re.findall(rf"^#+ `{model}`.*?(?=^#+ |\Z)", TEXT, re.MULTILINE | re.DOTALL)
        assert re.search(r"^```\n(credits|C\(n\)) = ", section, re.MULTILINE), model
        assert "```yaml" in section, model
        assert len(re.findall(r"^\| `\{", section, re.MULTILINE)) >= 2, model
