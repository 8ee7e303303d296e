"""An adapter's files in either form, and folders of adapters and base models in the cache, as mlx-lm and PEFT load them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.copying import copy_file
from fusery.storage.digest import Digest, digest_bytes
from fusery.storage.manifest import FileEntry, Manifest, manifest_of
from fusery.storage.transfer import Need, require_rooms

from .. import tables
from ..adapters import WHOLE
from ..adapters.render import FORM_FILES, FORMS, Form, form_of, render
from ..adapters.tokenizer_files import (
    differences,
    is_tokenizer_file,
    is_tokenizer_of_base,
    reader,
    with_tokenizer,
)
from ..adapters.trained_through import require_plain
from ..errors import BadInputError, UnknownReferenceError
from ..record import Record, described
from ..workspace.workspace import Workspace
from .adapter import Withdrawal
from .bases import blob_generations, completed_config, locate_files, proven_files, recorded_architecture
from .deposit import record_manifest
from .fused_rows import label_of
from .references import resolve_adapter, resolve_any, resolve_base
from .withdrawals import of_adapter, of_fused, refuse_yanked


def own_form(adapter: tables.AdapterRow) -> Form:
    """Return the form in which an adapter was registered."""
    return form_of(file.path for file in adapter.manifest.files)


def recorded_digest(adapter: tables.AdapterRow, form: Form) -> Digest | None:
    """Return the digest on record of an adapter's rendering."""
    return next((Digest(row.digest) for row in adapter.renderings if row.form == form), None)


def rendering_of(files: Mapping[str, Path], form: Form) -> Manifest:
    """Return the manifest of a rendering: the two files of the form, without what people wrote beside them."""
    return manifest_of({name: files[name] for name in FORM_FILES[form]})


def require_factors_alone(adapter: tables.AdapterRow, why: str) -> None:
    """Refuse an adapter that replaces tensors of its base where only its factors would count; `why` ends the sentence."""
    # Admission noted it: a copy of the base's is no such tensor, and only the base's files tell.
    if any(finding.code == WHOLE for finding in adapter.findings):
        problem = f"{adapter.name} holds whole tensors beside its factors, {why}"
        hint = f"fusery fuse {adapter.name}  makes a model with both; fusery show {adapter.name}  names them"
        raise BadInputError(problem, hint=hint)


def record_rendering(
    session: Session, adapter: tables.AdapterRow, form: Form, manifest: Manifest, at: datetime
) -> None:
    """Record a rendering if it is not on record."""
    if recorded_digest(adapter, form) is None:
        row = record_manifest(session, manifest)
        adapter.renderings.append(
            tables.AdapterRenderingRow(form=form, digest=manifest.digest, manifest_id=row.id, created_at=at)
        )
        session.flush()


def fetch_originals(
    workspace: Workspace,
    adapter: tables.AdapterRow,
    folder: Path,
    only: Callable[[str], bool] = lambda _: True,
) -> dict[str, Path]:
    """Fetch an adapter's files as they were registered, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [file.entry for file in adapter.manifest.files if only(file.path)]
    generations = blob_generations(workspace, [entry.sha256 for entry in entries])
    for entry in entries:
        place = folder / entry.path
        place.parent.mkdir(exist_ok=True)
        workspace.store.fetch(entry.sha256, place, generation=generations[entry.sha256], size=entry.size)
    return {entry.path: folder / entry.path for entry in entries}


def fetch_form(
    workspace: Workspace,
    adapter: tables.AdapterRow,
    form: Form,
    folder: Path,
    *,
    factors_only: bool = False,
    own_server: bool = False,
) -> dict[str, Path]:
    """Fetch an adapter's files in one form, by name, to be run or shipped; another form than its own is computed."""
    with workspace.database.read() as session:
        row = session.get_one(tables.AdapterRow, adapter.id)
        if form == "mlx" and not factors_only:
            require_factors_alone(row, "for which mlx-lm's form has no place")
            if not own_server:
                require_plain(row.name, row.training, "run by mlx-lm")
        expected, base = recorded_digest(row, form), recorded_architecture(row.base)
    originals = fetch_originals(workspace, adapter, folder / "original")
    return render(form, originals, base, folder / form, expected=expected)


CONFIG = "config.json"  # names a tokenizer's class; its end token counts if `generation_config.json` has none


def unfused_tokenizer(
    workspace: Workspace, base: tables.BaseModelRow, adapters: Sequence[tables.AdapterRow], scratch: Path
) -> dict[str, Path]:
    """Return the tokenizer files that unfused adapters need instead of their base's; empty if they use the base's."""
    if not any(is_tokenizer_file(file.path) for adapter in adapters for file in adapter.manifest.files):
        return {}
    scratch.mkdir(parents=True)
    needed = {file.path for file in base.manifest.files if is_tokenizer_of_base(file.path)}
    theirs = locate_files(workspace, base, scratch, only={*needed, CONFIG})
    tokenizers = [
        with_tokenizer(
            theirs, fetch_originals(workspace, adapter, scratch / str(number), only=is_tokenizer_file)
        )
        for number, adapter in enumerate(adapters)
    ]
    for adapter, own in zip(adapters[1:], tokenizers[1:], strict=True):
        for name, what in differences(reader(own), reader(tokenizers[0])):
            raise BadInputError(
                f"{adapters[0].name} and {adapter.name} differ in their {what} ({name}), and a server has only one",
                hint=f"start a server for each adapter, or serve a fused model: fusery serve {adapter.name} --fused",
            )
    return tokenizers[0] if differences(reader(tokenizers[0]), reader(theirs)) else {}


_HARMLESS = ("", ".md", ".png", ".jpg")
_LATELY = 3600.0  # seconds in which a folder that was handed out stays, whatever the limit


class LocalFolder(Record, kw_only=False):
    """Where the files of something are on this machine."""

    kind: Literal["adapter", "base", "fused"] = described("`adapter`, `base` or `fused`")
    name: str = described("its name; the label of a fused model")
    digest: str = described("its digest")
    format: str | None = described("format of an adapter's files, `mlx` or `peft`; None for models")
    path: Path = described("the folder, which is not to be written to")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern it")


def local_folder(workspace: Workspace, reference: str, form: str | None = None) -> LocalFolder:
    """Return a folder of this machine with the files of an adapter, a base model or a fused model."""
    with workspace.database.read() as session:
        row = resolve_any(session, reference)
        if form is not None and not isinstance(row, tables.AdapterRow):
            raise BadInputError(f"{reference} is a model, and has no format", hint="leave out --format")
        if isinstance(row, tables.FusedRow):
            # Its own files, or the same bytes under another key.
            fused = tables.FusedRow
            query = select(fused).where(fused.digest == row.digest).order_by(fused.id != row.id)
            same = session.scalars(query)
            paths = (workspace.cache.lookup(Digest(one.key), one.manifest.value) for one in same)
            if (path := next(filter(None, paths), None)) is None:
                problem = f"{label_of(row)} is not on this machine"
                hint = f"fusery fuse {row.adapter.name} --recipe {row.key}"
                raise UnknownReferenceError(problem, hint=hint)
            withdrawals = of_fused(session, [row.id]).get(row.id, ())
            return LocalFolder("fused", label_of(row), row.digest, None, path, withdrawals)
        withdrawals = of_adapter(session, row) if isinstance(row, tables.AdapterRow) else ()
        name, digest = row.name, row.digest
    if isinstance(row, tables.BaseModelRow):
        return LocalFolder("base", name, digest, None, model_folder(workspace, name), withdrawals)
    path = adapter_folder(workspace, name, format=form or "mlx")
    return LocalFolder("adapter", name, digest, form or "mlx", path, withdrawals)


def adapter_folder(workspace: Workspace, reference: str, *, format: str = "mlx") -> Path:
    """Return a folder with an adapter's files."""
    chosen: Form | None = next((form for form in FORMS if form == format), None)
    if chosen is None:
        raise BadInputError(f"there is no format {format[:40]!r}", hint=f"--format {'|'.join(FORMS)}")
    with workspace.database.read() as session:
        adapter = resolve_adapter(session, reference)
        refuse_yanked(session, adapter)
        assert adapter.manifest.files is not None
        assert adapter.renderings is not None
    with workspace.scratch() as scratch:
        files = fetch_form(workspace, adapter, chosen, scratch / "adapter")
        return _kept(workspace, files, manifest_of(files), {})


def model_folder(workspace: Workspace, name: str) -> Path:
    """Return a folder with a base model's files: its own, if it was added by reference and mlx-lm can load it there."""
    with workspace.database.read() as session:
        base = resolve_base(session, name)
        assert base.names is not None
        manifest = base.manifest.value
    with workspace.scratch() as scratch, proven_files(workspace, base, scratch) as files:
        completed = completed_config(files[CONFIG])
        if completed is None and base.location is not None:
            folder, own_paths = Path(base.location), {entry.path for entry in manifest}
            all_files = (path for path in folder.rglob("*") if not path.is_dir())
            others = (path for path in all_files if path.relative_to(folder).as_posix() not in own_paths)
            if all(path.name.startswith(".") or path.suffix.lower() in _HARMLESS for path in others):
                return folder  # nothing is beside the model's files that somebody might load as a part of it
        own = {} if completed is None else {CONFIG: completed}
        entries = (
            FileEntry(entry.path, len(own[entry.path]), digest_bytes(own[entry.path]))
            if entry.path in own
            else entry
            for entry in manifest
        )
        return _kept(workspace, files, Manifest.of(entries), own)


def _kept(workspace: Workspace, files: dict[str, Path], manifest: Manifest, own: dict[str, bytes]) -> Path:
    """Return the cache entry with these files, made if needed; `own` has the changed ones."""
    key = Digest(manifest.digest)
    if (path := workspace.cache.lookup(key, manifest)) is not None:
        return path
    require_rooms([Need(workspace.cache.root, [entry.size for entry in manifest])])
    with workspace.cache.build(key, 0) as folder:
        for entry in manifest:
            place = folder / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            if entry.path in own:
                place.write_bytes(own[entry.path])
            else:
                copy_file(files[entry.path], place, expected=entry.sha256)
        path = workspace.cache.publish(key, folder, manifest)
    # Who asks for an adapter has just asked for its base, and goes on with both.
    lately = time.time() - _LATELY
    spared = {entry.key for entry in workspace.cache.entries() if entry.last_used > lately}
    workspace.cache.evict(workspace.settings.cache_limit, {key, *spared}).execute()
    return path
