"""Records of releases: bundles, approvals, rules, promotions, aliases, yanks and deployments."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from ..record import Record, described
from .adapter import Withdrawal

State = Literal["passed", "failed", "unknown"]


class ShippedBundle(Record):
    """A bundle that was written."""

    target: str = described("target, such as `vllm`")
    path: str = described("path or URL")
    digest: str = described("digest of its manifest")


class BundleLine(ShippedBundle):
    """A bundle in the details of an adapter or fused model."""

    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern it")


class Outcome(Record, kw_only=False):
    """The outcome of one rule."""

    rule: str = described("name of the rule; `not_yanked` applies to every adapter")
    wanted: object = described("the required value, as recorded")
    state: State = described("`passed`, `failed`, or `unknown` if it cannot be decided")
    why: str = described("the reason, in one sentence")
    hint: str | None = described("a command that helps; None without one", default=None)
    code: str | None = described("why metrics do not compare", optional=True, default=None)


_CODES: dict[State, int] = {"passed": 0, "failed": 1, "unknown": 3}


class Promotion(Record):
    """The result of a promotion."""

    alias: str = described("`task#alias`")
    adapter: str = described("name of the candidate")
    holder: str | None = described("name of the adapter that the alias held before; None without one")
    verdict: State = described("`passed`, `failed`, or `unknown` where it cannot be decided")
    moved: bool = described("whether the alias moved; False if it held the adapter already")
    confirmed: bool = described("whether the current holder passed the rules again after an amendment")
    guarded: bool = described("whether only a promotion can move the alias")
    dry_run: bool = described("whether this was a dry run")
    reason: str = described("the given reason")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern the adapter")
    rules: tuple[Outcome, ...] = described("the outcome of each")

    @property
    def exit_code(self) -> int:
        """Return 0 if all rules passed, 1 if one failed, 3 if the verdict is unknown."""
        return _CODES[self.verdict]


class Approval(Record):
    """An approval that was given or withdrawn."""

    adapter: str = described("name of the adapter")
    alias: str = described("the alias that it is for, `TASK#NAME`")
    approved: bool = described("whether the user approves now; False if the approval was withdrawn")
    changed: bool = described("whether this changed anything")
    approvals: tuple[str, ...] = described("names of all people who approve now")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern the adapter")
    by: str | None = described("who gave it; omitted with the following if withdrawn", optional=True)
    at: datetime | None = described("when it was given", optional=True, exact=True)
    note: str | None = described("the note with it; may be empty", optional=True)
    authenticated: bool | None = described("whether it was given with a token", optional=True)


class AliasRules(Record):
    """The rules of an alias."""

    alias: str = described("the alias, `TASK#NAME`; `*#NAME` for every task")
    task: str | None = described("name of the task; None for every task")
    guarded: bool = described("whether only a promotion can move the alias")
    rules: Mapping[str, object] = described("the rules by name", free=True)
    at: datetime | None = described("when they were set; None without rules", heading="since", exact=True)
    by: str | None = described("who set them")


class SetRules(AliasRules):
    """The result of setting rules, or of a dry run."""

    changed: bool = described("whether they differ from the previous rules")
    applies_to: tuple[str, ...] = described("existing aliases that they apply to")


class RemovedRules(AliasRules):
    """The result of removing rules, or of a dry run."""

    removed: bool = described("False if this was a dry run")


class Yank(Record):
    """A yank or a dry run of one, and what still depends on the adapter.

    The adapters in `same_bytes`, `same_weights`, `continued` and `computed` are not yanked by it.
    """

    name: str = described("name of the adapter")
    yanked: bool = described("whether it is yanked now; False in a dry run of a new yank")
    changed: bool = described("whether it is new")
    dry_run: bool = described("whether nothing was written", default=False)
    reason: str = described("the reason")
    at: datetime = described("when it was yanked", exact=True)
    by: str = described("who yanked it")
    aliases: tuple[str, ...] = described("aliases that hold it, as `TASK#NAME`")
    fused: tuple[str, ...] = described("keys of fused models with it")
    bundles: tuple[ShippedBundle, ...] = described("bundles with it")
    deployments: tuple[Deployment, ...] = described("deployments of it, its models and bundles")
    same_bytes: tuple[str, ...] = described("names of adapters with the same bytes")
    same_weights: tuple[str, ...] = described("names of adapters with the same weights and other files")
    continued: tuple[str, ...] = described("names of adapters that continued its training, directly or not")
    computed: tuple[str, ...] = described("names of adapters computed from it, in any number of steps")


class LiftedYank(Record):
    """A lifted yank."""

    name: str = described("name of the adapter")
    yanked: bool = described("False")
    changed: bool = described("whether it was yanked before")


class Alias(Record):
    """An alias that holds an adapter."""

    alias: str = described("its name with that of its task, `TASK#NAME`")
    task: str = described("name of its task")
    adapter: str = described("name of the adapter that it holds")
    since: datetime = described("when it was set to it", exact=True)
    by: str = described("who did that")
    reason: str = described("why; may be empty", free=True)
    withdrawals: tuple[Withdrawal, ...] = described("yanks of it", heading="state", free=True, rare=True)


class AliasHolder(Record):
    """What an alias holds, or held at a moment."""

    alias: str = described("its name with that of its task, `TASK#NAME`")
    adapter: str | None = described("name of the adapter; None if it held none")
    digest: str | None = described("digest of the adapter")
    yanked: bool | None = described("the adapter was withdrawn then")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concerned the adapter then")
    at: datetime | None = described("the moment; None for now", exact=True)
    since: datetime | None = described("when it was moved last until then", exact=True)
    by: str | None = described("who did that")
    reason: str | None = described("why")


class AliasMove(Record):
    """One move of an alias."""

    alias: str = described("its name with that of its task, `TASK#NAME`")
    task: str = described("name of its task")
    from_: str | None = described("name of the adapter that it held before; None for none", title="from")
    to: str | None = described("name of the adapter that it held from then on; None for none")
    reason: str = described("why; may be empty", free=True)
    at: datetime = described("when", exact=True)
    by: str = described("who moved it")


class Moved(AliasMove):
    """A move that was asked for."""

    moved: bool = described("False if the alias held the adapter already, and nothing was done")
    withdrawals: tuple[Withdrawal, ...] | None = described("yanks that concern the adapter", optional=True)


class HeldVersion(Record):
    """An alias of a task, and the version that it holds."""

    alias: str = described("its name, without that of its task")
    version: int = described("version that it holds")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern that adapter")


class Task(Record):
    """A task that adapters are for."""

    task: str = described("its name")
    adapter: str = described("name of the version that `@latest` means")
    version: int = described("its number")
    val_loss: float | None = described("its validation loss")
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern it")
    created_at: datetime = described("when it was registered")
    created_by: str = described("who registered it")
    aliases: tuple[HeldVersion, ...] = described("those that hold a version")


class Deployment(Record):
    """Something that runs somewhere, or ran there."""

    place: str = described("where, in the words of its recorder")
    kind: str = described("kind of what runs: `adapter`, `fused` or `bundle`")
    name: str = described("its name", heading="runs")
    digest: str = described("its digest", cell="{:.12}")
    id: str = described("id of its node in the lineage")
    yanked: str | None = described("why the adapter that runs there is yanked itself; None if it is not")
    withdrawals: tuple[Withdrawal, ...] = described("yanks of it", heading="state", free=True, rare=True)
    note: str | None = described("for people", free=True)
    at: datetime = described("since when", heading="since")
    by: str = described("who recorded it")
    ended_at: datetime | None = described("until when; None if it runs still", heading="until")
    ended_by: str | None = described("who recorded that")
    via: str | None = described("`sync` or a server's resolver; None if a person recorded it")


class Deployed(Deployment):
    """A deployment that was recorded."""

    changed: bool = described("something else is on record than before")
    ended: tuple[Deployment, ...] = described("deployments that it replaced")


class Refused(Record):
    """A refusal to run a model somewhere; only the log keeps it."""

    place: str = described("where")
    kind: str = described("kind of what was refused: `adapter`, `fused` or `bundle`")
    name: str = described("its name")
    digest: str = described("its digest")
    reason: str = described("why")
    via: str | None = described("what refused it; None where somebody said so")
    at: datetime = described("when")
    by: str = described("who recorded it")
