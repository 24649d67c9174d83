"""A new snapshot of model prices without losing what the old one priced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Merged:
    """A catalog, and the models in it (provider/model) that the new snapshot no longer has."""

    catalog: dict[str, Any]
    kept: list[str]


def with_retired(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Merged:
    """The new catalog section, behind which stand the models of the old one that it lacks.

    A library forgets models that their makers retire, and events of last month name them still.
    They stand last, so that whatever the new snapshot says about a name goes first. Doing it
    again changes nothing.
    """
    kept: list[str] = []
    before = {section["provider"]: section for section in (old or {"providers": []})["providers"]}
    providers = []
    for section in new["providers"]:
        was = before.pop(section["provider"], None)
        known = {row["model"] for row in section["models"]}
        gone = [row for row in was["models"] if row["model"] not in known] if was else []
        kept += [f"{section['provider']}/{row['model']}" for row in gone]
        providers.append({**section, "models": [*section["models"], *gone]} if gone else section)
    for name, section in before.items():
        kept += [f"{name}/{row['model']}" for row in section["models"]]
        providers.append(section)
    return Merged({**new, "providers": providers}, kept)
