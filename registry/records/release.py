"""Approvals, rules, promotions and yanks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from ..record import EXACT, Record, left_out
from .adapter_details import ShippedBundle
from .deployment import Deployment
from .withdrawal import Withdrawal

State = Literal["passed", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Outcome(Record):
    """The outcome of one rule.

    Attributes:
        rule: its name; `not_yanked` applies to every adapter.
        wanted: what it demands, as recorded.
        state: `passed`, `failed`, or `unknown` if it cannot be decided.
        why: the reason, in one sentence.
        hint: the command that helps; None if there is none.
        code: of what was found: `metric_other_dataset`, `metric_other_split`, `metric_other_harness` or `metric_other_shots`
            of a metric that was measured, but on or with something else.
    """

    rule: str
    wanted: object
    state: State
    why: str
    hint: str | None = None
    code: str | None = left_out()


_CODES: dict[State, int] = {"passed": 0, "failed": 1, "unknown": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion(Record):
    """The result of a promotion.

    Attributes:
        alias: `task#alias`.
        adapter: name of the candidate.
        holder: name of the adapter that the alias held before, None for none.
        verdict: `passed`, `failed`, or `unknown` where it cannot be decided.
        moved: the alias moved; False if it held the adapter already.
        confirmed: it held the adapter already, which was evaluated again after an amendment, against the previous holder.
        guarded: only a promotion moves the alias.
        dry_run: nothing was changed.
        reason: as given.
        withdrawals: what the adapter has to do with yanks that stand.
        rules: the outcome of each.
    """

    alias: str
    adapter: str
    holder: str | None
    verdict: State
    moved: bool
    confirmed: bool
    guarded: bool
    dry_run: bool
    reason: str
    withdrawals: tuple[Withdrawal, ...]
    rules: tuple[Outcome, ...]

    @property
    def exit_code(self) -> int:
        """0 when all rules passed, 1 when one failed, 3 when it cannot be decided."""
        return _CODES[self.verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval(Record):
    """An approval that was given or taken back.

    Attributes:
        adapter: name of the adapter.
        alias: that may hold it, `TASK#NAME`.
        approved: whoever asked approves now; False where the approval was taken back.
        changed: it was otherwise before.
        approvals: everybody who approves now.
        withdrawals: what the adapter has to do with yanks that stand.
        by: who gave it; left out, as what follows, where it was taken back.
        at: when it was given.
        note: what was said with it; may be empty.
        authenticated: a server knew by a token who gave it; False where a client said its own name.
    """

    adapter: str
    alias: str
    approved: bool
    changed: bool
    approvals: tuple[str, ...]
    withdrawals: tuple[Withdrawal, ...]
    by: str | None = left_out()
    at: datetime | None = left_out(EXACT)
    note: str | None = left_out()
    authenticated: bool | None = left_out()


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRules(Record):
    """The rules of an alias.

    Attributes:
        alias: that they are for, `TASK#NAME`; `*#NAME` for every task.
        task: name of the task; None for every task.
        guarded: only a promotion may move the alias.
        rules: by name, as `fusery.registry.releases.rules.Rules` has them; those that are not set are left out.
        at: when they were set; None if they are not.
        by: who set them.
    """

    alias: str
    task: str | None
    guarded: bool
    rules: Mapping[str, object]
    at: datetime | None = field(metadata=EXACT)
    by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRules(AliasRules):
    """Rules that were set, or would be.

    Attributes:
        changed: they are others than before.
        applies_to: aliases that exist and that they are for; not those with rules of their own.
    """

    changed: bool
    applies_to: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedRules(AliasRules):
    """Rules that were removed, or would be.

    Attributes:
        removed: False if this was a dry run.
    """

    removed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Yank(Record):
    """A yank that stands, and what depends on its adapter still.

    Attributes:
        name: of the adapter.
        yanked: True.
        changed: it was not yanked before.
        reason: why.
        at: since when.
        by: who yanked it.
        aliases: that hold it, as `TASK#NAME`.
        fused: keys of models with it.
        bundles: with it.
        deployments: of all of these.
        same_bytes: names of adapters with the same bytes, which are not yanked by this.
        same_weights: names of adapters with the same weights beside other files, which are not yanked by this.
        continued: names of adapters that were trained on from it, which are not either.
        computed: names of adapters that were combined or cut to a smaller rank from it or from one with its weights, which
            are not either.
    """

    name: str
    yanked: bool
    changed: bool
    reason: str
    at: datetime = field(metadata=EXACT)
    by: str
    aliases: tuple[str, ...]
    fused: tuple[str, ...]
    bundles: tuple[ShippedBundle, ...]
    deployments: tuple[Deployment, ...]
    same_bytes: tuple[str, ...]
    same_weights: tuple[str, ...]
    continued: tuple[str, ...]
    computed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiftedYank(Record):
    """A yank that was lifted.

    Attributes:
        name: of the adapter.
        yanked: False.
        changed: it was yanked before.
    """

    name: str
    yanked: bool
    changed: bool
