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
        rule: name of the rule; `not_yanked` applies to every adapter.
        wanted: the required value, as recorded.
        state: `passed`, `failed`, or `unknown` if it cannot be decided.
        why: the reason, in one sentence.
        hint: a command that helps; None without one.
        code: code of the finding: `metric_other_dataset`, `metric_other_split`, `metric_other_harness` or
            `metric_other_shots`, if the metric was measured under other conditions.
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
        holder: name of the adapter that the alias held before; None without one.
        verdict: `passed`, `failed`, or `unknown` where it cannot be decided.
        moved: whether the alias moved; False if it held the adapter already.
        confirmed: whether the current holder passed the rules again after an amendment.
        guarded: whether only a promotion can move the alias.
        dry_run: whether this was a dry run.
        reason: the given reason.
        withdrawals: yanks that concern the adapter.
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
        """Return 0 if all rules passed, 1 if one failed, 3 if the verdict is unknown."""
        return _CODES[self.verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval(Record):
    """An approval that was given or withdrawn.

    Attributes:
        adapter: name of the adapter.
        alias: the alias that it is for, `TASK#NAME`.
        approved: whether the user approves now; False if the approval was withdrawn.
        changed: whether this changed anything.
        approvals: names of all people who approve now.
        withdrawals: yanks that concern the adapter.
        by: who gave it; this and the following are omitted if it was withdrawn.
        at: when it was given.
        note: the note with it; may be empty.
        authenticated: whether it was given with a token; False if the name is a claim.
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
        alias: the alias, `TASK#NAME`; `*#NAME` for every task.
        task: name of the task; None for every task.
        guarded: whether only a promotion can move the alias.
        rules: the rules that are set, by their name in `fusery.registry.releases.rules.Rules`.
        at: when they were set; None if there are none.
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
    """The result of setting rules, or of a dry run.

    Attributes:
        changed: whether they differ from the previous rules.
        applies_to: existing aliases that the rules apply to, without those that have their own rules.
    """

    changed: bool
    applies_to: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedRules(AliasRules):
    """The result of removing rules, or of a dry run.

    Attributes:
        removed: False if this was a dry run.
    """

    removed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Yank(Record):
    """A yank, and what still depends on the adapter.

    The adapters in `same_bytes`, `same_weights`, `continued` and `computed` are not yanked by it.

    Attributes:
        name: name of the adapter.
        yanked: True.
        changed: whether it is new.
        reason: the reason.
        at: when it was yanked.
        by: who yanked it.
        aliases: aliases that hold it, as `TASK#NAME`.
        fused: keys of fused models with it.
        bundles: bundles with it.
        deployments: deployments of the adapter, its fused models and its bundles.
        same_bytes: names of adapters with the same bytes.
        same_weights: names of adapters with the same weights and other files.
        continued: names of adapters whose training continued from it.
        computed: names of adapters that were combined or shrunk from it, or from one with its weights.
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
    """A lifted yank.

    Attributes:
        name: name of the adapter.
        yanked: False.
        changed: whether it was yanked before.
    """

    name: str
    yanked: bool
    changed: bool
