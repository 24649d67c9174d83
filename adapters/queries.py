"""Named SQL statements, read from `sql/`."""

from functools import cache
from importlib.resources import files

_NAME = "-- name:"


class Statements:
    """The statements of one file as attributes; an unknown name raises AttributeError."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def __getattr__(self, name: str) -> str:
        """The statement of that name, with its contract comment, as it is sent to the database."""
        try:
            return self._texts[name]
        except KeyError:
            raise AttributeError(f"no statement is named {name!r}") from None

    def names(self) -> list[str]:
        """Every name in the file, in the order written."""
        return list(self._texts)


def parse(text: str, origin: str) -> Statements:
    """Splits a file at its `-- name: x` lines; two equal names are an error."""
    texts: dict[str, str] = {}
    for part in text.split(_NAME)[1:]:
        name, _, body = part.partition("\n")
        name = name.strip()
        if name in texts:
            raise ValueError(f"{origin}: two statements are named {name!r}")
        texts[name] = body.strip().removesuffix(";")
    return Statements(texts)


@cache
def load(name: str, engine: str = "postgres") -> Statements:
    """The statements of sql/<engine>/queries/<name>.sql, read once per process."""
    path = files("sql") / engine / "queries" / f"{name}.sql"
    return parse(path.read_text(encoding="utf-8"), str(path))
