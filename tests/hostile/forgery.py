"""A registry on the other side that lies: made by honest commands, and changed afterwards by who has all rights to it.

What is forged is forged well: digests, seals and the chain of the log agree with it, as far as its owner can make them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensor_files
from sqlalchemy import select
from sqlalchemy.orm import Session
from store_shelf import open_workspace

from fusery.registry import Registry, tables
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.records.deposit import Deposit
from fusery.storage.manifest import Manifest

Bring = Callable[..., Any]
"""A pull or a push of a reference."""

Forge = Callable[[Registry, Path], None]
"""A change of a registry, made with all rights to it; the folder is for what that needs."""

KEEP = FuseRequest(precision="keep", accept_loss=True)
ADAPTER = "course_rec@1"


def opened(home: Path) -> Registry:
    return Registry(open_workspace(home, user="eve"))


@contextmanager
def forging(registry: Registry) -> Iterator[Session]:
    with registry.workspace.database.write() as session:
        yield session


def put(
    registry: Registry,
    session_of: Callable[[Session, tables.ManifestRow, Manifest], None],
    files: Mapping[str, bytes],
) -> None:
    workspace = registry.workspace
    deposit = Deposit(workspace.database, workspace.store, workspace.owner())
    manifest = deposit.put(files)
    with deposit.recording() as session:
        session_of(session, deposit.commit(session), manifest)


def files_of(registry: Registry, manifest: tables.ManifestRow) -> dict[str, bytes]:
    found = {}
    for file in manifest.files:
        path = registry.workspace.store.local_path(file.sha256)  # type: ignore[arg-type]
        assert path is not None
        found[file.path] = path.read_bytes()
    return found


def adapter(session: Session) -> tables.AdapterRow:
    return session.scalars(select(tables.AdapterRow).order_by(tables.AdapterRow.id)).first()  # type: ignore[return-value]


def with_weights(
    registry: Registry, change: Callable[[dict[str, np.ndarray[Any, Any]]], None], folder: Path
) -> None:
    with registry.workspace.database.read() as session:
        before = files_of(registry, adapter(session).manifest)
    path = folder / "changed.safetensors"
    path.write_bytes(before["adapters.safetensors"])

    def within(raw: dict[str, tensor_files.Raw]) -> None:
        values = {name: value for name, (_, value) in raw.items()}
        change(values)
        raw.clear()
        raw.update({name: ("F32", value) for name, value in values.items()})

    tensor_files.rewrite(path, within, None)
    with_files(registry, {**before, "adapters.safetensors": path.read_bytes()})


def with_files(registry: Registry, files: Mapping[str, bytes]) -> None:
    def record(session: Session, stored: tables.ManifestRow, manifest: Manifest) -> None:
        row = adapter(session)
        row.manifest_id, row.digest = stored.id, manifest.digest

    put(registry, record, files)


def forged_fused(registry: Registry, *, altering: bool = True, **columns: Any) -> str:
    made = registry.fused.fuse(ADAPTER, KEEP, publish="full")
    key = str(made["key"])
    with registry.workspace.database.read() as session:
        row = session.scalars(select(tables.FusedRow).where(tables.FusedRow.key == key)).one()
        files = files_of(registry, row.manifest)

    def record(session: Session, stored: tables.ManifestRow, manifest: Manifest) -> None:
        row = session.scalars(select(tables.FusedRow).where(tables.FusedRow.key == key)).one()
        row.manifest_id, row.digest, row.bytes = stored.id, manifest.digest, manifest.size
        for name, value in {"verdict": "PASS", "retained": 1.0, **columns}.items():
            setattr(row, name, value)

    if altering:  # the last bytes, which are numbers
        files["model.safetensors"] = files["model.safetensors"][:-64] + bytes(64)
    put(registry, record, files)
    return key


def setting(table: type[Any], **values: Any) -> Forge:
    def forge(registry: Registry, _: Path) -> None:
        with forging(registry) as session:
            row = session.scalars(select(table).order_by(table.id)).first()
            for name, value in values.items():
                setattr(row, name, value)

    return forge
