"""What `tollgate prices` prints: changes, versions, and a version as a file."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from adapters.failures import Failure

if TYPE_CHECKING:
    from adapters.price_store import Proposal, Version
    from core.book_diff import Change

_SECTIONS = (
    "currencies",
    "credits_per_usd",
    "power_levels",
    "tiers",
    "own_key_share",
    "flat",
    "billed",
    "actions",
    "models",
)
_NAMES_MAX = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """A publication: its number, None when none was made, and the charges in its past, if any."""

    proposal: "Proposal"
    version: int | None = None
    charges: int | None = None


def changes(proposal: "Proposal", *, as_json: bool) -> None:
    """The changes, a line each, and against which version."""
    from tollgate.output import print_json, say

    if as_json:
        print_json(_report(proposal))
        return
    _say_changes(proposal)
    against = "no version" if proposal.against is None else f"version {proposal.against}"
    if proposal.changes:
        found = counted(len(proposal.changes), "change")
        say(f"{found} against {against}; catalog: {proposal.catalog}")
    else:
        say(f"nothing changes against {against}")


def outcome(done: Outcome, *, dry_run: bool, imported: bool, as_json: bool) -> None:
    """What was published, or would be; for a correction, the charges that it did not change."""
    from tollgate.output import print_json, say

    proposal = done.proposal
    left_out = _left_out() if imported else None
    if as_json:
        report = _report(proposal) | {"version": done.version, "dry_run": dry_run}
        print_json(
            report | {"charges": done.charges} | ({"left_out": left_out} if imported else {})
        )
        return
    _say_changes(proposal)
    if left_out is not None:
        _say_left_out(left_out)
    if not proposal.changes:
        say(f"the installed catalog is that of version {proposal.against}: nothing to import")
        return
    name = "a new version would hold" if done.version is None else f"version {done.version} holds"
    say(f"{name} {_stretch(proposal.effective_from, proposal.until)}; catalog: {proposal.catalog}")
    if proposal.past:
        _say_correction(done)
    if dry_run:
        say("nothing was published: this was a dry run")


def versions(found: "list[Version]", *, as_json: bool) -> None:
    """A row for each version with the time in which it holds."""
    from tollgate.output import print_json, print_table

    if as_json:
        print_json([asdict(each) for each in found])
        return
    print_table(
        ("version", "holds from (UTC)", "until", "published (UTC)", "by", "catalog"),
        [
            (
                str(each.version),
                each.effective_from,
                _until(each),
                each.published_at,
                each.published_by,
                each.catalog,
            )
            for each in found
        ],
    )


def chosen(found: "list[Version]", wanted: int | None) -> "Version":
    """The version of that number, or the one that holds now. Raises Failure when there is none."""
    now = datetime.now(UTC)
    for each in found:
        holds = each.effective_from <= now and (each.until is None or now < each.until)
        if each.version == wanted or (wanted is None and holds):
            return each
    known = "no version holds now" if wanted is None else f"there is no price version {wanted}"
    raise Failure(f"{known}; `tollgate prices list` shows them")


def as_file(found: "Version", document: dict[str, Any]) -> None:
    """The document as YAML on stdout, without its catalog: published as it is, that one is kept."""
    from adapters.book_file import text_of

    names = [*(name for name in _SECTIONS if name in document), *document]
    own = {name: document[name] for name in dict.fromkeys(names) if name != "catalog"}
    comment = (
        f"Price version {found.version}, {_stretch(found.effective_from, found.until)}.\n"
        f"Its catalog ({found.catalog}) is left out: a file without one keeps the catalog of the\n"
        "version that it follows. `catalog: genai-prices` takes the one installed."
    )
    print(text_of(own, comment), end="")  # noqa: T201 - a file, not a line


def one_model(found: "Version", document: dict[str, Any], model: str, *, as_json: bool) -> None:
    """What the version says about a model. Raises Failure when it has no price for that name."""
    from core.book_diff import described
    from core.book_facts import subjects
    from core.prices import parse_book
    from tollgate.output import print_json, say

    book = parse_book(document, version=found.version, effective_from=found.effective_from)
    rule = book.model_rule("", model)
    if rule is None:
        raise Failure(f"price version {found.version} does not know model {model}")
    name = rule.name.removeprefix("model:")
    lines = described(subjects(document)["flat price" if name == "flat" else name.lower()])
    if as_json:
        print_json({"version": found.version, "rule": rule.name, "says": lines})
        return
    say(f"{model} is priced by {rule.name} of version {found.version}")
    for line in lines:
        say(f"  {line}")


def version(found: "Version", document: dict[str, Any], *, as_json: bool) -> None:
    """When the version holds, and all that it says except for the models of its catalog."""
    from core.book_diff import described
    from core.book_facts import subjects
    from tollgate.output import print_json, say, time_text

    if as_json:
        print_json(asdict(found) | {"document": document})
        return
    say(f"version {found.version} holds {_stretch(found.effective_from, found.until)}")
    say(f"published {time_text(found.published_at)} UTC by {found.published_by}")
    providers = document["catalog"]["providers"]
    models = sum(len(provider["models"]) for provider in providers)
    say(f"catalog: {found.catalog}, {len(providers)} providers, {models:,} models")
    own = {**document, "catalog": {"source": found.catalog, "providers": []}}
    for subject in subjects(own).values():
        for line in described(subject):
            if subject.name != "catalog":
                say(line)


def _report(proposal: "Proposal") -> dict[str, Any]:
    return {
        "against": proposal.against,
        "effective_from": proposal.effective_from,
        "until": proposal.until,
        "correction": proposal.past,
        "catalog": proposal.catalog,
        "retired_kept": proposal.kept,
        "changes": [_change(change) for change in proposal.changes],
    }


def _change(change: "Change") -> dict[str, Any]:
    return {
        "subject": change.subject,
        "where": change.where,
        "kind": change.kind,
        "facts": [
            {
                "what": fact.what,
                "old": fact.old and fact.old._asdict(),
                "new": fact.new and fact.new._asdict(),
            }
            for fact in change.differences
        ],
        "text": str(change),
    }


def _say_changes(proposal: "Proposal") -> None:
    from tollgate.output import say

    for change in proposal.changes:
        say(str(change))
    if proposal.kept:
        say(f"kept, though the snapshot no longer has them: {_few(proposal.kept)}")


def _say_correction(done: Outcome) -> None:
    from tollgate.output import say

    proposal = done.proposal
    until = proposal.until or datetime.now(UTC).replace(microsecond=0)
    found = counted(done.charges or 0, "charge")
    say(f"no charge was changed; in that time: {found}. What it would change:")
    begin, end = (
        moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in (proposal.effective_from, until)
    )
    say(f"  tollgate rerate --from {begin} --to {end}")


def _left_out() -> dict[str, Any]:
    from adapters.model_prices import gaps

    return asdict(gaps())


def _say_left_out(left_out: dict[str, Any]) -> None:
    from tollgate.output import say

    for key, models in sorted(left_out["units"].items()):
        say(f"left out: {key}, a unit that no event carries: {_few(models)}")
    for context, models in sorted(left_out["contexts"].items()):
        say(f"left out: prices for {context}, which is no service tier: {_few(models)}")
    say(f"without any price, so unpriced: {_few(left_out['unpriced'])}")


def counted(number: int, thing: str) -> str:
    """A number with its thing, in the plural where there is not one of it."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_MAX} more" if len(names) > _NAMES_MAX else ""
    return f"{counted(len(names), 'model')} ({', '.join(names[:_NAMES_MAX])}{more})"


def _stretch(start: datetime, until: datetime | None) -> str:
    from tollgate.output import time_text

    end = "until another version begins" if until is None else f"until {time_text(until)} UTC"
    return f"from {time_text(start)} UTC {end}"


def _until(version: "Version") -> object:
    if version.until is None:
        return "another begins"
    return "never holds" if version.until == version.effective_from else version.until
