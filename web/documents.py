"""What pages show, as records: their JSON is what a program gets at the same address."""

from __future__ import annotations

from dataclasses import dataclass

from fusery.registry.audit import Report
from fusery.registry.catalog.journal import Event
from fusery.registry.catalog.tasks import Task
from fusery.registry.catalog.waiting import Waiting
from fusery.registry.fusion.cache import CacheContents
from fusery.registry.fusion.listing import ListedFused
from fusery.registry.record import Record, described
from fusery.registry.records.adapter import Adapter
from fusery.registry.records.alias import Alias, AliasHolder, AliasMove
from fusery.registry.records.base import Base
from fusery.registry.records.deployment import Deployment
from fusery.registry.releases.keeping import AliasRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Record):
    """The registry at a glance."""

    tasks: tuple[Task, ...] = described("by name, a page of them")
    holding: str | None = described("what their names have in them; None for all")
    next: str | None = described("name of the last one where there are more: `?after=` it has the next page")
    waiting: tuple[Waiting, ...] = described("their newest versions that wait for approval")
    events: tuple[Event, ...] = described("what happened last, the newest first")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage(Record):
    """The versions of a task."""

    task: str = described("its name")
    where: str | None = described("the expression that they fit; None for all")
    sort: str = described("the fields that they are sorted by")
    offset: int = described("how many come before the first one here")
    next: int | None = described("offset of the next page; None where there is none")
    versions: tuple[Adapter, ...] = described("a page of them")
    aliases: tuple[Alias, ...] = described("those of the task")


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasPage(Record):
    """An alias: what it holds, held, and asks of what is to hold it."""

    alias: str = described("its name with that of its task, `TASK#NAME`")
    holder: AliasHolder = described("what it holds")
    rules: AliasRules | None = described("that count for it; None where nobody has set any")
    offset: int = described("how many moves are newer than the first one here")
    next: int | None = described("offset of the next page; None where there is none")
    moves: tuple[AliasMove, ...] = described("the newest first, a page of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases(Record):
    """The base models."""

    bases: tuple[Base, ...] = described("oldest first")


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedModels(Record):
    """The fused models."""

    offset: int = described("how many come before the first one here")
    next: int | None = described("offset of the next page; None where there is none")
    models: tuple[ListedFused, ...] = described("the newest first, a page of them")
    cache: CacheContents = described("what the machine that answers has of them, and may have")


@dataclass(frozen=True, slots=True, kw_only=True)
class Places(Record):
    """What runs where."""

    at: str | None = described("the moment; None for now")
    offset: int = described("how many come before the first one here")
    next: int | None = described("offset of the next page; None where there is none")
    deployments: tuple[Deployment, ...] = described("what ran then, by place, a page of it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Record):
    """What does not run at a place any more."""

    place: str = described("where")
    ended: tuple[Deployment, ...] = described("what ran there until now")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log(Record):
    """A page of the log."""

    reference: str | None = described("that the entries are about; None for all")
    action: str | None = described("of the entries; None for all")
    since: str | None = described("the moment from which on they are; None for all")
    events: tuple[Event, ...] = described("the newest first")
    next: int | None = described(
        "number of the last one where there are more: `?before=` it has the next page"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit(Record):
    """What an audit from a page has found."""

    reference: str | None = described(
        "what was checked, with all that it came from; None for nothing of the kind"
    )
    chain: bool = described("every entry of the log was checked, too")
    report: Report | None = described("what came of it; None where nothing was asked for")
    newest: Event | None = described("the newest entry of the log, whose hash stands for all before it")
