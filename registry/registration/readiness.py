"""What can be refused before hours of training: a base, a task, a parent or data that would not do afterwards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from .. import tables
from ..adapters.folder import AdapterFolder
from ..adapters.mlx_config import AdapterConfig, AdapterMetadata
from ..admission.submission import Submission
from ..errors import AlreadyExistsError, BadInputError
from ..names import parse_task
from .proposal import proposed_name

if TYPE_CHECKING:
    from ..workspace import Workspace

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def data_source(args: Any) -> str | None:
    """Return the data folder, or the hub's name of the dataset, of the trainer's arguments."""
    collection = getattr(args, "hf_dataset", None)
    if collection:
        first = collection if isinstance(collection, dict) else collection[0]
        return str(first.get("path"))
    return str(args.data) if args.data else None


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


def require_registrable(
    workspace: Workspace,
    submission: Submission,
    folder: Path,
    *,
    model: str,
    iterations: int,
    same: bool = False,
) -> None:
    """Refuse what `register` would refuse afterwards for what is known now.

    Args:
        workspace: the registry's parts.
        submission: what the user said.
        folder: that the run is going to leave.
        model: that is trained.
        iterations: of the training.
        same: it is trained on the very base that it is registered for.

    Raises:
        UnknownReferenceError: there is no such base or parent.
        BadInputError: nothing says what the task is, or the model is not the base.
        AlreadyExistsError: the version is taken.
    """
    try:
        config = AdapterConfig.model_validate({"model": model, "iters": iterations})
        to_come = AdapterFolder(folder, {}, config, {}, AdapterMetadata(), None, {}, ())
        name = proposed_name(folder, to_come, submission)
        _require_base(workspace, submission, to_come, same=same)
    except (
        ValueError,
        OSError,
    ) as error:  # pydantic's ValidationError is a ValueError, an overlong path an OSError
        raise BadInputError(
            "invalid folder, model or number of iterations", hint="check --adapter-path, --model and --iters"
        ) from error
    if name.version:
        with workspace.database.read() as session:
            taken = session.scalar(
                select(tables.Adapter)
                .join(tables.Task)
                .where(tables.Task.name == parse_task(name.task), tables.Adapter.version == name.version)
            )
            if taken is not None:
                raise AlreadyExistsError(
                    f"version {name.version} of {name.task} is taken: {taken.name}",
                    hint="leave out --version to get the next one, and train into a folder of another name",
                )


def _require_base(workspace: Workspace, submission: Submission, folder: AdapterFolder, *, same: bool) -> None:
    from ..admission.base_rules import declared_base
    from .evidence import candidate_for, policy_of

    candidate = candidate_for(workspace, folder, submission)
    for finding in policy_of(workspace).apply(declared_base(candidate)):
        if finding.severity == "error":
            raise BadInputError(
                f"--model {folder.config.model} is not the base {candidate.base.name}",
                hint=f"leave out --model: {candidate.base.name} is trained" if same else finding.hint or None,
            )
