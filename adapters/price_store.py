"""The price book in PostgreSQL: published versions, never edited."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from asyncpg import Record

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load
from core.book_diff import Change, differences
from core.catalog import Catalog, parse_catalog
from core.default_book import default_document
from core.document import Node
from core.prices import BookError, PriceBook, PriceHistory, parse_book
from core.retired import Merged, with_retired
from core.volume_counts import Published, clash, versions_beside
from schemas.price_book import INSTALLED_CATALOG

_SQL = load("prices")
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_NO_CATALOG = Catalog("none", ())
_VERSIONS_AT_ONCE = 8  # of one statement, which reads all their catalogs: far below its time limit
# Each catalog that this process has parsed, by digest: they never change, and every history that
# has its version holds it anyhow.
_CATALOGS: dict[str, Catalog] = {}

Opened = Callable[[], AbstractAsyncContextManager[Connection]]


async def load_history(connection: Connection, known: PriceHistory | None = None) -> PriceHistory:
    """All versions, parsed; only those newer than the known ones are read.

    Versions with equal catalogs share one in memory.

    Raises:
        Failure: a stored version cannot be read by this release.
    """
    history = known or PriceHistory(())
    async for grown in newer_versions(lambda: nullcontext(connection), history):
        history = grown
    return history


async def newer_versions(opened: Opened, history: PriceHistory) -> AsyncIterator[PriceHistory]:
    """Yields the history with the next newer version, again and again, until it has them all.

    In the order of their numbers, so that one with the newest has every one. A connection is kept
    for a statement only, and nothing is read before the last history is taken. Raises Failure as
    `load_history`.
    """
    while True:
        async with opened() as connection:
            rows = await connection.fetch(
                _SQL.versions_above, history.latest_version, _VERSIONS_AT_ONCE
            )
        for row in rows:
            history = history.with_newer([await _book(opened, row)])
            yield history
        if len(rows) < _VERSIONS_AT_ONCE:
            return


async def _book(opened: Opened, row: Record) -> PriceBook:
    version, digest = row["price_version"], row["catalog_digest"]
    try:
        if digest not in _CATALOGS:
            async with opened() as connection:
                text = await connection.fetchval(_SQL.catalog, version)
            # In a thread: no event loop may stand still for a third of a second.
            _CATALOGS[digest] = await asyncio.to_thread(_read_catalog, text)
        return parse_book(
            json.loads(row["document"]),
            version=version,
            effective_from=row["effective_from"],
            catalog=_CATALOGS[digest],
        )
    except BookError as error:
        raise Failure(
            f"price version {version} cannot be read by this release: {error}. Run the release"
            " that published it, or a newer one"
        ) from error


def _read_catalog(text: str) -> Catalog:
    return parse_catalog(Node(json.loads(text), key="book.catalog"))


@dataclass(frozen=True, slots=True)
class Version:
    """A published version: when it holds, and who published it when.

    `until` is None where no later version begins, and equal to `effective_from` where a newer one
    begins at the same moment: then this one never holds.
    """

    version: int
    effective_from: datetime
    until: datetime | None
    published_by: str
    published_at: datetime
    catalog: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What publishing a document would do, or did; nothing of it is a promise for later.

    `document` is whole: its catalog is the one that will be stored, and `catalog` says where that
    came from. `kept` are the models that only the version before still knew. `past` says that it
    is a correction. `clashes` are volume prices that would give back what nobody paid.
    """

    document: dict[str, Any]
    effective_from: datetime
    until: datetime | None
    past: bool
    against: int | None
    changes: list[Change]
    catalog: str
    kept: list[str]
    clashes: list[str]


async def overview(connection: Connection) -> list[Version]:
    """Every version ever published, by number."""
    return [Version(*row.values()) for row in await connection.fetch(_SQL.overview)]


async def version_in_force(connection: Connection, when: datetime) -> int | None:
    """The number of the version that holds at a moment, None before the first one."""
    version: int | None = await connection.fetchval(_SQL.in_force, when)
    return version


async def read_document(connection: Connection, version: int) -> dict[str, Any]:
    """A version's whole document. Raises Failure when there is no such version."""
    text = await connection.fetchval(_SQL.document, version)
    if text is None:
        raise Failure(f"there is no price version {version}; `tollgate prices list` shows them")
    document: dict[str, Any] = json.loads(text)
    return document


async def charges_between(connection: Connection, start: datetime, end: datetime | None) -> int:
    """How many charges are for usage of that time, those of demo accounts too."""
    count: int = await connection.fetchval(_SQL.charges_between, start, end)
    return count


async def propose(
    connection: Connection,
    document: Mapping[str, object] | None,
    effective_from: datetime | None,
    *,
    against: int | None = None,
) -> Proposal:
    """What a document would change, compared with the version that holds when it would begin.

    With `against`, compared with that version instead. Without a document: that version's own with
    the catalog installed here, which is what an import publishes. Reads only.

    Raises:
        Failure: there is no such version, or none in force whose catalog the document could keep.
        BookError: the document is not valid.
    """
    start = await connection.fetchrow(_SQL.start, effective_from)
    if start is None:
        raise AssertionError("SELECT without FROM gives one row")
    begins = start["effective_from"]
    if against is None:
        against = await version_in_force(connection, begins)
    base = None if against is None else await read_document(connection, against)
    if document is None:
        document = {**(base or {}), "catalog": INSTALLED_CATALOG}
    # In a thread: no event loop may stand still for half a second.
    whole, catalog, kept = await asyncio.to_thread(_whole, document, base, against)
    book = await asyncio.to_thread(parse_book, whole, version=0, effective_from=_EPOCH)
    changes = [] if base is None else await asyncio.to_thread(differences, base, whole)
    until = await connection.fetchval(_SQL.next_start, begins)
    clashes = await _clashes(connection, book, begins, start["now"])
    return Proposal(whole, begins, until, start["past"], against, changes, catalog, kept, clashes)


async def _clashes(
    connection: Connection, book: PriceBook, begins: datetime, now: datetime
) -> list[str]:
    """Where a volume price would count on from another price within a month, in plain words."""
    versions = await overview(connection)
    known = [Published(each.version, each.effective_from, each.published_at) for each in versions]
    new = Published(max((each.version for each in versions), default=0) + 1, begins, now)
    found = []
    for version, text in await connection.fetch(_SQL.rules, versions_beside(new, known)):
        rules = parse_book(
            json.loads(text), version=0, effective_from=_EPOCH, catalog=_NO_CATALOG
        ).counted_rules()
        if (pair := clash([*rules, *book.counted_rules()])) is not None:
            found.append(
                f"{pair[1].name} counts {pair[0].counter!r}, as {pair[0].name} of version {version}"
                " does at another price in the same month"
            )
    return found


def _whole(
    document: Mapping[str, object], base: Mapping[str, Any] | None, version: int | None
) -> tuple[dict[str, Any], str, list[str]]:
    """The document with its catalog, the words where that is from, and the models kept in it."""
    said = document.get("catalog")
    if said is None and base is not None:
        catalog = base["catalog"]
        return (
            {**document, "catalog": catalog},
            f"{catalog['source']}, kept from version {version}",
            [],
        )
    if said is None:
        raise Failure(
            "no version is in force whose catalog could be kept: say catalog: genai-prices"
        )
    if said != INSTALLED_CATALOG:
        return dict(document), "the document's own", []
    merged = installed_catalog(base)
    source = f"{merged.catalog['source']}, as installed"
    return {**document, "catalog": merged.catalog}, source, merged.kept


def installed_catalog(base: Mapping[str, Any] | None) -> Merged:
    """The installed snapshot of genai-prices with the retired models of a version's document."""
    # Only here: the library costs every worker 30 MiB and half a second that it never needs again.
    from adapters.model_prices import snapshot  # noqa: PLC0415

    return with_retired(None if base is None else base["catalog"], snapshot())


async def publish(
    connection: Connection,
    document: Mapping[str, object],
    effective_from: datetime | None,
    by: str,
    *,
    correction: bool = False,
) -> int:
    """Adds a version that holds from a moment on and returns its number; see `publish_proposal`.

    Raises:
        Failure: as `publish_proposal`, and when the document is not valid.
    """
    try:
        version, _ = await publish_proposal(
            connection, document, effective_from, by, correction=correction
        )
    except BookError as error:
        raise Failure(f"the price book is not valid: {error}") from error
    return version


async def publish_proposal(
    connection: Connection,
    document: Mapping[str, object] | None,
    effective_from: datetime | None,
    by: str,
    *,
    correction: bool = False,
) -> tuple[int, Proposal]:
    """Adds a version that holds from a moment on, and says what it did; `propose` has the rules.

    Without a moment it holds from now on: from one to two seconds later, so that it can be seen by
    every worker before it begins. Publishers wait for each other. Not idempotent, but the same
    document again is refused: it changes nothing. A start in the past is refused unless it is said
    to be a correction; it re-rates nothing by itself. The document is validated before anything is
    written.

    Raises:
        Failure: the document changes nothing, starts in the past, or clashes (see Proposal).
        BookError: the document is not valid.
    """
    async with connection.transaction():
        await connection.execute(_SQL.lock_versions)
        proposal = await propose(connection, document, effective_from)
        refuse(proposal, correction=correction)
        text = json.dumps(
            proposal.document, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        digest = hashlib.sha256(text.encode()).hexdigest()
        version: int = await connection.fetchval(
            _SQL.add_version, proposal.effective_from, text, digest, by
        )
    return version, proposal


def refuse(proposal: Proposal, *, correction: bool) -> None:
    """Raises Failure for what must not be published: the past unsaid, or nothing new."""
    if proposal.past and not correction:
        raise Failure(
            f"the price book would start in the past, at {proposal.effective_from}; give a later"
            " time, or publish it as a correction"
        )
    if proposal.against is not None and not proposal.changes:
        raise Failure(
            f"the price book equals version {proposal.against}, the one in force then; nothing was"
            " published"
        )
    if proposal.clashes:
        raise Failure(
            f"{proposal.clashes[0]}: what a volume price gives back must have been paid by it."
            " Begin at the start of a month (UTC) that is to come, or name another `counter:`"
        )


async def ensure_default_book(connection: Connection) -> int | None:
    """Publishes the default book from 2020 on if there is no version yet; returns its number.

    Idempotent, also when two migrations run at once: None when there already is a version.
    """
    async with connection.transaction():
        await connection.execute(_SQL.lock_versions)
        if await connection.fetchval(_SQL.has_versions):
            return None
        document = default_document(installed_catalog(None).catalog)
        return await publish(connection, document, _EPOCH, "tollgate migrate", correction=True)
