"""What admission looks at: an adapter's folder, the user's submission, and what is known about its base."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError

from ..adapters.folder import AdapterFolder
from ..admission import BaseFacts, Candidate, Finding, Neighbour, Policy, Trained, look_around
from ..admission.submission import Submission
from ..records.bases import Generations, blob_generations, recorded_architecture
from .ground import Ground, ground_of
from .trained_on import known_as

if TYPE_CHECKING:
    from ..adapters.whole import WholeTensors
    from ..adapters.whole_fit import FittedWhole
    from ..workspace import Workspace
    from .unrecorded import Unrecorded


def candidate_for(
    workspace: Workspace,
    folder: AdapterFolder,
    submission: Submission,
    *,
    ground: Ground | None = None,
    weights: str | None = None,
    training: Iterable[Finding] = (),
    beside: Sequence[Unrecorded] = (),
    task: str | None = None,
) -> Candidate:
    """Return the candidate for the rules; expensive values are computed when a rule needs them.

    Args:
        workspace: the registry's parts.
        folder: the adapter's files.
        submission: what the user said.
        ground: what it is to stand on, if that was looked up already.
        weights: digest of the adapter's weights, if it is known already.
        training: findings about its training run.
        beside: adapters that count as registered, since they are recorded with it.
        task: what it will be for, where the user has not said it.

    Raises:
        UnknownReferenceError: there is no such base or parent.
        BadInputError: the declared training base does not fit its base.
    """
    if ground is None:
        with workspace.database.read() as session:
            ground = ground_of(session, folder, submission)
    base, other = ground.base, ground.trained_on
    parent = ground.parent.digest if ground.parent else None
    files = {file.path: file.sha256 for file in base.manifest.files}
    facts = _base_facts(ground, _Files(workspace, base.location, files))
    facts = replace(facts, known_as=facts.known_as | set(submission.base_known_as))

    def registered() -> Sequence[Neighbour]:
        from .neighbours import neighbours

        return neighbours(
            workspace,
            folder,
            base=base,
            task=submission.task or task,
            parent=parent,
            digest=weights,
            beside=beside,
        )

    today = dt.datetime.now(dt.UTC).date()
    trained = Trained(other.name, other.known_as | {other.name}) if other is not None else None
    around = look_around(folder.path)
    return Candidate(folder, facts, submission, around, registered, today, tuple(training), trained, task)


def policy_of(workspace: Workspace, *, strict: bool = False) -> Policy:
    """Return this registry's policy for the severity of findings."""
    return Policy.configured(workspace.settings.severities, strict=strict)


class _Files:
    """A base's files, as far as they can be read on this machine without fetching them."""

    def __init__(self, workspace: Workspace, location: str | None, digests: Mapping[str, str]) -> None:
        self._workspace = workspace
        self._location = location
        self._digests = digests

    def __call__(self, names: Sequence[str]) -> dict[str, Path]:
        wanted = [name for name in names if name in self._digests]
        if self._location is not None:
            places = {name: Path(self._location, name) for name in wanted}
        else:
            places = {name: path for name in wanted if (path := self._local(self._digests[name])) is not None}
        return {name: path for name, path in places.items() if path.is_file()}

    @cached_property
    def _generations(self) -> Generations:
        return blob_generations(self._workspace, list(self._digests.values()))

    def _local(self, digest: str) -> Path | None:
        try:
            return self._workspace.store.local_path(Digest(digest), generation=self._generations[digest])
        except FuseryError:
            return None  # a store that is away is said where bytes are stored

    @contextmanager
    def fetched(self) -> Iterator[dict[str, Path]]:
        """Yield every file for as long as it is needed, fetched where it is not here; nothing if that fails."""
        if (found := self.all()) or self._location is not None:
            yield found
            return
        store, digests = self._workspace.store, self._digests
        with self._workspace.cache.scratch() as scratch:
            places = {name: scratch / digest for name, digest in digests.items()}
            try:
                for digest in sorted(set(digests.values())):
                    store.fetch(Digest(digest), scratch / digest, generation=self._generations[digest])
            except FuseryError:
                places = {}  # a store that is away is said where bytes are stored
            yield places

    def all(self) -> dict[str, Path]:
        """Return every file, or nothing when one of them is not here."""
        found = self(list(self._digests))
        return found if len(found) == len(self._digests) else {}


def _base_facts(ground: Ground, files: _Files) -> BaseFacts:
    base = ground.base
    names = [name.name for name in base.names]
    return BaseFacts(
        names[0],
        recorded_architecture(base),
        known_as(base),
        ground.others,
        aliases=frozenset(names[1:]),
        revisions=frozenset(row.revision for row in base.revisions),
        tokenizer=lambda name: _read(files([name]).get(name)),
        weight_sizes=_sizes(files, base.config),
        fit_whole=_fit_whole(files, base.config),
    )


def _sizes(files: _Files, config: Mapping[str, object]) -> Callable[[Sequence[str]], Mapping[str, float]]:
    def sizes(modules: Sequence[str]) -> Mapping[str, float]:
        from ..models.weight_sizes import weight_sizes

        here = files.all()
        return weight_sizes(here, config, modules) if here else {}

    return sizes


def _fit_whole(files: _Files, config: Mapping[str, object]) -> Callable[[Path, WholeTensors], FittedWhole]:
    def fitted(weights: Path, whole: WholeTensors) -> FittedWhole:
        from ..adapters.whole_fit import fit_whole

        with files.fetched() as here:
            return fit_whole(here, config, weights, whole)

    return fitted


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path is not None else None
    except OSError:
        return None
