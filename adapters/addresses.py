"""Addresses with passwords in them: judged before anybody parses them, and never repeated."""

import re
from urllib.parse import parse_qsl, urlsplit

PORT_MAX = 65_535
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^\s:@\[\]]*)(?::([0-9]{0,5}))?")
_ENCODE = "percent-encode characters such as # / ? @ in a password (%23 %2F %3F %40)"


def check_postgres(dsn: str) -> None:
    """Takes what asyncpg reads as it was meant: several hosts and sockets, too, and '' for libpq's
    own variables. Raises ValueError for the rest, in which nothing of the DSN is.
    """
    if dsn and not _readable(dsn, {"postgresql", "postgres"}):
        raise ValueError(
            f"is no address such as postgresql://user:password@host:5432/database; {_ENCODE}"
        )


def check_clickhouse(url: str) -> None:
    """Takes a URL with a host that reads as it was meant, and '' for none.

    Raises ValueError for the rest, in which nothing of the URL is.
    """
    if url and not (_readable(url, {"http", "https"}) and urlsplit(url).hostname):
        raise ValueError(f"is no address such as http://user:password@host:8123; {_ENCODE}")


def _readable(text: str, schemes: set[str]) -> bool:
    """A password with # / or ? ends the part before it, so that an @ or a wrong port is left over.

    asyncpg parts user and host at the first @, others at the last.
    """
    try:
        parts = urlsplit(text)
        parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        return False
    before, _, hosts = parts.netloc.rpartition("@")
    return (
        parts.scheme in schemes
        and "#" not in text
        and "@" not in parts.path + parts.query
        and not ("@" in before and parts.scheme.startswith("postgres"))
        and all(_is_host(each) for each in hosts.split(","))
    )


def _is_host(text: str) -> bool:
    found = _HOST.fullmatch(text)
    return found is not None and int(found[1] or 0) <= PORT_MAX
