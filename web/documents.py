"""What pages show, as records: their JSON is what a program gets at the same address."""

from __future__ import annotations

from dataclasses import dataclass

from fusery.registry.audit import Report
from fusery.registry.catalog.journal import Event
from fusery.registry.catalog.tasks import Task
from fusery.registry.catalog.waiting import Waiting
from fusery.registry.fusion.cache import CacheContents
from fusery.registry.fusion.listing import ListedFused
from fusery.registry.record import Record
from fusery.registry.records.adapter import Adapter
from fusery.registry.records.alias import Alias, AliasHolder, AliasMove
from fusery.registry.records.base import Base
from fusery.registry.records.deployment import Deployment
from fusery.registry.releases.keeping import AliasRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Record):
    """The registry at a glance.

    Attributes:
        tasks: by name, a page of them.
        holding: what their names have in them; None for all.
        next: name of the last one where there are more: `?after=` it has the next page.
        waiting: their newest versions that wait for approval.
        events: what happened last, the newest first.
    """

    tasks: tuple[Task, ...]
    holding: str | None
    next: str | None
    waiting: tuple[Waiting, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage(Record):
    """The versions of a task.

    Attributes:
        task: its name.
        where: the expression that they fit; None for all.
        sort: the fields that they are sorted by.
        offset: how many come before the first one here.
        next: offset of the next page; None where there is none.
        versions: a page of them.
        aliases: those of the task.
    """

    task: str
    where: str | None
    sort: str
    offset: int
    next: int | None
    versions: tuple[Adapter, ...]
    aliases: tuple[Alias, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasPage(Record):
    """An alias: what it holds, held, and asks of what is to hold it.

    Attributes:
        alias: its name with that of its task, `TASK#NAME`.
        holder: what it holds.
        rules: that count for it; None where nobody has set any.
        offset: how many moves are newer than the first one here.
        next: offset of the next page; None where there is none.
        moves: the newest first, a page of them.
    """

    alias: str
    holder: AliasHolder
    rules: AliasRules | None
    offset: int
    next: int | None
    moves: tuple[AliasMove, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases(Record):
    """The base models.

    Attributes:
        bases: oldest first.
    """

    bases: tuple[Base, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedModels(Record):
    """The fused models.

    Attributes:
        offset: how many come before the first one here.
        next: offset of the next page; None where there is none.
        models: the newest first, a page of them.
        cache: what the machine that answers has of them, and may have.
    """

    offset: int
    next: int | None
    models: tuple[ListedFused, ...]
    cache: CacheContents


@dataclass(frozen=True, slots=True, kw_only=True)
class Places(Record):
    """What runs where.

    Attributes:
        at: the moment; None for now.
        offset: how many come before the first one here.
        next: offset of the next page; None where there is none.
        deployments: what ran then, by place, a page of it.
    """

    at: str | None
    offset: int
    next: int | None
    deployments: tuple[Deployment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Record):
    """What does not run at a place any more.

    Attributes:
        place: where.
        ended: what ran there until now.
    """

    place: str
    ended: tuple[Deployment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Log(Record):
    """A page of the log.

    Attributes:
        reference: that the entries are about; None for all.
        action: of the entries; None for all.
        since: the moment from which on they are; None for all.
        events: the newest first.
        next: number of the last one where there are more: `?before=` it has the next page.
    """

    reference: str | None
    action: str | None
    since: str | None
    events: tuple[Event, ...]
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit(Record):
    """What an audit from a page has found.

    Attributes:
        reference: what was checked, with all that it came from; None for nothing of the kind.
        chain: every entry of the log was checked, too.
        report: what came of it; None where nothing was asked for.
        newest: the newest entry of the log, whose hash stands for all before it.
    """

    reference: str | None
    chain: bool
    report: Report | None
    newest: Event | None
