"""The name proposed for an adapter, from flags, metadata and the folder's name."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from ..adapters.files import CHECKPOINT
from ..adapters.folder import AdapterFolder
from ..admission.submission import Submission
from ..errors import BadInputError
from ..names import AdapterName, parse_date, parse_task
from ..parsing import require_past


def proposed_name(
    path: Path, folder: AdapterFolder, submission: Submission, day: dt.date | None = None
) -> AdapterName:
    """Compose a name from flags, then metadata, then the folder's name, then today's date; version 0 means the next.

    Args:
        path: the folder that was given; where it is a checkpoint's, the run's folder has the name.
        folder: the adapter's files.
        submission: what the user declared.
        day: of the training run, if it was recorded; replaces today.

    Raises:
        BadInputError: nothing names the task, or the date is in the future.
    """
    metadata = folder.metadata
    task, written = submission.task, _written(metadata.adapter_name)
    if task is None:
        task = written.task if written else metadata.adapter_name
    if written is None:
        # The folder's name is the last resort.
        called = path.resolve()
        written = _written(called.parent.name if CHECKPOINT.fullmatch(called.name) else called.name)
        task = task or (written.task if written else None)
    if written and task and written.task != parse_task(task):
        # A name tells the version and the date of its own task only.
        written = None
    if not task:
        raise BadInputError(
            "it is not known what the adapter is for", hint="give --task, for example --task course_rec"
        )
    source = "--date" if submission.date else "date of training"
    if submission.date:
        date = parse_date(submission.date)
    elif folder.metadata.training_date:
        date = _date_or_none(folder.metadata.training_date) or (written.date if written else day or _today())
    else:
        date = written.date if written else day or _today()
    require_past(source, date)
    version = submission.version or folder.metadata.version or (written.version if written else None) or 0
    if submission.version is not None and submission.version < 1:
        raise BadInputError("versions count from 1", hint="leave out --version to get the next one")
    return AdapterName(parse_task(task), version, date)


def _written(name: str | None) -> AdapterName | None:
    """Return the adapter's name that a text is, with or without `adapters_` before it."""
    try:
        return AdapterName.parse((name or "").casefold().removeprefix("adapters_"))
    except BadInputError:
        return None


def _date_or_none(text: str) -> dt.date | None:
    try:
        return parse_date(text[:10])
    except BadInputError:
        return None


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()
