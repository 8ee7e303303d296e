"""What is on record, computed again from the bytes: what a base holds, what an adapter is, which key and forms follow.

Seals and the chain of the log show what was changed after it was written.  This shows what was never true, whoever wrote
it and however the log agrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.errors import FuseryError
from fusery.storage.plugins import PluginError

from .. import tables
from ..adapters.finding import Finding
from ..adapters.folder import read_adapter_folder
from ..adapters.other_forms import other_forms
from ..admission.examine import unreadable
from ..engine.naming import taken_by_name
from ..fusion.foreign import foreign_key, foreign_record, recipe_key
from ..fusion.records import in_words
from ..models.identity import identify_base
from ..records.derived import LEARNED, adapter_columns, base_columns, describe_base, differing
from ..records.renderings import fetch_originals
from .admitting import unfit
from .auditable import AuditableItem
from .facts import Ahead
from .report import Report, in_order

if TYPE_CHECKING:
    from ..models.architecture import Architecture
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class Untrue:
    """Something on record that the bytes do not bear out.

    Attributes:
        code: its kind.
        subject: the record.
        message: what is the case.
        table: in which it is written.
    """

    code: str
    subject: str
    message: str
    table: str


def check_again(workspace: Workspace, item: AuditableItem, report: Report, ahead: Ahead) -> None:
    """Compute again what is on record of something, and note what is not so; bytes that are damaged are not looked at.

    Raises:
        PluginError: a plugin cannot be used.
    """
    if any(problem.subject.startswith(f"{item.name}: ") for problem in report.problems):
        return
    with in_order(report, item.name):
        for found in recompute(workspace, item, report.notes, ahead):
            report.add(found.code, found.subject, found.message)


def recompute(
    workspace: Workspace, item: AuditableItem, notes: list[str], ahead: Ahead | None = None
) -> Iterator[Untrue]:
    """Yield what is on record of something and is not so.

    Args:
        workspace: the registry's parts.
        item: the base, adapter or fused artifact.
        notes: told what is worth knowing, and what could not be computed.
        ahead: has read what is on record of it with others.

    Raises:
        PluginError: a plugin cannot be used: none is passed over.
    """
    number = next((number for kind, number in item.records if kind == item.kind), None)
    if number is None:
        return
    try:
        if item.kind == "base":
            yield from _base(workspace, item, number, notes)
        elif item.kind == "adapter":
            yield from _adapter(workspace, item, number, ahead or Ahead(workspace, [item]))
        elif item.kind == "fused":
            yield from _fused(workspace, item, number, notes)
    except PluginError:
        raise  # of all that is looked at, and not this one's
    except FuseryError as error:
        notes.append(f"{item.name} could not be computed again: {error.message}")


def _base(workspace: Workspace, item: AuditableItem, number: int, notes: list[str]) -> Iterator[Untrue]:
    paths = _paths(workspace, item)
    if paths is None:
        notes.append(f"what {item.name} holds was not computed again: its files are not on this machine")
        return
    architecture = describe_base(paths)
    identity = identify_base(paths, architecture.config)
    if identity.manifest.digest != item.digest:
        return  # the files were found to be others
    derived = base_columns(architecture, identity)
    with workspace.database.read() as session:
        row = session.get_one(tables.BaseModel, number)
        said = {name: getattr(row, name) for name in derived}
    if said["content"] not in (None, derived["content"]):
        message = (
            f"the content on record is {said['content'][:12]}, and the bytes have {derived['content'][:12]}"
        )
        yield Untrue("content_differs", item.name, message, "base_model")
    wrong = [name for name in differing(said, derived) if name != "content"]
    by_name = taken_by_name(architecture.config, paths, written_by_mlx=architecture.written_by_mlx)
    if not by_name and set(wrong) & LEARNED:
        notes.append(f"what {item.name} is made of depends on mlx-lm, and was not computed again")
        wrong = [name for name in wrong if name not in LEARNED]
    yield from _facts(item.name, wrong, "base_model")


def _paths(workspace: Workspace, item: AuditableItem) -> dict[str, Path] | None:
    """Return a base's files where they can be read in place, None where one cannot."""
    if item.folder is not None:
        return {entry.path: item.folder / entry.path for entry in item.manifest}
    from ..records.bases import blob_generations

    generations = blob_generations(workspace, [entry.sha256 for entry in item.manifest])
    found = {
        entry.path: workspace.store.local_path(entry.sha256, generation=generations[entry.sha256])
        for entry in item.manifest
    }
    paths = {name: path for name, path in found.items() if path is not None}
    return paths if len(paths) == len(found) else None


def _adapter(workspace: Workspace, item: AuditableItem, number: int, ahead: Ahead) -> Iterator[Untrue]:
    facts = ahead.of(number)
    base = facts.ground.facts.architecture
    if facts.false:
        message = "it is on record as computed from other adapters than its own recipe names"
        yield Untrue("sources_differ", item.name, message, "adapter_source")
    with workspace.cache.scratch() as scratch:
        files = fetch_originals(workspace, facts.row, scratch / "arrived", ahead.kept)
        try:
            folder = read_adapter_folder(scratch / "arrived", base=base)
        except FuseryError as error:
            yield _unfit(item.name, [unreadable(error)])
            return
        found = unfit(workspace, folder, facts.submission, facts.known, facts.ground)
        if found:
            yield _unfit(item.name, found)
        if folder.problems:
            return  # what cannot be read says nothing
        yield from _facts(item.name, differing(facts.said, adapter_columns(folder, item.digest)), "adapter")
        yield from _forms(item.name, files, base, facts.forms, scratch)


def _unfit(name: str, found: list[Finding]) -> Untrue:
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    message = f"it would not get in: {found[0].code}: {found[0].message}{more}"
    return Untrue("adapter_unfit", name, message, "adapter")


def _forms(
    name: str, files: Mapping[str, Path], base: Architecture, forms: Mapping[str, str], scratch: Path
) -> Iterator[Untrue]:
    made = {form: manifest.digest for form, manifest in other_forms(files, base, forms, scratch)}
    for form, digest in sorted(forms.items()):
        if made.get(form) != digest:  # type: ignore[call-overload]
            message = f"its form {form} does not have the digest on record, {digest[:12]}"
            yield Untrue("form_differs", name, message, "adapter_rendering")


def _facts(name: str, wrong: list[str], table: str) -> Iterator[Untrue]:
    if wrong:
        yield Untrue(
            "facts_differ", name, f"its bytes do not say what is on record: {', '.join(wrong)}", table
        )


def _fused(workspace: Workspace, item: AuditableItem, number: int, notes: list[str]) -> Iterator[Untrue]:
    with workspace.database.read() as session:
        row = session.get_one(tables.Fused, number)
        try:
            key: Any = recipe_key(row)
        except (KeyError, TypeError, ValueError, AttributeError):
            key = None
        if key is not None and row.origin is not None:
            key = foreign_key(row.origin, key)
        if key != row.key:
            message = "its base, adapters and recipe do not have the key on record"
            yield Untrue("key_differs", item.name, message, "fused")
        elif (foreign := foreign_record(row)) is not None:
            notes.append(f"{item.name} is {in_words(foreign)}")
        total = sum(entry.size for entry in item.manifest)
        if row.bytes != total:
            yield Untrue(
                "facts_differ",
                item.name,
                f"{row.bytes} bytes are on record, and its files have {total}",
                "fused",
            )
