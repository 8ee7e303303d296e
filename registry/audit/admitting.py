"""Admission once more, of adapters that are on record: what its rules find today."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import tables
from ..adapters.finding import Finding
from ..adapters.folder import AdapterFolder
from ..admission.candidate import Candidate
from ..admission.examine import examine
from ..admission.policy import Policy
from ..admission.submission import Submission
from ..records.amendments import state_of, undone
from ..registration.ground import Ground

if TYPE_CHECKING:
    from ..workspace import Workspace


def submission_of(row: tables.Adapter) -> Submission:
    """Return what was declared about an adapter when it was registered, without later amendments."""
    said = undone(state_of(row), row.amendments)
    return Submission(
        base=row.base.name,
        task=row.task.name,
        version=row.version,
        date=said["date"],
        val_loss=said["val_loss"],
        dataset=said["dataset"],
    )


def unfit(
    workspace: Workspace,
    folder: AdapterFolder,
    submission: Submission,
    known: Collection[str],
    ground: Ground,
) -> list[Finding]:
    """Return the errors for which an adapter would not get in, and which nobody lets pass here.

    Args:
        workspace: the registry's parts.
        folder: the adapter's files.
        submission: what is on record of it.
        known: codes of the findings that are on record.
        ground: what it stands on.
    """
    from ..registration.evidence import policy_of

    candidate, ours, usual = _candidate(workspace, folder, submission, ground), policy_of(workspace), Policy()
    found = examine(candidate, usual)
    here = found if ours == usual else examine(candidate, ours)
    kept_out = {one.code for one in here if one.severity == "error"}
    return [one for one in found if one.severity == "error" and one.code in kept_out.difference(known)]


def _candidate(
    workspace: Workspace, folder: AdapterFolder, submission: Submission, ground: Ground | None = None
) -> Candidate:
    from ..registration.evidence import candidate_for

    # On which base it is was decided when it was registered; and it is its own neighbour.
    declared = (folder.config.model, folder.metadata.base_model)
    said = replace(submission, base_known_as=tuple(name for name in declared if name))
    return replace(candidate_for(workspace, folder, said, ground=ground), neighbours=lambda: ())
