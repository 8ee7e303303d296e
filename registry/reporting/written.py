"""The record of a report.

What it says of a task is put together for the page as plain JSON values, and is shown as these: moments are texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from ..record import Record

Rows = tuple[Mapping[str, object], ...]
"""JSON objects, as the page shows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition(Record):
    """The newest entry of the log.

    Attributes:
        seq: its number.
        hash: its hash, which stands for the whole log up to it.
        at: when it was written.
    """

    seq: int
    hash: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject(Record):
    """The registry that a report is of.

    Attributes:
        id: of its store; None where it was never made.
        since: when it was made.
        counts: how many tasks, bases, adapters, fused models and bundles are on record.
        log: the newest entry of its log; None where there is none.
    """

    id: str | None
    since: datetime | None
    counts: Mapping[str, int]
    log: LogPosition | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited(Record):
    """What an audit found that was made for a report.

    Attributes:
        ok: no problem.
        whole: all bytes were read, and not the log and the records alone.
        checked: how many things of each kind were looked at.
        problems: the first of them: `code`, `subject` and `message`.
        problems_total: how many there are.
        notes: what is worth knowing and harms nobody.
        quarantined: names of damaged blobs that were put aside in the store.
    """

    ok: bool
    whole: bool
    checked: Mapping[str, int]
    problems: Rows
    problems_total: int
    notes: tuple[str, ...]
    quarantined: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedTask(Record):
    """What is said of one task, or of one adapter of it; of much there is, the newest.

    Attributes:
        task: its name.
        adapter: the only one that it is about; None where it is about the task.
        versions_total: how many versions there are.
        versions: as `show` has them, with `val_loss_change`, `yanked_reason` and the `amended` fields.
        curves: training curves, of the newest versions that have one.
        curves_total: how many have one.
        holders: what each alias holds, since when and why.
        aliases: with their moves.
        rules: for promotions.
        approvals: of versions for aliases.
        approvals_total: how many there are.
        decisions: promotions that rules decided.
        decisions_total: how many there are.
        fused: fused models.
        fused_total: how many there are.
        maps: how much of the update is in them, layer by module.
        bundles: what was shipped.
        bundles_total: how many there are.
        deployments: where it runs, or ran.
        deployments_total: how many there are.
        yanks: withdrawals, also lifted ones.
        yanks_total: how many there are.
        amendments: what was corrected.
        amendments_total: how many there are.
        evaluations: what was measured, newest first, as `eval list` prints it.
        evaluations_total: how many there are.
        signatures: and whether they hold.
        findings: of admission.
        findings_total: how many there are.
        lineage: as `lineage` prints it.
        lineage_complete: it starts from all of the versions that are listed.
        until: when the registry last changed.
    """

    task: str
    adapter: str | None
    versions_total: int
    versions: Rows
    curves: Rows
    curves_total: int
    holders: Rows
    aliases: Rows
    rules: Rows
    approvals: Rows
    approvals_total: int
    decisions: Rows
    decisions_total: int
    fused: Rows
    fused_total: int
    maps: Rows
    bundles: Rows
    bundles_total: int
    deployments: Rows
    deployments_total: int
    yanks: Rows
    yanks_total: int
    amendments: Rows
    amendments_total: int
    evaluations: Rows
    evaluations_total: int
    signatures: Rows
    findings: Rows
    findings_total: int
    lineage: Mapping[str, object]
    lineage_complete: bool
    until: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written(Record):
    """A report.

    Attributes:
        path: the file; None where none was asked for.
        bytes: of the file.
        scope: it is about the `registry`, a `task` or an `adapter`.
        subject: name of the task or the adapter.
        at: when it was made.
        fusery: version of the program.
        registry: that it is of.
        tasks_listed: a line for each task: how many versions, the newest one, and who holds which alias.
        tasks: what is said of each.
        audit: what an audit found.
        keys_: that count, or counted, as `trust list` prints them.
        keys_total: how many there are.
    """

    path: str | None
    bytes: int | None
    scope: Literal["registry", "task", "adapter"]
    subject: str | None
    at: datetime
    fusery: str
    registry: Subject
    tasks_listed: Rows
    tasks: tuple[ReportedTask, ...]
    audit: Audited
    keys_: Rows
    keys_total: int

    @classmethod
    def of(cls, document: Mapping[str, Any], path: str | None = None, size: int | None = None) -> Self:
        """Return the record of a report.

        Args:
            document: what it says, as plain JSON values.
            path: the file.
            size: of the file, in bytes.
        """
        facts = dict(document)
        of, keys, log = facts["registry"], facts.pop("keys"), facts["registry"]["log"]
        newest = LogPosition(**{**log, "at": datetime.fromisoformat(log["at"])}) if log else None
        since = datetime.fromisoformat(of["since"]) if of["since"] else None
        return cls(
            path=path,
            bytes=size,
            **{
                **facts,
                "keys_": keys,
                "at": datetime.fromisoformat(facts["at"]),
                "registry": Subject(**{**of, "since": since, "log": newest}),
                "tasks": tuple(ReportedTask(**task) for task in facts["tasks"]),
                "audit": Audited(**facts["audit"]),
            },
        )

    @property
    def ok(self) -> bool:
        """The audit in it found no problem."""
        return self.audit.ok


@dataclass(frozen=True, slots=True)
class MadeReport(Record):
    """A report, and the page of it.

    Attributes:
        written: the report.
        page: its HTML; None where it was not asked for.
    """

    written: Written
    page: str | None
