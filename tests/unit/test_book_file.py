"""A price book as a YAML file: nothing is read as anything but what it says, and lines are true."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import book_file
from adapters.failures import Failure
from adapters.model_prices import snapshot
from core.default_book import default_document
from core.prices import BookError, parse_book
from tests.priced_usage import EPOCH

HERE = Path("book.yaml")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: 1\nb: 2\na: 3\n", "book.yaml:3: the key 'a' stands here twice, first on line 1"),
        ("a:\n  b: {c: 1, c: 1}\n", "book.yaml:2: the key 'c' stands here twice"),
        ("a: [\n", "book.yaml:2: is not YAML"),
        ("a: 1\n---\nb: 1\n", "book.yaml:2: is not YAML"),
        ("", "book.yaml:1: a price book is a mapping"),
        ("- a\n", "book.yaml:1: a price book is a mapping"),
        ("[a]: 1\n", "book.yaml:1: a price book is a mapping|a key is a text"),
        ("a: &x {b: *x}\n", "book.yaml:1: is nested too deep"),
        ("a: *x\n", "book.yaml:1: is not YAML: found undefined alias"),
        ("\x00", "is not YAML"),
    ],
)
def test_what_is_no_document_is_refused_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(Failure) as refused:
        book_file.parse(text, HERE)
    assert any(part in str(refused.value) for part in complaint.split("|"))


def test_anchors_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(Failure, match="nested too deep"):
        book_file.parse("\n".join(lines), HERE)


def test_only_whole_numbers_and_flags_are_not_text() -> None:
    text = "[16:30, 2026-12-01, yes, 'true', true, 12, '12', 0.5, 1e3, 010, 1_000, .5, '0.10', ~]"
    unquoted = [book_file.Unquoted(number) for number in ("0.5", "1e3", "010", "1_000", ".5")]
    assert book_file.parse(f"a: {text}", HERE).document["a"] == [
        *("16:30", "2026-12-01", "yes", "true", True, 12, "12"),
        *(*unquoted, "0.10", None),
    ]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("tiers: {free: 1.5}", "book.yaml:2: book.tiers.free: expected a decimal in quotes"),
        ("tiers: {free: 2}", "book.yaml:2: book.tiers.free: expected a decimal in quotes"),
        ("tiers:\n  free: '1'\n  pro: '-1'", "book.yaml:4: book.tiers.pro: '-1' is not a plain"),
        ("colour: red", "book.yaml:1: book: "),
    ],
)
def test_a_complaint_about_a_price_book_names_the_line(wrong: str, complaint: str) -> None:
    found = book_file.parse(f"actions: {{}}\n{wrong}\n", HERE)
    rest = default_document({"source": "none", "providers": []})
    document = {**rest, **found.document}
    with pytest.raises(BookError) as refused:
        parse_book(document, version=0, effective_from=EPOCH)
    assert str(found.failure(refused.value)).startswith(complaint)


_TEXTS = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\x85\u2028\u2029\ufeff"),
    max_size=40,
) | st.sampled_from(["", "~", "null", "true", "No", "0.5", "010", "1e3", "0x1f", "16:30", "- a"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_TEXTS, _VALUES, max_size=5))
def test_what_is_written_is_read_back_the_same(document: dict[str, object]) -> None:
    text = book_file.text_of(document, comment="version 3\nin force")
    assert book_file.parse(text, HERE).document == document


def test_the_whole_default_book_comes_back_with_every_figure(tmp_path: Path) -> None:
    document = default_document(snapshot())
    path = tmp_path / "book.yaml"
    path.write_text(book_file.text_of(document), encoding="utf-8")
    assert book_file.read(path).document == document


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"cannot read .*: No such file"):
        book_file.read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(Failure, match="is not UTF-8"):
        book_file.read(tmp_path / "latin.yaml")
