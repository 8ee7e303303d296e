"""What admission looks at: an adapter's folder, the user's submission, and what is known about its base."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError, typed

from .. import tables
from ..adapters import CONFIG, METADATA, Finding
from ..adapters.folder import AdapterFolder
from ..adapters.tokenizer_files import is_tokenizer_file
from ..admission.candidate import BaseFacts, Candidate, Neighbour, tail
from ..admission.rules import SeverityPolicy
from ..admission.submission import Submission, TrainedOn
from ..errors import AmbiguousReferenceError, BadInputError
from ..records.bases import all_names, blob_generations, recorded_architecture
from ..records.references import resolve_adapter, resolve_base

if TYPE_CHECKING:
    from ..adapters.whole import WholeTensors
    from ..adapters.whole_fit import FittedWhole
    from ..workspace.workspace import Workspace


_SHOWN = 8  # bases that a hint names


def trained_on(
    session: Session, base: tables.BaseModelRow, declared_base: str | TrainedOn | None
) -> TrainedOn | None:
    """Return the other base that an adapter was trained on; None if none was declared, or it is the one it is registered for."""
    if declared_base is None:
        return None
    other: tables.BaseModelRow | None
    if isinstance(declared_base, str):
        other = resolve_base(session, declared_base)
    else:
        row = tables.BaseModelRow
        other = session.scalar(select(row).where(row.digest == declared_base.digest))
    if other is not None and other.id != base.id:
        _require_alike(base, other)
    if isinstance(declared_base, TrainedOn):
        return declared_base if declared_base.digest != base.digest else None
    assert other is not None
    return TrainedOn(other.name, other.digest, all_names(other)) if other.id != base.id else None


def named_by_files(session: Session, folder: AdapterFolder) -> tables.BaseModelRow:
    """Return the base that an adapter's own files name, if this registry knows exactly one such."""
    for remark in folder.remarks:
        if remark.code == "peft_method":  # no base helps
            raise BadInputError(remark.message, hint=remark.hint)
    file, name = CONFIG, folder.config.model
    if not name:
        file, name = METADATA, folder.metadata.base_model
    if not name and folder.problems:
        problem = folder.problems[0]
        hint = f"fusery check {typed(folder.path)} --base NAME  lists all that is wrong with it"
        message = f"the base of {folder.path.name or folder.path} is unknown: {problem.message}"
        raise BadInputError(message, hint=hint)
    bases = session.scalars(select(tables.BaseModelRow).options(defer(tables.BaseModelRow.weights)))
    named_bases = [(base, all_names(base)) for base in bases]
    if not name:
        message = "neither --base nor the adapter's files name its base model"
        raise BadInputError(message, hint=_among(named_bases))
    folded, end = name.casefold(), tail(name)
    matching = [base for base, names in named_bases if folded in map(str.casefold, names)]
    matching = matching or [base for base, names in named_bases if end and end in map(tail, names)]
    if len(matching) == 1:
        return matching[0]
    message = f"{file} names the base {name[:200]!r}"
    if matching:
        called = [base.name for base in matching]
        message = f"{message}, and {len(matching)} bases here are called so: {', '.join(called)}"
        raise AmbiguousReferenceError(message, hint=f"give --base {called[0]} or another of them")
    raise BadInputError(f"{message}, which is not in this registry", hint=_among(named_bases))


def _among(named_bases: Sequence[tuple[tables.BaseModelRow, frozenset[str]]]) -> str:
    if not named_bases:
        return "fusery base add FOLDER"
    names = ", ".join(base.name for base, _ in named_bases[:_SHOWN])
    return f"give --base NAME; there are: {names}{', ...' if len(named_bases) > _SHOWN else ''}"


def _require_alike(base: tables.BaseModelRow, other: tables.BaseModelRow) -> None:
    """Refuse two bases of which one cannot stand for the other."""
    own, others = recorded_architecture(base), recorded_architecture(other)
    problem = None
    if own.model_type != others.model_type:
        kinds = f"{others.model_type} in {other.name} and {own.model_type} in {base.name}"
        problem = f"the architecture is {kinds}"
    for path in sorted(own.weights.keys() | others.weights.keys()):
        ours, theirs = (model.weights[path].shape if path in model.weights else () for model in (own, others))
        # Modules outside of the layers that only one has (a vision tower, say) do not matter to an adapter that fits.
        matters = (ours and theirs) or path.startswith(f"{own.layer_stem()}.")
        if problem is None and matters and ours != theirs:
            shapes = f"{theirs or 'missing'} in {other.name} and {ours or 'missing'} in {base.name}"
            problem = f"the shape of {path} is {shapes}"
    if problem is not None:
        hint = "--trained-on is the same model at another precision; fusery base show NAME"
        raise BadInputError(f"{other.name} cannot stand for {base.name}: {problem}", hint=hint)


@dataclass(frozen=True, slots=True)
class RegistrationContext:
    """The base, parent and training base of an adapter."""

    base: tables.BaseModelRow
    facts: BaseFacts
    parent: tables.AdapterRow | None = None
    trained_on: TrainedOn | None = None


def load_context(workspace: Workspace, folder: AdapterFolder, submission: Submission) -> RegistrationContext:
    """Return what an adapter is to stand on.  What the base has can be read after the transaction, too."""
    with workspace.database.read() as session:
        if submission.base is not None:
            base = resolve_base(session, submission.base)
        elif submission.trained_on is not None:
            raise BadInputError("--trained-on needs --base", hint="give --base NAME")
        else:
            base = named_by_files(session, folder)
        parent = resolve_adapter(session, submission.parent) if submission.parent else None
        other = trained_on(session, base, submission.trained_on)
        return replace(context_on(workspace, session, base), parent=parent, trained_on=other)


def context_on(workspace: Workspace, session: Session, base: tables.BaseModelRow) -> RegistrationContext:
    """Return the context of an adapter of which only the base is declared; the base's files are read once, on demand."""
    _loaded = base.weights  # what is asked of the base itself after the transaction
    row, first = tables.BaseNameRow, dict[int, str]()
    query = select(row.base_id, row.name).where(row.base_id != base.id).order_by(row.id)
    others = {name: first.setdefault(number, name) for number, name in session.execute(query)}
    names = [name.name for name in base.names]
    files = _BaseFiles(workspace, base)
    facts = BaseFacts(
        names[0],
        recorded_architecture(base),
        all_names(base),
        others,
        aliases=frozenset(names[1:]),
        revisions=frozenset(row.revision for row in base.revisions),
        tokenizer=lru_cache(_HELD)(files.read),
        tokenizer_files=frozenset(file.path for file in base.manifest.files if is_tokenizer_file(file.path)),
        weight_sizes=files.weight_sizes,
        fit_whole=files.fit_whole,
    )
    return RegistrationContext(base, facts)


_HELD = 8  # the most tokenizer files to hold in memory


class _BaseFiles:
    """A base's files, as far as they can be read on this machine."""

    def __init__(self, workspace: Workspace, base: tables.BaseModelRow) -> None:
        self._workspace, self._location, self._config = workspace, base.location, base.config
        self._digests = {file.path: Digest(file.sha256) for file in base.manifest.files}
        self._sizes: dict[str, float | None] = {}

    @cached_property
    def _generations(self) -> Mapping[str, int]:
        return blob_generations(self._workspace, list(self._digests.values()))

    def _place(self, name: str) -> Path | None:
        digest = self._digests.get(name)
        if digest is None:
            return None
        path: Path | None = Path(self._location, name) if self._location is not None else None
        if path is None:
            # A store that is away is said where bytes are stored.
            with suppress(FuseryError):
                path = self._workspace.store.local_path(digest, generation=self._generations[digest])
        return path if path is not None and path.is_file() else None

    def _all(self) -> dict[str, Path]:
        local_paths = {name: path for name in self._digests if (path := self._place(name)) is not None}
        return local_paths if len(local_paths) == len(self._digests) else {}

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, None if they are not here."""
        path = self._place(name)
        try:
            return path.read_bytes() if path is not None else None
        except OSError:
            return None

    def weight_sizes(self, modules: Sequence[str]) -> Mapping[str, float]:
        """Return the sizes of modules' weights, of those that are known."""
        from ..engine.matrices import weight_sizes

        if wanted := [module for module in modules if module not in self._sizes]:
            here = self._all()
            module_sizes = weight_sizes(here, self._config, wanted) if here else {}
            self._sizes.update((module, module_sizes.get(module)) for module in wanted)
        return {module: size for module in modules if (size := self._sizes[module]) is not None}

    def fit_whole(self, weights: Path, whole: WholeTensors) -> FittedWhole:
        """Return how an adapter's whole tensors fit; the files are fetched for that, or none if that fails."""
        from ..adapters.whole_fit import fit_whole

        if (local_paths := self._all()) or self._location is not None:
            return fit_whole(local_paths, self._config, weights, whole)
        with self._workspace.cache.scratch() as scratch:
            with suppress(FuseryError):
                for digest, generation in self._generations.items():
                    self._workspace.store.fetch(Digest(digest), scratch / digest, generation=generation)
                local_paths = {name: scratch / digest for name, digest in self._digests.items()}
            return fit_whole(local_paths, self._config, weights, whole)


def candidate_for(
    workspace: Workspace,
    folder: AdapterFolder,
    submission: Submission,
    *,
    context: RegistrationContext | None = None,
    weights: str | None = None,
    training: Iterable[Finding] = (),
    task: str | None = None,
) -> Candidate:
    """Return the candidate for the rules; expensive values are computed when a rule needs them."""
    if context is None:
        context = load_context(workspace, folder, submission)
    base, other = context.base, context.trained_on
    parent = context.parent.digest if context.parent else None
    facts = replace(context.facts, all_names=context.facts.all_names | set(submission.base_all_names))

    def registered() -> Sequence[Neighbour]:
        from .neighbours import neighbours

        of_task = submission.task or task
        return neighbours(workspace, folder, sketch, base=base, task=of_task, parent=parent, digest=weights)

    @cache
    def sketch() -> str:
        from ..comparison.sketches import sketch_of

        return sketch_of(folder)

    today = dt.datetime.now(dt.UTC).date()
    trained = None if other is None else replace(other, all_names=other.all_names | {other.name})
    about = (registered, today, tuple(training), trained, task, sketch)
    return Candidate(folder, facts, submission, *about)


def policy_of(workspace: Workspace, *, strict: bool = False) -> SeverityPolicy:
    """Return this registry's policy for the severity of findings."""
    return SeverityPolicy.configured(workspace.settings.severities, strict=strict)
