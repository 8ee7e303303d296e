"""`audit --rebuild`: rebuild fused models by their recipes from the present inputs, and compare them with the records."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from fusery.storage.digest import Digest, digest_file
from fusery.storage.errors import BlobCorruptError, BlobMissingError, FuseryError, StorageError
from fusery.storage.manifest import Manifest
from fusery.storage.plugins import PluginError
from fusery.storage.progress import SILENT

from .. import tables
from ..engine.fidelity import FuseFidelity
from ..engine.recipe import Recipe
from ..fusion.fuse_inputs import FuseInputs, InputFiles, gather
from ..fusion.records import compare_claims, fetch_published, record_fused
from ..fusion.views import find_fused, is_published, recipe_key
from ..provenance.tensors import exact_digest, read_views
from ..records.bases import blob_generations
from ..records.fused_rows import fused_from, label_of, load_fused, verdict_of
from ..records.references import resolve_any
from ..workspace.workspace import Workspace
from .repairing import has_bytes
from .report import Rebuilt, Report, Verdict


def audit_rebuild(
    workspace: Workspace, references: tuple[str, ...] = (), *, say: Callable[[str], None] = lambda _: None
) -> Report:
    """Rebuild fused models, all or those of some references, and compare them with the records."""
    report, fused, keys = Report(), tables.FusedRow, dict[str, None]()
    with workspace.database.read() as session:
        for subject in (resolve_any(session, reference) for reference in references):
            if isinstance(subject, tables.AdapterRow):
                made: Iterable[tables.FusedRow] = fused_from(session, subject)
            elif isinstance(subject, fused):
                made = [subject]
            else:
                made = session.scalars(select(fused).where(fused.base_id == subject.id).order_by(fused.id))
            keys |= dict.fromkeys(row.key for row in made)
        if not references:
            keys |= dict.fromkeys(session.scalars(select(fused.key).order_by(fused.id)))
    for key in keys:
        with workspace.database.read() as session:
            row = session.scalars(load_fused().where(tables.FusedRow.key == key)).one()
        say(f"rebuilding {label_of(row)}")
        one = _rebuilt(workspace, row)
        report.checked["fused"] += 1
        report.rebuilt.append(one)
        if one.verdict == "different":
            report.add("rebuild_differs", one.name, one.message)
        elif one.verdict == "not-rebuilt":
            report.notes.append(f"cannot rebuild {one.name}: {one.message}")
    return report


def _rebuilt(workspace: Workspace, row: tables.FusedRow) -> Rebuilt:
    started = time.monotonic()
    inputs: list[str] = []
    recorded, recipe, key = row.manifest.value, Recipe.from_dict(row.recipe), Digest(row.key)
    made_as = recipe_key(row) if row.origin is not None else key  # a claim has another key in this registry

    def answer(
        verdict: Verdict, message: str, made: Manifest | None = None, tensor: str | None = None
    ) -> Rebuilt:
        return Rebuilt(
            key=key,
            name=label_of(row),
            verdict=verdict,
            recorded=recorded.digest,
            digest=made.digest if made else None,
            tensor=tensor,
            files=tuple(sorted({entry.path for entry in {*recorded} ^ {*made}})) if made else (),
            inputs=tuple(inputs),
            seconds=round(time.monotonic() - started, 3),
            message=message if not inputs else f"{message}; changed: {', '.join(inputs)}",
        )

    try:
        extras = [(extra.adapter.name, extra.weight) for extra in row.extras]
        fuse_inputs = gather(workspace, row.adapter.name, extras, base=row.base.name, yanked=True)
        engine = fuse_inputs.engine(quantize=recipe.quantization is not None)
        if engine != recipe.engine:
            inputs.append(f"engine {engine} (was {recipe.engine})")
        with workspace.cache.scratch() as scratch:
            folder = Path(tempfile.mkdtemp(prefix="rebuilt-", dir=scratch))
            made, fidelity, changed = _make(fuse_inputs, recipe, made_as, folder)
            inputs += changed
            if key != made_as and not inputs:
                seconds = time.monotonic() - started
                with workspace.database.write() as session:
                    if find_fused(session, made_as) is None:
                        record_fused(session, fuse_inputs, recipe, made_as, made, fidelity, seconds)
                        compare_claims(session, made_as, made)
            if not inputs and fidelity.verdict != (on_record := verdict_of(row, None)):
                why = f"its fidelity is {fidelity.verdict} (recorded: {on_record})"
                return answer("different", why, made)
            if made.digest == recorded.digest:
                return answer("bit-identical", "every file has the recorded digest", made)
            with _recorded_bytes(workspace, row, recorded, scratch) as theirs:
                if theirs is None:
                    why = "the digest differs; tensors cannot be compared, as the recorded bytes are missing"
                    return answer("different", why, made)
                new, old = _tensors(folder), _tensors(theirs)
            differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            if not differing:
                why = "the tensors are the same; other parts of the files differ"
                return answer("identical-tensors", why, made)
            more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
            return answer("different", f"{differing[0]} differs{more}", made, differing[0])
    except PluginError:
        raise  # it concerns all models
    except FuseryError as error:
        return answer("not-rebuilt", error.message)


def _make(
    fuse_inputs: FuseInputs, recipe: Recipe, key: Digest, folder: Path
) -> tuple[Manifest, FuseFidelity, list[str]]:
    """Rebuild the model from the present inputs, and return those that changed."""

    def compute(inputs: InputFiles) -> tuple[Manifest, FuseFidelity]:
        return inputs.compute(recipe, key, folder, check=lambda: None, progress=None)

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
    changed_inputs = [
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
                changed_inputs.append(f"{entry.path} of {part.name}")
    return changed_inputs


@contextmanager
def _recorded_bytes(
    workspace: Workspace, row: tables.FusedRow, recorded: Manifest, scratch: Path
) -> Iterator[Path | None]:
    """Yield a folder with the recorded bytes, from the cache or the store; None if neither has them."""
    with workspace.cache.using(Digest(row.key)) as folder:
        if folder is not None and all(
            has_bytes(folder / entry.path, entry.sha256, entry.size) for entry in recorded
        ):
            yield folder
            return
    fetched: Path | None = None
    if is_published(row):
        fetched = Path(tempfile.mkdtemp(prefix="published-", dir=scratch))
        try:
            fetch_published(workspace, recorded, fetched, check=lambda: None, reporter=SILENT)
        except StorageError:
            fetched = None
    yield fetched


def _tensors(folder: Path) -> dict[str, Digest]:
    """Return the digests of the tensors in a folder's safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    return {view.name: exact_digest(view) for path in files for view in read_views(path)}
