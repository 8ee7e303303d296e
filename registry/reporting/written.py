"""The record of a report.

What it says of a task is put together for the page as plain JSON values, and is shown as these: moments are texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Self

from ..record import Record, described

Rows = tuple[Mapping[str, object], ...]
"""JSON objects, as the page shows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition(Record):
    """The newest entry of the log."""

    seq: int = described("its number")
    hash: str = described("its hash, which stands for the whole log up to it")
    at: datetime = described("when it was written")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject(Record):
    """The registry that a report is of."""

    id: str | None = described("id of its store; None where it was never made")
    since: datetime | None = described("when it was made")
    counts: Mapping[str, int] = described(
        "how many tasks, bases, adapters, fused models and bundles are on record"
    )
    log: LogPosition | None = described("the newest entry of its log; None where there is none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited(Record):
    """What an audit found that was made for a report."""

    ok: bool = described("no problem")
    whole: bool = described("all bytes were read, and not the log and the records alone")
    checked: Mapping[str, int] = described("how many things of each kind were looked at")
    problems: Rows = described("the first of them: `code`, `subject` and `message`")
    problems_total: int = described("number of all of them")
    notes: tuple[str, ...] = described("notes without a problem")
    quarantined: tuple[str, ...] = described("names of damaged blobs that were put aside in the store")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedTask(Record):
    """What is said of one task, or of one adapter of it; of much there is, the newest."""

    task: str = described("its name")
    adapter: str | None = described("the only one that it is about; None where it is about the task")
    versions_total: int = described("how many versions there are")
    versions: Rows = described(
        "as `show` has them, with `val_loss_change`, `yanked_reason` and the `amended` fields"
    )
    curves: Rows = described("training curves, of the newest versions that have one")
    curves_total: int = described("how many have one")
    holders: Rows = described("the adapter of each alias, since when and why")
    aliases: Rows = described("aliases with their moves")
    rules: Rows = described("rules for promotions")
    approvals: Rows = described("approvals of versions for aliases")
    approvals_total: int = described("number of all of them")
    decisions: Rows = described("promotions that rules decided")
    decisions_total: int = described("number of all of them")
    fused: Rows = described("fused models")
    fused_total: int = described("number of all of them")
    maps: Rows = described("how much of the update is in them, layer by module")
    bundles: Rows = described("written bundles")
    bundles_total: int = described("number of all of them")
    deployments: Rows = described("where it runs, or ran")
    deployments_total: int = described("number of all of them")
    yanks: Rows = described("withdrawals, also lifted ones")
    yanks_total: int = described("number of all of them")
    amendments: Rows = described("amendments")
    amendments_total: int = described("number of all of them")
    evaluations: Rows = described("evaluations, newest first, as `eval list` prints them")
    evaluations_total: int = described("number of all of them")
    signatures: Rows = described("and whether they hold")
    findings: Rows = described("findings of admission")
    findings_total: int = described("number of all of them")
    lineage: Mapping[str, object] = described("as `lineage` prints it")
    lineage_complete: bool = described("it starts from all of the versions that are listed")
    until: str | None = described("when the registry last changed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Written(Record):
    """A report."""

    path: str | None = described("the file; None where none was asked for")
    bytes: int | None = described("size in bytes of the file")
    scope: Literal["registry", "task", "adapter"] = described(
        "it is about the `registry`, a `task` or an `adapter`"
    )
    subject: str | None = described("name of the task or the adapter")
    at: datetime = described("when it was made")
    fusery: str = described("version of the program")
    registry: Subject = described("registry of the report")
    tasks_listed: Rows = described(
        "a line for each task: how many versions, the newest one, and who holds which alias"
    )
    tasks: tuple[ReportedTask, ...] = described("report of each task")
    audit: Audited = described("findings of an audit")
    keys_: Rows = described("trusted and revoked keys, as `trust list` prints them")
    keys_total: int = described("number of all of them")

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
