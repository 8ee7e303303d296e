"""The records of an adapter, its amendments and the yanks that concern it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Literal

from ..adapters import Finding
from ..record import LARGE, LONG, Declaration, Record, column, described

Relation = Literal["itself", "same-bytes", "contains", "computed-from"]
_WORDS: Mapping[Relation, str] = {
    "itself": "yanked: {reason}",
    "same-bytes": "the same bytes were yanked as {adapter}: {reason}",
    "contains": "contains the weights of {adapter}, which is yanked: {reason}",
    "computed-from": "computed from {adapter}, which is yanked: {reason}",
}


class Withdrawal(Record, kw_only=False):
    """The relation of a thing to one yank that stands."""

    adapter: str = described("name of the record that is yanked")
    relation: Relation = described(
        "the thing is that record `itself`, has the `same-bytes` under another name, `contains` its weights, or it or "
        "an adapter in it is `computed-from` them"
    )
    reason: str = described("reason of the yank", most=LONG)
    at: datetime = described("when it was yanked")
    by: str = described("who did that")
    KEYS: ClassVar[tuple[str, ...]] = ("adapter", "relation", "reason", "at", "by", "summary")

    @property
    def summary(self) -> str:
        """A sentence that names the yanked record."""
        return _WORDS[self.relation].format(adapter=self.adapter, reason=self.reason)


Withdrawals = tuple[Withdrawal, ...]


def own(withdrawals: Withdrawals) -> str | None:
    """Return why the record itself is yanked, None if it is not."""
    return next((withdrawal.reason for withdrawal in withdrawals if withdrawal.relation == "itself"), None)


METHODS = ("lora", "dora", "full")
MAX_VERSION = 999_999_999


class Amendment(Record):
    """A change of a declared value of an adapter."""

    field: str = described("the amended field, such as `val_loss` or `tag.KEY`", title="what", most=140)
    from_: object = described("the value before; None if there was none", most=LONG)
    to: object = described("the value after", most=LONG)
    reason: str = described("the reason", title="why", most=LONG)
    at: datetime = described("when it was recorded", title="when")
    since: datetime = described("the time from which the new value applies")
    by: str = described("who amended it", most=200)


class Adapter(Record):
    """A registered adapter."""

    name: str = column("`{task}_v{version}_{date}`", compared=False)
    task: str = column(
        "the task", sortable=False, declared=Declaration("Task", "TASK", "the task in its files", most=200)
    )
    version: int = column(
        "the version, counted from 1 within the task",
        declared=Declaration(
            "Version", "N", "the version in its files, or the next", least=1, most=MAX_VERSION
        ),
    )
    date: str = column(
        "date of training, as YYYYMMDD",
        kind="day",
        declared=Declaration("Date of training", "YYYYMMDD", "the date in its files, or today", most=40),
        amendable="with a reason",
    )
    base: str = column(
        "name of its base model",
        free=True,
        sortable=False,
        travels=False,
        declared=Declaration("Base model", "NAME", "the registered one that its files name"),
    )
    trained_on: str | None = column(
        "name of the base model that it was trained on, if that differs from its base model",
        free=True,
        brief=True,
        sortable=False,
        declared=Declaration("Base model of the training, if --base is its quantised form (QLoRA)", "BASE"),
    )
    trained_on_digest: str | None = described("its digest", title="trained on, digest", travels=True)
    digest: str = column("digest of its manifest, which lists all its files", cell="{:.12}", sortable=False)
    method: str = column("the method: `lora`, `dora` or `full`", choices=METHODS)
    rank: int | None = column("rank; None if its modules have different ranks", words=", rank {}")
    alpha: float | None = column(
        "LoRA alpha: scale times rank",
        words=", alpha {}",
        declared=Declaration("LoRA alpha", None, "scale x rank"),
    )
    scale: float | None = column("factor of its weight updates", words=", scale {}")
    layers: int = column("number of transformer layers that it changes")
    target_modules: tuple[str, ...] = described(
        "names of the modules that it changes in each layer",
        title="modules of a layer",
        words=", each: {}",
        compared=True,
        travels=True,
    )
    trainable_parameters: int = column("trainable parameters", heading="parameters", form="{:,}", most=LARGE)
    total_parameters: int = described("parameters of its base", form="{:,}", filterable=True, most=LARGE)
    trainable_percent: float = described("trainable ones in percent of all", title="share", form="{:.3f} %")
    val_loss: float | None = column(
        "final validation loss",
        title="validation loss",
        heading="val loss",
        form="{:.6g}",
        cell="{:.4g}",
        declared=Declaration("Validation loss of these weights", "X"),
        amendable="with a reason",
    )
    iterations: int | None = column("number of training iterations")
    dataset: str | None = column(
        "name of its dataset",
        free=True,
        sortable=False,
        declared=Declaration("Name of the training dataset", "NAME", masked=True),
        amendable="with a reason",
    )
    dataset_revision: str | None = described(
        "revision of the dataset",
        title="dataset, revision",
        words=", revision {}",
        compared=True,
        travels=True,
        declared=Declaration("Revision of the dataset", "R", most=200, masked=True, later=True),
        amendable="with a reason",
    )
    dataset_digest: str | None = described(
        "SHA-256 of the dataset's files",
        title="dataset, digest",
        travels=True,
        declared=Declaration("SHA-256 of the dataset's files", "SHA256", later=True),
        amendable="with a reason",
    )
    examples: int | None = column(
        "number of training examples",
        unit="example",
        words=", {}",
        declared=Declaration("Number of training examples", "N", most=2**31 - 1),
        amendable="with a reason",
    )
    parent: str | None = column(
        "the adapter whose training it continued",
        sortable=False,
        declared=Declaration("Adapter whose training was continued", "REF"),
    )
    aliases: tuple[str, ...] = described("aliases that point to it, such as `prod`", column=True, free=True)
    tags: Mapping[str, str] = described("its tags", column=True, free=True, compared=True)
    note: str | None = column(
        "a note for people",
        free=True,
        sortable=False,
        declared=Declaration("A note for people", "TEXT", most=10_000, masked=True),
        amendable="freely",
    )
    amendments: tuple[Amendment, ...] = described("its amendments, oldest first")
    yanked: bool = described("whether it is yanked", filterable=True)
    withdrawals: tuple[Withdrawal, ...] = described("yanks that concern it")
    created_at: datetime = described(
        "when it was registered",
        title="registered",
        heading="created",
        column=True,
        filterable=True,
        sortable=True,
    )
    created_by: str = described(
        "who registered it",
        heading="by",
        words=" by {}",
        column=True,
        filterable=True,
        sortable=True,
        most=200,
    )
    findings: tuple[Finding, ...] = described("findings of admission")
    metrics: Mapping[str, float | None] | None = described("newest values of metrics", optional=True)
    REFERENCE: ClassVar[str] = "name"

    def __repr__(self) -> str:
        return f"<Adapter {self.name} on {self.base}>"


class Version(Adapter):
    """An adapter in the history of its task."""

    val_loss_change: float | None = described("change since the last version", title="change", form="{:+.4g}")


class Registered(Adapter):
    """The result of `register`."""

    created: bool = described("whether it is new")


class Amended(Record, kw_only=False):
    """The result of `amend`."""

    name: str = described("name of the adapter")
    digest: str = described("digest of its files, which do not change")
    amendments: tuple[Amendment, ...] = described("the changes, as in `show`; empty if nothing changed")
    KEYS: ClassVar[tuple[str, ...]] = ("name", "digest", "changed", "amendments")

    @property
    def changed(self) -> bool:
        """Whether a value changed."""
        return bool(self.amendments)
