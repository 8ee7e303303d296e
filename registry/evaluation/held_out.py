"""The data that an adapter's run learned from or kept out of training, where they still lie on this machine with the bytes that were recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from fusery.storage.digest import digest_file
from fusery.storage.errors import StorageError

from .. import tables

_NAMES = ("test.jsonl", "valid.jsonl")
"""What is never looked at in training comes before what its checkpoints are chosen by."""
LEARNED_FROM = ("train.jsonl",)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A file of data that a run recorded.

    Attributes:
        name: `test.jsonl` or `valid.jsonl`, or of what it learned from.
        path: where it lies; None if it is not here any more, or holds other bytes.
        folder: where the run had it, as it was given then.
    """

    name: str
    path: Path | None
    folder: str


def held_out(session: Session, adapter_id: int, names: Sequence[str] = _NAMES) -> HeldOut | None:
    """Return the held-out data of an adapter's run, or other data of it by name; None where none are on record.

    A folder that was given relative to where the training ran is looked for below the working folder.  Wherever a file is
    found, it counts only with the digest that the run recorded.
    """
    run = session.get(tables.TrainingRun, adapter_id)
    if run is None:
        return None
    recorded = {name: file for file in run.dataset_files or () for name in names if file.get("path") == name}
    wanted = [recorded[name] for name in names if name in recorded and recorded[name].get("examples")]
    folders = list(_folders(session, run))
    for file in wanted:
        for folder in folders:
            path = Path(folder).expanduser() / file["path"]
            if _is(path, file):
                return HeldOut(file["path"], path, folder)
    return HeldOut(wanted[0]["path"], None, folders[0]) if wanted and folders else None


def _folders(session: Session, run: tables.TrainingRun) -> Iterator[str]:
    said = (run.arguments or {}).get("data")
    if isinstance(said, str) and said:
        yield said
    adapter = session.get_one(tables.Adapter, run.adapter_id)
    if adapter.dataset is not None:
        yield adapter.dataset.name


def _is(path: Path, file: dict[str, Any]) -> bool:
    """Tell whether a file is the recorded one."""
    try:
        return (
            path.is_file() and path.stat().st_size == file["size"] and digest_file(path)[0] == file["sha256"]
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        StorageError,
    ):  # no name that a file could have, or not readable
        return False
