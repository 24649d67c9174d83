"""A price book as a YAML file: read exactly, with the line of every place, and written back.

YAML 1.2's plain rules, so that a file means here what it means to an editor: `true` and `false`
are flags, whole numbers are numbers, and everything else without quotes is text, dates and hours
included. A decimal must be in quotes: without them most tools would read it as a float.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from adapters.failures import Failure
from core.document import BookError

BYTES_MAX = 32 * 2**20
DEPTH_MAX = 40
VALUES_MAX = 2_000_000  # far above the whole catalog; a chain of anchors reaches it at once

Place = tuple[str | int, ...]

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|0[xo][0-9a-fA-F]+")
_PLAIN = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, slots=True)
class Unquoted:
    """A number that is no whole one, written without quotes: no value of a book can be that."""

    text: str


@dataclass(frozen=True, slots=True)
class BookFile:
    """What a file says, not yet judged as a price book, and on which line each place stands."""

    path: Path
    document: dict[str, object]
    lines: dict[Place, int]

    def failure(self, error: BookError) -> Failure:
        """The complaint about this document with file and line in front, to be raised."""
        place = error.path
        while place and place not in self.lines:
            place = place[:-1]
        return Failure(f"{self.path}:{self.lines.get(place, 1)}: {error}")


def read(path: Path) -> BookFile:
    """Reads a YAML file (JSON is YAML too). Nothing in it is run, and no figure loses a digit.

    Raises:
        Failure: no file, no YAML, a key twice in one mapping, or no mapping at the top; the
            message names the line.
    """
    try:
        if path.stat().st_size > BYTES_MAX:
            raise Failure(f"{path} is larger than {BYTES_MAX // 2**20} MiB: no price book is")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Failure(f"{path} is not UTF-8 text") from None
    return parse(text, path)


def parse(text: str, path: Path) -> BookFile:
    """The same from text; `path` is what messages call it. Raises Failure as `read` does."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = 1 + (error.problem_mark.line if error.problem_mark else 0)
        raise Failure(f"{path}:{line}: is not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise Failure(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    reading = _Reading(path)
    document = None if root is None else reading.value(root, ())
    if not isinstance(document, dict):
        raise Failure(f"{path}:1: a price book is a mapping of sections such as tiers and actions")
    return BookFile(path, document, reading.lines)


def text_of(document: dict[str, object], comment: str = "") -> str:
    """The document as YAML that `read` reads back to the same values, below a comment."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )


# The C parser finds the same nodes ten times faster; the wheels have it, a build without may not.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


class _Reading:
    """Turns the parser's nodes into values, remembering lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values = 0
        self.lines: dict[Place, int] = {}

    def value(self, node: yaml.Node, place: Place) -> object:
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        self._values += 1
        if len(place) > DEPTH_MAX or self._values > VALUES_MAX:
            raise Failure(
                f"{self._path}:{line}: is nested too deep, or too large, for a price book"
            )
        match node:
            case yaml.MappingNode():
                return self._mapping(node, place)
            case yaml.SequenceNode():
                return [self.value(part, (*place, n)) for n, part in enumerate(node.value)]
            case yaml.ScalarNode():
                return _scalar(node)
            case _:
                raise AssertionError(f"a node of an unknown kind: {node!r}")

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, object]:
        found: dict[str, object] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise Failure(f"{self._path}:{line}: a key is a text")
            key = key_node.value
            if key in first:
                raise Failure(
                    f"{self._path}:{line}: the key {key!r} stands here twice, first on line"
                    f" {first[key]}"
                )
            first[key] = self.lines[*place, key] = line
            found[key] = self.value(value_node, (*place, key))
        return found


def _scalar(node: yaml.ScalarNode) -> object:
    text: str = node.value
    if node.style:
        return text
    if text in _PLAIN:
        return _PLAIN[text]
    if _WHOLE.fullmatch(text):
        return int(text)
    return Unquoted(text) if _NUMBER.fullmatch(text) else text


class _Dumper(yaml.SafeDumper):
    """Quotes every text that would be read back as something else, and repeats no node by name."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = text not in _PLAIN and not _NUMBER.fullmatch(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _text_node)
