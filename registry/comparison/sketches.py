"""Sketches of updates: 256 small whole numbers an adapter, by which similar ones are found among many."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import select

from .. import tables
from ..adapters import WEIGHTS
from ..engine.arithmetic import Array
from ..errors import FusionUnsupportedError
from .modules import OpenAdapter, finite_updates, open_adapter

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..adapters.folder import AdapterFolder

_WIDTH = 16
SIZE = _WIDTH * _WIDTH  # bytes of a sketch
_TOP = 127
_HEX = re.compile(f"(?=.*[1-9a-f])[0-9a-f]{{{2 * SIZE}}}")


def sketch(adapter: OpenAdapter) -> bytes:
    """Return int8 (256,), the same on every machine up to rounding; empty for an update of zero.

    Each module's update is multiplied by random signs on both sides, so that the cosine of two sketches estimates that of
    the updates, with a standard deviation of (1 - cosine^2) / 16 (Johnson and Lindenstrauss; Achlioptas 2003).
    """
    total = np.zeros((_WIDTH, _WIDTH))
    for module in sorted(adapter.factors):
        parts, *sizes = adapter.shape(module)
        for part in range(parts):
            rows, columns = (
                _signs(f"{side} {part} {module}", size) for side, size in zip("io", sizes, strict=True)
            )
            with finite_updates([adapter], module):
                update = adapter.read(module, part)
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite has no sketch
                total += update.scale * (rows @ update.a) @ (update.b @ columns.T)
    top = np.abs(total).max()
    if not (np.isfinite(top) and top):
        return b""
    return bytes(np.rint(total * (_TOP / top)).astype(np.int8))


def sketch_of(folder: AdapterFolder) -> str:
    """Return the sketch of an adapter's folder in hex; empty for a full fine-tune and an update of zero."""
    file, scale, method = folder.files.get(WEIGHTS), folder.scale, folder.config.method
    if file is None or folder.header is None or not folder.modules or scale is None or method == "full":
        return ""
    with suppress(FusionUnsupportedError), open_adapter(file, scale, method=method) as adapter:
        return sketch(adapter).hex()
    return ""


def is_sketch(text: str) -> bool:
    """Tell whether a text is a sketch in hex."""
    return _HEX.fullmatch(text) is not None


def nearest(session: Session, own: str, most: int, *, base: int | None = None) -> dict[int, float]:
    """Return the numbers of the adapters, of all or of one base, with the most similar updates, and their estimated cosines."""
    if not own:
        return {}
    row = tables.AdapterSketchRow
    query = select(row.adapter_id, row.numbers)
    if base is not None:
        query = query.join(tables.AdapterRow, tables.AdapterRow.id == row.adapter_id)
        query = query.where(tables.AdapterRow.base_id == base)
    rows = session.execute(query.order_by(row.adapter_id)).all()
    try:
        vectors = _vectors([own, *(numbers for _, numbers in rows)])
    except ValueError:  # somebody edited one, which `audit` names
        rows = [one for one in rows if is_sketch(one.numbers)]
        vectors = _vectors([own, *(one.numbers for one in rows)])
    cosines = vectors[1:] @ vectors[:1].ravel()
    order = np.argsort(-cosines, kind="stable")[:most].tolist()
    return {rows[at].adapter_id: float(cosines[at]) for at in order}


def _vectors(sketches: Sequence[str]) -> Array:
    """Return float32 (sketches, 256) of length 1."""
    vectors = np.frombuffer(bytes.fromhex("".join(sketches)), np.int8).reshape(-1, SIZE).astype(np.float32)
    vectors /= np.maximum(np.sqrt(np.einsum("ij,ij->i", vectors, vectors)), 1)[:, None]
    return vectors


def _signs(label: str, size: int) -> Array:
    """Return float32 (16, size) of 1 and -1 that depend on the label alone."""
    data = hashlib.shake_256(label.encode()).digest(-(-_WIDTH * size // 8))
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=_WIDTH * size)
    return (bits.astype(np.float32) * 2 - 1).reshape(_WIDTH, size)
