"""Which prices a run uses, from what the operator named: nothing, a version, or a file."""

import asyncio
import json
from pathlib import Path

from adapters import book_file
from adapters.failures import Failure
from adapters.postgres import Connection
from adapters.price_store import load_history, propose
from adapters.rerate_runs import SQL, BookChoice
from core.document import BookError

PUBLISHED = "published"


async def choose(connection: Connection, named: str | None) -> BookChoice:
    """The prices that `named` means: None is every published version at its time.

    A file without a catalog has that of the version in force, as when it is published.

    Raises Failure when nothing was ever published, when there is no such version or file, when the
    file is no valid price book, or when a version is newer than this release can read.
    """
    newest = int(await connection.fetchval(SQL.newest_version))
    if not newest:
        raise Failure("no price book was ever published: run `tollgate migrate`")
    if named is None:
        return BookChoice(PUBLISHED, newest)
    if named.isascii() and named.isdigit():
        version = int(named)
        if (await load_history(connection)).numbered(version) is None:
            raise Failure(f"there is no price version {version}: see `tollgate prices list`")
        return BookChoice(f"version {version}", newest, price_version=version)
    path = Path(named)
    found = await asyncio.to_thread(book_file.read, path)
    try:
        whole = await propose(connection, found.document, None)
    except BookError as error:
        raise found.failure(error) from None
    document = json.dumps(whole.document, ensure_ascii=False)
    return BookChoice(f"file {path.name}", newest, document=document)
