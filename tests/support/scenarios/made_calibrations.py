"""Calibrations that nobody measured: of numbers that a test chooses, stored and recorded as those of `base calibrate` are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fusery.registry import Registry
from fusery.registry.engine.arithmetic import BF16, rounded
from fusery.registry.engine.calibration import Directions, Learned, Stored, write_calibration
from fusery.registry.records.calibrations import CALIBRATION, Reading, record_calibration
from fusery.registry.records.deposit import Deposit
from fusery.registry.records.references import resolve_base
from fusery.storage.digest import Digest, digest_bytes

Numbers = tuple[Learned, Mapping[str, Stored]]


def directions(width: int, *, size: float = 1.0, seed: int = 0) -> Directions:
    signs = np.random.default_rng(seed).choice([-1, 1], (4, width))
    found = rounded((signs * size).astype(np.float32), BF16)
    return Directions(found, np.ones(width, np.float32), float(np.float32(4 * size**2 + 1)))


def put_calibration(
    registry: Registry,
    base: str,
    widths: Mapping[str, int],
    *,
    size: float = 1.0,
    seed: int = 0,
    learned: Numbers | None = None,
) -> str:
    texts = digest_bytes(f"texts {seed}".encode())
    with registry.workspace.database.read() as session:
        digest = Digest(resolve_base(session, base).digest)
    inputs = {f"of-{width}": directions(width, size=size, seed=seed) for width in widths.values()}
    modules = {path: f"of-{width}" for path, width in widths.items()}
    adapter = None if learned is None else learned[0].adapter
    reading = Reading(f"texts {seed}", texts if learned is None else learned[0].prompts, 4, adapter)
    workspace = registry.workspace
    deposit = Deposit(workspace.database, workspace.store, workspace.owner())
    with TemporaryDirectory() as folder:
        file = Path(folder) / CALIBRATION
        write_calibration(file, inputs, modules, base=digest, tokens=17, prompts=texts, learned=learned)
        deposit.put({CALIBRATION: file})
    with deposit.recording() as session:
        row = resolve_base(session, base)
        manifest = deposit.commit(session)
        made, _ = record_calibration(workspace, session, manifest, row, reading, tokens=17, engine="none")
        return made.digest
