"""`audit --rebuild`: rebuild fused models by their recipes, and compare them with the records.

A model that another registry claims gets a local record.  Nothing is published.  If an input changed, the model is built from
it all the same, to show the effect of the change.
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
from fusery.storage.manifest import Manifest
from fusery.storage.plugins import PluginError

from .. import tables
from ..engine.recipe import Recipe
from ..fusion.fuse_inputs import FuseInputs, InputFiles, gather
from ..fusion.records import compare_claims, fetch_published, record_fused
from ..fusion.views import find_fused, is_published, recipe_key
from ..provenance.views import exact_digest, read_views
from ..records.bases import blob_generations
from ..records.fused_rows import fused_from, label_of
from ..records.references import resolve_any
from .repairing import has_bytes
from .report import Rebuilt, Verdict

if TYPE_CHECKING:
    from ..engine.fidelity import FuseFidelity
    from ..workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class _Record:
    """The record of a fused model; `made_as` is the local cache key of a claim."""

    key: Digest
    made_as: Digest
    name: str
    adapter: str
    base: str
    extras: tuple[tuple[str, float], ...]
    recipe: Recipe
    manifest: Manifest
    published: bool
    fidelity: str


def rebuild(
    workspace: Workspace, references: Sequence[str] = (), *, say: Callable[[str], None] = lambda _: None
) -> Iterator[Rebuilt]:
    """Yield the result for each fused model, or for those of some references."""
    with workspace.database.read() as session:
        keys = _keys(session, references)
    for key in keys:
        with workspace.database.read() as session:
            record = _record(session, key)
        say(f"rebuilding {record.name}")
        yield _rebuilt(workspace, record)


def _keys(session: Session, references: Sequence[str]) -> list[str]:
    fused = tables.FusedRow
    if not references:
        return list(session.scalars(select(fused.key).order_by(fused.id)))
    found: dict[str, None] = {}
    for reference in references:
        subject = resolve_any(session, reference)
        if isinstance(subject, tables.FusedRow):
            rows = [subject]
        elif isinstance(subject, tables.AdapterRow):
            rows = list(session.scalars(fused_from(subject)))
        else:
            query = select(fused).where(fused.base_id == subject.id).order_by(fused.id)
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
        row.base.name,
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
        fuse_inputs = gather(workspace, record.adapter, record.extras, base=record.base, yanked=True)
        engine = fuse_inputs.engine(quantize=record.recipe.quantization is not None)
        if engine != record.recipe.engine:
            inputs.append(f"engine {engine} (was {record.recipe.engine})")
        with workspace.cache.scratch() as scratch:
            folder = Path(tempfile.mkdtemp(prefix="rebuilt-", dir=scratch))
            made, fidelity, changed = _make(fuse_inputs, record, folder)
            inputs += changed
            if record.key != record.made_as and not inputs:
                seconds = time.monotonic() - started
                with workspace.database.write() as session:
                    if find_fused(session, record.made_as) is None:
                        record_fused(
                            session,
                            fuse_inputs,
                            record.recipe,
                            record.made_as,
                            made,
                            fidelity,
                            seconds,
                        )
                        compare_claims(workspace, session, record.made_as, made)
            if not inputs and fidelity.verdict != record.fidelity:
                why = f"its fidelity is {fidelity.verdict} (recorded: {record.fidelity})"
                return answer("different", why, made)
            if made.digest == record.manifest.digest:
                return answer("bit-identical", "every file has the recorded digest", made)
            with _recorded_bytes(workspace, record, scratch) as theirs:
                return answer(*_compared(folder, theirs, made))
    except PluginError:
        raise  # it concerns all models
    except FuseryError as error:
        return answer("not-rebuilt", error.message)


def _make(fuse_inputs: FuseInputs, record: _Record, folder: Path) -> tuple[Manifest, FuseFidelity, list[str]]:
    """Rebuild the model from the present inputs, and return those that changed."""

    def compute(inputs: InputFiles) -> tuple[Manifest, FuseFidelity]:
        return inputs.compute(record.recipe, record.made_as, folder, check=lambda: None, progress=None)

    try:
        with fuse_inputs.opened() as inputs:
            return *compute(inputs), []
    except (BlobCorruptError, BlobMissingError):
        for path in folder.iterdir():
            path.unlink()
        with fuse_inputs.opened(verify=False) as inputs:
            changed = _changed_inputs(fuse_inputs, inputs)
            return *compute(inputs), changed


def _changed_inputs(fuse_inputs: FuseInputs, inputs: InputFiles) -> list[str]:
    name = fuse_inputs.base.name
    found = [
        f"{file.path} of the base {name}"
        for file in fuse_inputs.base.manifest.files
        if digest_file(inputs.base[file.path])[0] != file.sha256
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


def _changed_files(recorded: Manifest, made: Manifest) -> list[str]:
    before = {entry.path: entry.sha256 for entry in recorded}
    after = {entry.path: entry.sha256 for entry in made}
    return sorted(path for path in before | after if before.get(path) != after.get(path))


@contextmanager
def _recorded_bytes(workspace: Workspace, record: _Record, scratch: Path) -> Iterator[Path | None]:
    """Yield a folder with the recorded bytes, from the cache or the store; None if neither has them."""
    with workspace.cache.using(record.key) as folder:
        if folder is not None and all(
            has_bytes(folder / entry.path, entry.sha256, entry.size) for entry in record.manifest
        ):
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


def _compared(ours: Path, theirs: Path | None, made: Manifest) -> tuple[Verdict, str, Manifest, str | None]:
    if theirs is None:
        message = "the digest differs; tensors cannot be compared, as the recorded bytes are missing"
        return "different", message, made, None
    new, old = _tensors(ours), _tensors(theirs)
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if not differing:
        return "identical-tensors", "the tensors are the same; other parts of the files differ", made, None
    more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
    return "different", f"{differing[0]} differs{more}", made, differing[0]


def _tensors(folder: Path) -> dict[str, Digest]:
    """Return the digests of the tensors in a folder's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    return {view.name: exact_digest(view) for path in files for view in read_views(path)}
