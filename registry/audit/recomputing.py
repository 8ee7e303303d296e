"""What is on record, computed again from the bytes: what a base holds, what an adapter is, which key and forms follow.

Seals and the chain of the log show what was changed after it was written.  This shows what was never true, whoever wrote
it and however the log agrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


_Problem = tuple[str, str, str]
"""Code, subject and message of something on record that the bytes do not bear out."""


def check_again(workspace: Workspace, item: AuditableItem, report: Report, ahead: Ahead) -> None:
    """Compute again what is on record of something, and note what is not so; bytes that are damaged are not looked at.

    Raises:
        PluginError: a plugin cannot be used: none is passed over.
    """
    number = next((number for kind, number in item.records if kind == item.kind), None)
    if number is None or any(problem.subject.startswith(f"{item.name}: ") for problem in report.problems):
        return
    with in_order(report, item.name):
        try:
            for problem in _problems(workspace, item, number, report.notes, ahead):
                report.add(*problem)
        except PluginError:
            raise  # of all that is looked at, and not this one's
        except FuseryError as error:
            report.notes.append(f"{item.name} could not be computed again: {error.message}")


def _problems(
    workspace: Workspace, item: AuditableItem, number: int, notes: list[str], ahead: Ahead
) -> Iterator[_Problem]:
    if item.kind == "base":
        yield from _base(workspace, item, number, notes)
    elif item.kind == "adapter":
        yield from _adapter(workspace, item, number, ahead)
    elif item.kind == "fused":
        yield from _fused(workspace, item, number, notes)


def _base(workspace: Workspace, item: AuditableItem, number: int, notes: list[str]) -> Iterator[_Problem]:
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
        yield "content_differs", item.name, message
    wrong = [name for name in differing(said, derived) if name != "content"]
    by_name = taken_by_name(architecture.config, paths, written_by_mlx=architecture.written_by_mlx)
    if not by_name and set(wrong) & LEARNED:
        notes.append(f"what {item.name} is made of depends on mlx-lm, and was not computed again")
        wrong = [name for name in wrong if name not in LEARNED]
    yield from _facts(item.name, wrong)


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


def _adapter(workspace: Workspace, item: AuditableItem, number: int, ahead: Ahead) -> Iterator[_Problem]:
    facts = ahead.of(number)
    base = facts.ground.facts.architecture
    if facts.false:
        message = "it is on record as computed from other adapters than its own recipe names"
        yield "sources_differ", item.name, message
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
        yield from _facts(item.name, differing(facts.said, adapter_columns(folder, item.digest)))
        yield from _forms(item.name, files, base, facts.forms, scratch)


def _unfit(name: str, found: list[Finding]) -> _Problem:
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    message = f"it would not get in: {found[0].code}: {found[0].message}{more}"
    return "adapter_unfit", name, message


def _forms(
    name: str, files: Mapping[str, Path], base: Architecture, forms: Mapping[str, str], scratch: Path
) -> Iterator[_Problem]:
    made = {form: manifest.digest for form, manifest in other_forms(files, base, forms, scratch)}
    for form, digest in sorted(forms.items()):
        if made.get(form) != digest:  # type: ignore[call-overload]
            message = f"its form {form} does not have the digest on record, {digest[:12]}"
            yield "form_differs", name, message


def _facts(name: str, wrong: list[str]) -> Iterator[_Problem]:
    if wrong:
        yield "facts_differ", name, f"its bytes do not say what is on record: {', '.join(wrong)}"


def _fused(workspace: Workspace, item: AuditableItem, number: int, notes: list[str]) -> Iterator[_Problem]:
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
            yield "key_differs", item.name, message
        elif (foreign := foreign_record(row)) is not None:
            notes.append(f"{item.name} is {in_words(foreign)}")
        total = sum(entry.size for entry in item.manifest)
        if row.bytes != total:
            message = f"{row.bytes} bytes are on record, and its files have {total}"
            yield "facts_differ", item.name, message
