"""The price book in PostgreSQL: published versions, never edited."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime

from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.queries import load
from core.catalog import Catalog, parse_catalog
from core.default_book import default_document
from core.document import Node
from core.prices import BookError, PriceHistory, parse_book

_SQL = load("prices")
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


async def load_history(connection: Connection) -> PriceHistory:
    """All versions, parsed. Versions with equal catalogs share one in memory.

    Raises:
        Failure: a stored version cannot be read by this release.
    """
    catalogs: dict[str, Catalog] = {}
    books = []
    for row in await connection.fetch(_SQL.versions):
        version, catalog_digest = row["price_version"], row["catalog_digest"]
        try:
            if catalog_digest not in catalogs:
                text = await connection.fetchval(_SQL.catalog, version)
                # In a thread: no event loop may stand still for a third of a second.
                catalogs[catalog_digest] = await asyncio.to_thread(_read_catalog, text)
            book = parse_book(
                json.loads(row["document"]),
                version=version,
                effective_from=row["effective_from"],
                catalog=catalogs[catalog_digest],
            )
        except BookError as error:
            raise Failure(
                f"price version {version} cannot be read by this release: {error}. Run the release"
                " that published it, or a newer one"
            ) from error
        books.append(book)
    return PriceHistory(books)


def _read_catalog(text: str) -> Catalog:
    return parse_catalog(Node(json.loads(text), key="book.catalog"))


async def publish(
    connection: Connection,
    document: Mapping[str, object],
    effective_from: datetime | None,
    by: str,
    *,
    correction: bool = False,
) -> int:
    """Adds a version that holds from a moment on (None: from now on) and returns its number.

    Not idempotent, but a second call with the same document is refused: it changes nothing. A
    start in the past is refused unless it is said to be a correction; it re-rates nothing by
    itself. The document is validated before anything is written.

    Raises:
        Failure: the document is invalid, equal to the one in force then, or starts in the past.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    try:
        parse_book(document, version=0, effective_from=_EPOCH)
    except BookError as error:
        raise Failure(f"the price book is not valid: {error}") from error
    async with connection.transaction():
        await connection.execute(_SQL.lock_versions)
        start = await connection.fetchrow(_SQL.start, effective_from)
        if start is None:
            raise AssertionError("SELECT without FROM gives one row")
        if start["past"] and not correction:
            raise Failure(
                f"the price book would start in the past, at {effective_from}; give a later time,"
                " or publish it as a correction"
            )
        if await connection.fetchval(_SQL.digest_in_force, start["effective_from"]) == digest:
            raise Failure("the price book equals the version in force then; nothing was published")
        version: int = await connection.fetchval(
            _SQL.add_version, start["effective_from"], text, digest, by
        )
    return version


async def ensure_default_book(connection: Connection) -> int | None:
    """Publishes the default book from 2020 on if there is no version yet; returns its number.

    Idempotent, also when two migrations run at once: None when there already is a version.
    """
    # Only here: the library costs every worker 30 MiB and half a second that it never needs again.
    from adapters.model_prices import snapshot  # noqa: PLC0415

    async with connection.transaction():
        await connection.execute(_SQL.lock_versions)
        if await connection.fetchval(_SQL.has_versions):
            return None
        document = default_document(snapshot())
        return await publish(connection, document, _EPOCH, "tollgate migrate", correction=True)
