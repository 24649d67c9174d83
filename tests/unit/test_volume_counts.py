"""What one counter may count: a volume price gives back what was paid by it, and nothing else."""

from datetime import UTC, datetime
from typing import Any

import pytest

from core.document import BookError
from core.prices import PriceBook
from core.rating import AccountFacts, Counting, rate
from core.volume_counts import Published, clash, versions_beside
from tests.priced_usage import PRO, book, history, usage

VOLUME = {"charge": "volume", "steps": [{"up_to": "1000", "credits": "1"}, {"credits": "0.5"}]}
CHEAPER = VOLUME | {"steps": [{"up_to": "1000", "credits": "0.1"}, {"credits": "0.05"}]}
GRADUATED = VOLUME | {"charge": "graduated"}
PACKAGE = {"charge": "package", "credits": "1", "size": "100000"}


def on(day: int, month: int = 11, year: int = 2026) -> datetime:
    return datetime(year, month, day, tzinfo=UTC)


def of(**actions: Any) -> PriceBook:
    return book(catalog={"source": "none", "providers": []}, actions=actions, models={})


@pytest.mark.parametrize("other", [CHEAPER, GRADUATED, VOLUME | {"per": "10"}, PACKAGE])
def test_a_volume_price_shares_no_counter_with_another_price(other: dict[str, Any]) -> None:
    with pytest.raises(BookError, match="action:scan and action:page share the counter 'pages'"):
        of(scan=other | {"counter": "pages"}, page=VOLUME | {"counter": "pages"})


def test_equal_volume_prices_share_one_and_others_share_what_they_like() -> None:
    shared = {"counter": "pages"}
    assert of(scan=VOLUME | shared, page=VOLUME | shared).counted_rules()
    assert of(scan=GRADUATED | shared, page=PACKAGE | shared).counted_rules()
    assert of(scan=CHEAPER, page=VOLUME).counted_rules()


def test_versions_clash_where_a_counter_gets_another_price() -> None:
    then, now = of(page=CHEAPER).counted_rules(), of(page=VOLUME).counted_rules()
    pair = clash([*then, *now])
    assert pair is not None
    assert [rule.name for rule in pair] == ["action:page", "action:page"]
    assert clash([*then, *of(page=VOLUME | {"counter": "new"}).counted_rules()]) is None
    assert clash([*now, *of(page=VOLUME).counted_rules()]) is None
    assert clash([*of(page=GRADUATED).counted_rules(), *of(page=PACKAGE).counted_rules()]) is None


FIRST = Published(1, on(1, 1, 2020), on(5, 1))


@pytest.mark.parametrize(
    ("begins", "said", "beside"),
    [
        (on(21), on(21), [1]),  # now, within a month
        (on(25), on(21), [1]),  # to come, within a month
        (on(1, 12), on(21), []),  # to come, with the month
        (on(1, 11), on(21), [1]),  # a correction: this month was charged by the first
        (on(1, 10), on(1, 11), [1]),  # one for a month that is over: charged by it
    ],
)
def test_months_that_two_versions_price(
    begins: datetime, said: datetime, beside: list[int]
) -> None:
    assert versions_beside(Published(2, begins, said), [FIRST]) == beside


def test_versions_to_come_and_versions_that_never_held() -> None:
    later = Published(2, on(15, 12), on(1))
    assert versions_beside(Published(3, on(1, 12), on(2)), [FIRST, later]) == [2]
    assert versions_beside(Published(3, on(1, 1, 2027), on(2)), [FIRST, later]) == []
    replaced = Published(2, on(1, 12), on(1))
    assert versions_beside(Published(3, on(1, 12), on(2)), [FIRST, replaced]) == []
    # Replaced when it had priced for a day already.
    begun = Published(2, on(1), on(1, 10))
    assert versions_beside(Published(3, on(1), on(2)), [FIRST, begun]) == [2]


def test_own_keys_and_demo_accounts_count_for_themselves() -> None:
    prices = history(models={"acme/bundle": PACKAGE})
    event = usage("bundle", provider="acme", input=1)
    own = usage("bundle", provider="acme", input=1, own_key=True)
    demo = AccountFacts("pro", demo=True)
    found = [
        rate(*each)
        for each in (
            (event, prices, PRO),
            (own, prices, PRO),
            (event, prices, demo),
            (own, prices, demo),
        )
    ]
    assert all(isinstance(each, Counting) for each in found)
    assert [each.counter for each in found if isinstance(each, Counting)] == [
        "model:acme/bundle",
        "model:acme/bundle (own key)",
        "model:acme/bundle (demo)",
        "model:acme/bundle (own key) (demo)",
    ]


def test_a_package_costs_the_same_at_every_power_level() -> None:
    with pytest.raises(BookError, match="a package has no power_level multiplier"):
        of(work=PACKAGE | {"multipliers": ["power_level"]})
    assert of(work=PACKAGE | {"multipliers": ["tier"]}).counted_rules()
