"""A TCP proxy before PostgreSQL that lets a COMMIT through and cuts the line before its reply, or
that lets nothing through any more and cuts nothing: the server has vanished.
"""

import asyncio
import random
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

COMMIT = b"COMMIT;"
CHARGES = b'COPY "charge"'
CHUNK_BYTES = 65_536


class LossyProxy:
    """Stands between workers and PostgreSQL; `lost` counts the replies that it swallowed."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._target = urlsplit(dsn)
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self.commits = 0
        self.lost = 0
        self.lost_of_charges = 0
        self.loses_charges = False
        """Whether each transaction that charged something loses its reply."""
        self.loses_others = 0.0
        """The share of all other commits whose replies are lost. By chance and not by count: one
        that counts can fall into step with a worker's tasks, and then the same one always loses.
        """
        self._random = random.Random(10)
        self.silent_from: bytes | None = None
        """A line on which these bytes are asked is dead from then on, and open."""
        self.silenced = 0

    @property
    def dsn(self) -> str:
        """Where workers connect to."""
        assert self._server
        port = self._server.sockets[0].getsockname()[1]
        user = self._target.username or "tollgate"
        return urlunsplit(self._target._replace(netloc=f"{user}@127.0.0.1:{port}"))

    async def open(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def close(self) -> None:
        """Cuts every line."""
        assert self._server
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._links.add(task)
        try:
            # One end went away: that is what this proxy is for, and each end sees it by itself.
            # Cancelled by close(), and by nobody else: the task ends here, with nothing to tell.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._link(reader, writer)
        finally:
            self._links.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection(self._target.hostname, self._target.port)
        line = _Line()
        pumps = [
            asyncio.create_task(self._requests(reader, to_server[1], line)),
            asyncio.create_task(self._replies(to_server[0], writer, line)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            to_server[1].close()
            with suppress(OSError):
                await to_server[1].wait_closed()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: "_Line"
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            line.charges = line.charges or CHARGES in data
            if COMMIT in data:
                self.commits += 1
                line.loses = self._loses(line)
                self.lost_of_charges += line.loses and line.charges
                line.charges = False
            if self.silent_from is not None and self.silent_from in data and not line.silent:
                self.silenced += 1
                line.silent = True
            if line.silent:
                continue
            writer.write(data)
            await writer.drain()

    def _loses(self, line: "_Line") -> bool:
        if line.charges:
            return self.loses_charges
        return self._random.random() < self.loses_others

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: "_Line"
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if line.loses:
                self.lost += 1
                return
            if line.silent:
                continue
            writer.write(data)
            await writer.drain()


class _Line:
    charges = False
    loses = False
    silent = False
