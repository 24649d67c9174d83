"""What the sections of a price book for charge models may say; a refusal names the place."""

from typing import Any

import pytest

from core.prices import BookError, parse_book
from core.rating import Rated, rate_with
from tests.priced_usage import EPOCH, PRO, book, document, usage

STEPS = [{"up_to": "10", "credits": "2"}, {"credits": "1"}]


def _action(**row: Any) -> dict[str, Any]:
    return {"actions": {"a": row}}


def _steps(*steps: dict[str, Any]) -> dict[str, Any]:
    return _action(charge="graduated", steps=list(steps))


def _tiers(**tiers: Any) -> dict[str, Any]:
    entry = {"usd_per_mtok": {"input": "1"}, "service_tiers": tiers}
    return {"models": {"acme/m": {"prices": [entry]}}}


def _rates(*rates: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"credits_per_usd": None, "currencies": {"USD": list(rates)} | others}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (_action(charge="magic", credits="1"), "book.actions.a.charge: the charge model here is"),
        (_action(charge="graduated", credits="1"), "book.actions.a: is missing steps"),
        (_action(charge="graduated", steps=STEPS, size="1"), "book.actions.a: does not know size"),
        (_action(charge="graduated", steps=[]), "book.actions.a.steps: expected at least one"),
        (_steps({"up_to": "10", "credits": "1"}), "steps[0]: does not know up_to"),
        (_steps({"credits": "1"}, {"credits": "1"}), "steps[0]: is missing up_to"),
        (_steps({"up_to": "0", "credits": "1"}, {"credits": "1"}), "steps[0].up_to: must be more"),
        (
            _steps(*({"up_to": "7", "credits": "1"},) * 2, {"credits": "1"}),
            "steps[1].up_to: must be more than that of the step before",
        ),
        (_steps({"up_to": "1.5", "credits": "1"}, {"credits": "1"}), "has more than 0 decimals"),
        (_steps({"up_to": 10, "credits": "1"}, {"credits": "1"}), "expected a decimal in quotes"),
        (_steps({"credits": "0"}), "book.actions.a.steps: at least one step must cost something"),
        (_action(charge="package", credits="1"), "book.actions.a: is missing size"),
        (_action(charge="package", credits="0", size="5"), "credits: must be more than 0"),
        (_action(charge="package", credits="1", size="0"), "size: must be at least 1"),
        (_action(charge="package", credits="1", size="5", per="2"), "does not know per"),
        (_action(credits="1", per="0"), "book.actions.a.per: must be at least 1"),
        (_action(credits="1", unit=""), "book.actions.a.unit: expected a text"),
        (_action(credits="1", unit="Seconds"), "book.actions.a.unit: no event can name it"),
        (_action(credits="1", counter="c"), "book.actions.a: does not know counter"),
        (
            _action(charge="graduated", steps=STEPS, counter="\\N"),
            "book.actions.a.counter: a counter is named with",
        ),
        (_action(credits="1", steps=STEPS), "book.actions.a: does not know steps"),
        (
            _action(charge="volume", steps=STEPS, multipliers=["tier"]),
            "book.actions.a.multipliers: a volume price has no multipliers",
        ),
        (
            {"models": {"acme/m": {"charge": "graduated", "steps": STEPS, "unit": "pages"}}},
            "book.models.acme/m: does not know unit",
        ),
        (
            {"models": {"acme/m": {"charge": "package", "size": "1", "prices": []}}},
            "book.models.acme/m: is missing credits",
        ),
        (
            _tiers(cheap={}),
            "service_tiers.cheap: 'cheap' is not one of batch, flex, priority, fast",
        ),
        (_tiers(standard={}), "service_tiers.standard: 'standard' is not one of batch"),
        (_tiers(batch={"from": "2026-01-01"}), "service_tiers.batch: does not know from"),
        (_tiers(batch={"usd_per_mtok": {"smell": "1"}}), "'smell' is not a kind of token"),
        ({"billed": {}}, "book.billed: is missing providers"),
        (
            {"billed": {"providers": ["*"], "markup": "0"}},
            "book.billed.markup: must be more than 0",
        ),
        (
            {"billed": {"providers": ["*"], "charge": "package"}},
            "book.billed.charge: the charge model here is billed",
        ),
        ({"credits_per_usd": None, "currencies": None}, "needs exactly one of currencies and"),
        (
            {"credits_per_usd": "1", "currencies": {"USD": [{"credits": "1"}]}},
            "book: needs exactly one of currencies and credits_per_usd",
        ),
        (_rates(), "book.currencies.USD: expected at least one rate"),
        (_rates({"credits": "0"}), "book.currencies.USD[0].credits: must be more than 0"),
        (_rates({"credits": "1", "from": "2026-01-01"}), "USD[0]: does not know from"),
        (_rates({"credits": "1"}, {"credits": "2"}), "USD[1]: is missing from"),
        (
            _rates(
                {"credits": "1"},
                {"credits": "2", "from": "2026-02-01"},
                {"credits": "3", "from": "2026-02-01"},
            ),
            "USD[2].from: must be later than the one before",
        ),
        (_rates({"credits": "1"}, yen=[]), "book.currencies.yen: a currency is three capital"),
        (
            {"credits_per_usd": None, "currencies": {"EUR": [{"credits": "1"}]}},
            "book.currencies: is missing USD",
        ),
    ],
)
def test_a_row_that_cannot_be_used_names_the_place(changes: dict[str, Any], complaint: str) -> None:
    whole = document(**{"credits_per_usd": "1", "currencies": None} | changes)
    with pytest.raises(BookError) as refused:
        parse_book(whole, version=1, effective_from=EPOCH)
    assert complaint in str(refused.value)


def test_a_name_of_a_counted_model_is_taken_once() -> None:
    row = {"charge": "graduated", "steps": STEPS, "aliases": ["m"]}
    with pytest.raises(BookError, match="'m' is a name of model:acme/a already"):
        book(models={"acme/a": row, "acme/b": row})


# As tollgate 0.1 stored it: credits_per_usd, and no word of what came later.
OLD = {
    "credits_per_usd": "2.5",
    "power_levels": {"eco": "0.5", "balanced": "1.0", "precision": "2.0"},
    "tiers": {"free": "1.5", "pro": "1.0"},
    "own_key_share": "0.05",
    "flat": {"tokens_per_credit": "200", "models": ["acme/small"]},
    "actions": {"scheduled_task": {"credits": "0.0005"}, "ping": {"credits": "0", "free": True}},
    "models": {
        "acme/large": {
            "prices": [
                {
                    "usd_per_mtok": {"input": "3", "cache_read": "0.3", "output": "15"},
                    "above_input_tokens": [{"tokens": 100, "usd_per_mtok": {"input": "6"}}],
                    "usd_per_request": "0.001",
                }
            ]
        }
    },
    "catalog": {"source": "none", "providers": []},
}


@pytest.mark.parametrize(
    ("fields", "micro"),
    [
        # (90 x 3 + 10 x 0.3 + 10 x 15 + 1000) x 2.5
        ({"model": "acme/large", "input": 100, "cache_read": 10, "output": 10}, 3_558),
        # (191 x 6 + 10 x 0.3 + 1000) x 2.5 = 5372.5: a tie goes to the even neighbour
        ({"model": "acme/large", "input": 201, "cache_read": 10}, 5_372),
        ({"model": "acme/large", "input": 100, "own_key": True}, 162),  # 1300 x 2.5 x 0.05 = 162.5
        ({"model": "acme/small", "input": 1}, 5_000),
        ({"action": "scheduled_task", "quantity": 3}, 1_500),
        ({"action": "ping"}, 0),
    ],
)
def test_a_stored_document_of_an_older_release_keeps_its_prices(
    fields: dict[str, Any], micro: int
) -> None:
    prices = parse_book(OLD, version=7, effective_from=EPOCH)
    answer = rate_with(usage(**fields), prices, PRO)
    assert isinstance(answer, Rated), answer
    assert (answer.rated_micro, answer.price_version) == (micro, 7)
