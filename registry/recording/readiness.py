"""What can be refused before hours of training: data that would not do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import BadInputError
from .trainer import data_source

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def require_data(args: Any) -> None:
    """Refuse a data folder that is not there, or has nothing to train on.

    Raises:
        BadInputError: the trainer would stop, or ask a hub for what was meant as a folder.
    """
    source = data_source(args)
    if not args.train or source is None or getattr(args, "hf_dataset", None):
        return
    folder = Path(source)
    if not folder.exists():
        if _HUB_NAME.fullmatch(source):
            return
        raise BadInputError(
            f"there is no data folder {source}", hint="--data FOLDER, with train.jsonl and valid.jsonl in it"
        )
    train = folder / "train.jsonl"
    if not train.is_file() or train.stat().st_size == 0:
        raise BadInputError(
            f"there is nothing to train on in {source}: no train.jsonl",
            hint="one JSON object a line, as mlx-lm reads it",
        )
