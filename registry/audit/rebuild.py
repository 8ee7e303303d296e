"""`audit --rebuild`: each fused model made again by its recipe, and held against what is on record.

What another registry says it has made is made here by that, and has a record of our own from then on.  Nothing is published: the model is written into a scratch folder and goes away with it.  If an input is not what it was,
the model is made from it all the same, so that the answer can say what the change has led to.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.digest import Digest, digest_file
from fusery.storage.errors import BlobCorruptError, BlobMissingError, FuseryError, StorageError
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.plugins import PluginError

from .. import tables
from ..engine.recipe import Recipe
from ..fusion.foreign import compare_claims, recipe_key
from ..fusion.fuse_inputs import FuseInputs, InputFiles, gather
from ..fusion.published import fetch_published, is_published
from ..fusion.records import find_fused, record_fused
from ..records.bases import blob_generations
from ..records.fused_label import label_of
from ..records.references import fused_from, resolve_any
from .differences import differences
from .report import Rebuilt, Verdict

if TYPE_CHECKING:
    from ..engine.fidelity import Fidelity
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class _Record:
    """What is on record about a fused model; `made_as` is the key under which it is made here, if others claim it."""

    key: Digest
    made_as: Digest
    name: str
    adapter: str
    extras: tuple[tuple[str, float], ...]
    recipe: Recipe
    manifest: Manifest
    published: bool
    fidelity: str


def rebuild(
    workspace: Workspace, references: Sequence[str] = (), *, say: Callable[[str], None] = lambda _: None
) -> Iterator[Rebuilt]:
    """Yield the answer for each fused model on record, or for those that references name or that were made from them.

    Raises:
        UnknownReferenceError: a reference names nothing.
        PluginError: a plugin cannot be used.
    """
    with workspace.database.read() as session:
        keys = _keys(session, references)
    for key in keys:
        with workspace.database.read() as session:
            record = _record(session, key)
        say(f"making {record.name} again")
        yield _rebuilt(workspace, record)


def _keys(session: Session, references: Sequence[str]) -> list[str]:
    fused = tables.Fused
    if not references:
        return list(session.scalars(select(fused.key).order_by(fused.id)))
    found: dict[str, None] = {}
    for reference in references:
        subject = resolve_any(session, reference)
        if subject.fused is not None:
            rows = [subject.fused]
        elif subject.adapter is not None:
            rows = list(session.scalars(fused_from(subject.adapter)))
        else:
            assert subject.base is not None
            query = select(fused).where(fused.base_id == subject.base.id).order_by(fused.id)
            rows = list(session.scalars(query))
        found |= {row.key: None for row in rows}
    return list(found)


def _record(session: Session, key: str) -> _Record:
    row = find_fused(session, Digest(key))
    assert row is not None
    files = (file.entry for file in row.manifest.files)
    return _Record(
        Digest(row.key),
        recipe_key(row) if row.origin is not None else Digest(row.key),
        label_of(row),
        row.adapter.name,
        tuple((extra.adapter.name, extra.weight) for extra in row.extras),
        Recipe.from_dict(row.recipe),
        Manifest.of(files),
        is_published(row),
        row.verdict,
    )


def _rebuilt(workspace: Workspace, record: _Record) -> Rebuilt:
    started = time.monotonic()
    inputs: list[str] = []

    def answer(
        verdict: Verdict, message: str, made: Manifest | None = None, tensor: str | None = None
    ) -> Rebuilt:
        return Rebuilt(
            key=record.key,
            name=record.name,
            verdict=verdict,
            recorded=record.manifest.digest,
            digest=made.digest if made else None,
            tensor=tensor,
            files=tuple(_changed_files(record.manifest, made)) if made else (),
            inputs=tuple(inputs),
            seconds=round(time.monotonic() - started, 3),
            message=message if not inputs else f"{message}; changed: {', '.join(inputs)}",
        )

    try:
        fuse_inputs = gather(workspace, record.adapter, record.extras, yanked=True)
        engine = fuse_inputs.engine(quantize=record.recipe.quantization is not None)
        if engine != record.recipe.engine:
            inputs.append(f"engine {engine} (was {record.recipe.engine})")
        with workspace.cache.scratch() as scratch:
            folder = Path(tempfile.mkdtemp(prefix="rebuilt-", dir=scratch))
            made, fidelity, changed = _make(fuse_inputs, record, folder)
            inputs += changed
            if record.key != record.made_as and not inputs:
                _record_own(workspace, fuse_inputs, record, made, fidelity, time.monotonic() - started)
            if not inputs and fidelity.verdict != record.fidelity:
                why = f"its fidelity is {fidelity.verdict}, and {record.fidelity} is on record"
                return answer("different", why, made)
            if made.digest == record.manifest.digest:
                return answer("bit-identical", "every file has the recorded digest", made)
            with _recorded_bytes(workspace, record, scratch) as theirs:
                return answer(*_compared(folder, theirs, made))
    except PluginError:
        raise  # of all that is made again, and not this one's
    except FuseryError as error:
        return answer("not-rebuilt", error.message)


def _record_own(
    workspace: Workspace,
    fuse_inputs: FuseInputs,
    record: _Record,
    made: Manifest,
    fidelity: Fidelity,
    seconds: float,
) -> None:
    """Record what came out here beside what another registry says."""
    with workspace.database.write() as session:
        if find_fused(session, record.made_as) is None:
            record_fused(
                workspace, session, fuse_inputs, record.recipe, record.made_as, made, fidelity, seconds
            )
            compare_claims(workspace, session, record.made_as, made)


def _make(fuse_inputs: FuseInputs, record: _Record, folder: Path) -> tuple[Manifest, Fidelity, list[str]]:
    """Make the model again; from inputs as they are, if they are not what they were, and name those."""
    try:
        with fuse_inputs.opened() as inputs:
            return *_compute(inputs, record, folder), []
    except (BlobCorruptError, BlobMissingError):
        for path in folder.iterdir():
            path.unlink()
        with fuse_inputs.opened(verify=False) as inputs:
            changed = _changed_inputs(fuse_inputs, inputs)
            return *_compute(inputs, record, folder), changed


def _compute(inputs: InputFiles, record: _Record, folder: Path) -> tuple[Manifest, Fidelity]:
    made = inputs.compute(record.recipe, record.made_as, folder, check=lambda: None, progress=None)
    return made.manifest, made.fidelity


def _changed_inputs(fuse_inputs: FuseInputs, inputs: InputFiles) -> list[str]:
    name = fuse_inputs.base.name
    found = [
        f"{file.path} of the base {name}"
        for file in fuse_inputs.base.manifest.files
        if not _is(inputs.base[file.path], file.sha256)
    ]
    store = fuse_inputs.workspace.store
    for part in fuse_inputs.parts:
        generations = blob_generations(fuse_inputs.workspace, [entry.sha256 for entry in part.files])
        for entry in part.files:
            try:
                store.verify(entry.sha256, entry.size, generation=generations[entry.sha256])
            except StorageError:
                found.append(f"{entry.path} of {part.name}")
    return found


def _is(path: Path, digest: str) -> bool:
    return digest_file(path)[0] == digest


def _changed_files(recorded: Manifest, made: Manifest) -> list[str]:
    before = {entry.path: entry.sha256 for entry in recorded}
    after = {entry.path: entry.sha256 for entry in made}
    return sorted(path for path in before | after if before.get(path) != after.get(path))


@contextmanager
def _recorded_bytes(workspace: Workspace, record: _Record, scratch: Path) -> Iterator[Path | None]:
    """Yield a folder with the bytes that are on record, from the cache or the store; None if they are nowhere."""
    with workspace.cache.using(record.key) as folder:
        if folder is not None and all(_matches(folder, entry) for entry in record.manifest):
            yield folder
            return
    if not record.published:
        yield None
        return
    fetched = Path(tempfile.mkdtemp(prefix="published-", dir=scratch))
    try:
        fetch_published(workspace, record.manifest, fetched, check=lambda: None, progress=None)
    except StorageError:
        yield None
    else:
        yield fetched


def _matches(folder: Path, entry: FileEntry) -> bool:
    try:
        return digest_file(folder / entry.path) == (entry.sha256, entry.size)
    except (OSError, StorageError):
        return False


def _compared(ours: Path, theirs: Path | None, made: Manifest) -> tuple[Verdict, str, Manifest, str | None]:
    if theirs is None:
        message = "other bytes came out, and those on record are not at hand to compare tensors with"
        return "different", message, made, None
    found = list(differences(theirs, ours))
    if not found:
        return "identical-tensors", "the tensors are the same, other parts of the files are not", made, None
    worst = next((one for one in found if not one.tolerable), None)
    first = found[0] if worst is None else worst
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    message = f"{first.tensor} {first.message}{more}"
    return ("within-tolerance" if worst is None else "different"), message, made, first.tensor
