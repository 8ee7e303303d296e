"""What admission looks at: an adapter's folder, the user's submission, and what is known about its base."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..adapters.finding import Finding
from ..adapters.folder import AdapterFolder
from ..admission.candidate import Candidate, Neighbour, Trained
from ..admission.policy import Policy
from ..admission.submission import Submission
from ..admission.surroundings import look_around
from .ground import Ground, ground_of

if TYPE_CHECKING:
    from ..workspace import Workspace
    from .unrecorded import Unrecorded


def candidate_for(
    workspace: Workspace,
    folder: AdapterFolder,
    submission: Submission,
    *,
    ground: Ground | None = None,
    weights: str | None = None,
    training: Iterable[Finding] = (),
    beside: Sequence[Unrecorded] = (),
    task: str | None = None,
) -> Candidate:
    """Return the candidate for the rules; expensive values are computed when a rule needs them.

    Args:
        workspace: the registry's parts.
        folder: the adapter's files.
        submission: what the user said.
        ground: what it is to stand on, if that was looked up already.
        weights: digest of the adapter's weights, if it is known already.
        training: findings about its training run.
        beside: adapters that count as registered, since they are recorded with it.
        task: what it will be for, where the user has not said it.

    Raises:
        UnknownReferenceError: there is no such base or parent.
        BadInputError: the declared training base does not fit its base.
    """
    if ground is None:
        with workspace.database.read() as session:
            ground = ground_of(workspace, session, folder, submission)
    base, other = ground.base, ground.trained_on
    parent = ground.parent.digest if ground.parent else None
    facts = replace(ground.facts, known_as=ground.facts.known_as | set(submission.base_known_as))

    def registered() -> Sequence[Neighbour]:
        from .neighbours import neighbours

        return neighbours(
            workspace,
            folder,
            base=base,
            task=submission.task or task,
            parent=parent,
            digest=weights,
            beside=beside,
        )

    today = dt.datetime.now(dt.UTC).date()
    trained = Trained(other.name, other.known_as | {other.name}) if other is not None else None
    around = look_around(folder.path)
    return Candidate(folder, facts, submission, around, registered, today, tuple(training), trained, task)


def policy_of(workspace: Workspace, *, strict: bool = False) -> Policy:
    """Return this registry's policy for the severity of findings."""
    return Policy.configured(workspace.settings.severities, strict=strict)
