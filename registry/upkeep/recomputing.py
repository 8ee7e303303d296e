"""Recompute recorded facts from the bytes: contents of base models, facts and formats of adapters, cache keys.

Seals and the chain of the log show what was changed after it was written.  This shows what was never true, whoever wrote
it and however the log agrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import joinedload, selectinload

from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError
from fusery.storage.plugins import PluginError

from .. import tables
from ..adapters.finding import Finding
from ..adapters.folder import AdapterFolder, read_adapter_folder
from ..adapters.render import other_forms
from ..admission.rules import SeverityPolicy, examine, unreadable
from ..admission.submission import Submission
from ..engine.architectures import taken_by_name
from ..fusion.records import in_words
from ..fusion.views import foreign_key, foreign_record, recipe_key
from ..models.identity import identify_base
from ..records.amendments import state_of, undone
from ..records.derived import LEARNED, adapter_columns, base_columns, describe_base, differing
from ..records.references import load_adapters
from ..records.renderings import fetch_originals
from ..records.withdrawals import false_sources
from ..registration.context import RegistrationContext, context_on
from .checks import AuditableItem
from .report import Report, in_order

if TYPE_CHECKING:
    from ..workspace.workspace import Workspace

_COLUMNS = ("method", "rank", "scale", "layers", "target_modules", "trainable_parameters", "training")
_BATCH = 50


@dataclass(frozen=True, slots=True)
class _AdapterFacts:
    """The record of an adapter; `known` are the codes of its findings, `stated` the columns computed from its bytes."""

    row: tables.AdapterRow
    context: RegistrationContext
    forms: Mapping[str, str]
    known: frozenset[str]
    submission: Submission
    stated: Mapping[str, Any]
    false_sources: bool


class Ahead:
    """Reads the facts of adapters in batches, from `kept` if a blob was just verified."""

    def __init__(self, workspace: Workspace, items: Sequence[AuditableItem]) -> None:
        self.kept: Mapping[Digest, Path] = {}
        self._workspace = workspace
        self._left = [item.number for item in reversed(items) if item.kind == "adapter"]
        self._facts: dict[int, _AdapterFacts] = {}

    def of(self, number: int) -> _AdapterFacts:
        """Return the facts of an adapter; call it once for each."""
        if number not in self._facts and number in self._left[-_BATCH:]:
            some = [self._left.pop() for _ in range(min(_BATCH, len(self._left)))]
            try:
                self._facts = _facts_of(self._workspace, some)
            except (FuseryError, ValueError, TypeError, LookupError, AttributeError):
                self._facts = {}  # each of them is read alone, so that only the invalid ones fail
        found = self._facts.pop(number, None)
        return found if found is not None else _facts_of(self._workspace, [number])[number]


def _facts_of(workspace: Workspace, numbers: Sequence[int]) -> dict[int, _AdapterFacts]:
    """Return the facts of adapters by their ids."""
    adapter = tables.AdapterRow
    query = load_adapters().options(
        joinedload(adapter.manifest).selectinload(tables.ManifestRow.files),
        selectinload(adapter.renderings),
        selectinload(adapter.sources),
    )
    with workspace.database.read() as session:
        rows = session.scalars(query.where(adapter.id.in_(numbers))).unique().all()
        bases = {row.base_id: row.base for row in rows}
        contexts = {number: context_on(workspace, session, base) for number, base in bases.items()}
        return {
            row.id: _AdapterFacts(
                row,
                contexts[row.base_id],
                {form.form: form.digest for form in row.renderings},
                frozenset(finding.code for finding in row.findings),
                _submission(row),
                {column: getattr(row, column) for column in _COLUMNS},
                false_sources(row),
            )
            for row in rows
        }


def _submission(row: tables.AdapterRow) -> Submission:
    """Return what was declared about an adapter when it was registered, without later amendments."""
    declared = undone(state_of(row), row.amendments)
    return Submission(
        base=row.base.name,
        task=row.task.name,
        version=row.version,
        **{name: declared[name] for name in ("date", "val_loss", "dataset")},
    )


def check_again(workspace: Workspace, item: AuditableItem, report: Report, ahead: Ahead) -> None:
    """Recompute the facts of a record, and report differences, unless its bytes are damaged."""
    look = {"base": _base, "adapter": _adapter, "fused": _fused}.get(item.kind)
    if look is None or any(problem.subject.startswith(f"{item.name}: ") for problem in report.problems):
        return
    with in_order(report, item.name):
        try:
            for code, message in look(workspace, item, report.notes, ahead):
                report.add(code, item.name, message)
        except PluginError:
            raise  # it concerns all items
        except FuseryError as error:
            report.notes.append(f"cannot recompute {item.name}: {error.message}")


_Found = Iterator[tuple[str, str]]
"""Code and message of each recorded fact that contradicts the bytes."""


def _base(workspace: Workspace, item: AuditableItem, notes: list[str], _: Ahead) -> _Found:
    paths = _paths(workspace, item)
    if paths is None:
        notes.append(f"content of {item.name} not recomputed: its files are not on this machine")
        return
    architecture = describe_base(paths)
    identity = identify_base(paths, architecture.config)
    if identity.manifest.digest != item.digest:
        return  # the files were found to be others
    derived = base_columns(architecture, identity)
    with workspace.database.read() as session:
        row = session.get_one(tables.BaseModelRow, item.number)
        stated = {name: getattr(row, name) for name in derived}
    if stated["content"] not in (None, derived["content"]):
        recorded, computed = stated["content"][:12], derived["content"][:12]
        yield "content_differs", f"wrong content digest: {recorded} (computed: {computed})"
    wrong = [name for name in differing(stated, derived) if name != "content"]
    by_name = taken_by_name(architecture.config, paths, written_by_mlx=architecture.written_by_mlx)
    if not by_name and set(wrong) & LEARNED:
        notes.append(f"content of {item.name} not recomputed: it depends on mlx-lm")
        wrong = [name for name in wrong if name not in LEARNED]
    yield from _differing(wrong)


def _paths(workspace: Workspace, item: AuditableItem) -> dict[str, Path] | None:
    """Return the local paths of a base model's files; None if one is not on this machine."""
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


def _adapter(workspace: Workspace, item: AuditableItem, _: list[str], ahead: Ahead) -> _Found:
    facts = ahead.of(item.number)
    base = facts.context.facts.architecture
    if facts.false_sources:
        yield "sources_differ", "the recorded sources do not match the recipe"
    with workspace.cache.scratch() as scratch:
        files = fetch_originals(workspace, facts.row, scratch / "arrived", ahead.kept)
        try:
            folder = read_adapter_folder(scratch / "arrived", base=base)
        except FuseryError as error:
            yield from _refused([unreadable(error)])
            return
        yield from _refused(_unfit(workspace, folder, facts))
        if folder.problems:
            return  # what cannot be read says nothing
        yield from _differing(differing(facts.stated, adapter_columns(folder, item.digest)))
        made: dict[str, str] = {
            form: manifest.digest for form, manifest in other_forms(files, base, facts.forms, scratch)
        }
        for form, digest in sorted(facts.forms.items()):
            if made.get(form) != digest:
                yield "form_differs", f"wrong digest of the format {form} (recorded: {digest[:12]})"


def _unfit(workspace: Workspace, folder: AdapterFolder, facts: _AdapterFacts) -> list[Finding]:
    """Return the errors for which admission would refuse an adapter today, without recorded and allowed ones."""
    from ..registration.context import candidate_for, policy_of

    # On which base it is was decided when it was registered; and it is its own neighbour.
    declared = (folder.config.model, folder.metadata.base_model)
    submission = replace(facts.submission, base_known_as=tuple(name for name in declared if name))
    candidate = candidate_for(workspace, folder, submission, context=facts.context)
    candidate, ours, usual = replace(candidate, neighbours=lambda: ()), policy_of(workspace), SeverityPolicy()
    found = examine(candidate, usual)
    here = found if ours == usual else examine(candidate, ours)
    refused = {one.code for one in here if one.severity == "error"} - facts.known
    return [one for one in found if one.severity == "error" and one.code in refused]


def _refused(found: Sequence[Finding]) -> _Found:
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield "adapter_unfit", f"admission would refuse it: {found[0].code}: {found[0].message}{more}"


def _differing(wrong: Sequence[str]) -> _Found:
    if wrong:
        yield "facts_differ", f"recorded facts contradict the bytes: {', '.join(wrong)}"


def _fused(workspace: Workspace, item: AuditableItem, notes: list[str], _: Ahead) -> _Found:
    with workspace.database.read() as session:
        row = session.get_one(tables.FusedRow, item.number)
        try:
            key: Any = recipe_key(row)
        except (KeyError, TypeError, ValueError, AttributeError):
            key = None
        if key is not None and row.origin is not None:
            key = foreign_key(row.origin, key)
        if key != row.key:
            yield "key_differs", "the recorded key does not match the base model, adapters and recipe"
        elif (foreign := foreign_record(row)) is not None:
            notes.append(f"{item.name} is {in_words(foreign)}")
        total = sum(entry.size for entry in item.manifest)
        if row.bytes != total:
            yield "facts_differ", f"wrong size: {row.bytes} bytes (its files: {total})"
