"""The record of an adapter, as a list has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from ..adapters.finding import Finding
from ..record import Record, left_out
from .withdrawals import Withdrawal


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment(Record):
    """One change of what was said about an adapter.

    Attributes:
        field: what was changed, such as `val_loss` or `tag.KEY`.
        from_: the value before; None if there was none.
        to: the value after.
        reason: why.
        at: when it was recorded.
        since: the moment from which on it counts.
        by: who said so.
    """

    field: str
    from_: object
    to: object
    reason: str
    at: datetime
    since: datetime
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter(Record):
    """A registered adapter.

    Attributes:
        name: `{task}_v{version}_{date}`.
        task: what it is for.
        version: counted from 1 within the task.
        date: day of its training, as YYYYMMDD.
        base: name of the base model that it stands on.
        trained_on: name of the base that it was trained on, where that is another.
        trained_on_digest: of that base.
        digest: of its manifest: all files.
        method: `lora`, `dora` or `full`.
        rank: of its updates; None where its modules have several.
        alpha: scale times rank, as trainers have it.
        scale: that its updates are multiplied by.
        layers: how many transformer layers it changes.
        target_modules: names of the modules that it changes in a layer.
        trainable_parameters: numbers in its weights.
        total_parameters: numbers in its base.
        trainable_percent: the one of the other.
        val_loss: final validation loss.
        iterations: of its training.
        dataset: name of what it was trained on.
        dataset_revision: of the dataset.
        dataset_digest: of the dataset's files.
        examples: how many it was trained on.
        parent: the adapter that training went on from.
        aliases: the names that it holds, such as `prod`.
        tags: keys and values.
        note: for people.
        amendments: what was corrected, oldest first.
        yanked: it is withdrawn.
        withdrawals: what it has to do with yanks that stand.
        created_at: when it was registered.
        created_by: who registered it.
        findings: what admission found.
        metrics: the values of the metrics that were asked for, each the one recorded last; None where there is none.
    """

    name: str
    task: str
    version: int
    date: str
    base: str
    trained_on: str | None
    trained_on_digest: str | None
    digest: str
    method: str
    rank: int | None
    alpha: float | None
    scale: float | None
    layers: int
    target_modules: tuple[str, ...]
    trainable_parameters: int
    total_parameters: int
    trainable_percent: float
    val_loss: float | None
    iterations: int | None
    dataset: str | None
    dataset_revision: str | None
    dataset_digest: str | None
    examples: int | None
    parent: str | None
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    note: str | None
    amendments: tuple[Amendment, ...]
    yanked: bool
    withdrawals: tuple[Withdrawal, ...]
    created_at: datetime
    created_by: str
    findings: tuple[Finding, ...]
    metrics: Mapping[str, float | None] | None = left_out()
    REFERENCE: ClassVar[str] = "name"

    def __repr__(self) -> str:
        return f"<Adapter {self.name} on {self.base}>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Version(Adapter):
    """A version of a task.

    Attributes:
        val_loss_change: validation loss less that of the version before.
    """

    val_loss_change: float | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Registered(Adapter):
    """An adapter that was handed in.

    Attributes:
        created: it was not registered before.
    """

    created: bool
