"""What fusery itself measures of an adapter, with `probe` and `bench`, as evaluations.

Measured again it is no contradiction: the newer value takes the place of the other, which is withdrawn.  Values have six
digits, so that the last bits of a sum make no new measurement.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from fusery.storage.digest import digest_json
from fusery.storage.progress import Reporter

from .. import tables
from ..behaviour.prompts import Prompt
from ..errors import DatabaseReadOnlyError
from ..limits import EVALUATIONS
from ..records.evaluations import key_of, missing_evaluations
from .harness_results import Measured
from .measured import evaluation_rows, write_evaluations
from .withdrawing import withdraw_rows

if TYPE_CHECKING:
    from ..workspace import Workspace
    from .bench_report import BenchReport
    from .probe_report import ProbeReport
    from .subjects import FormCost

PROBE, BENCH = "fusery probe", "fusery bench"
AGAIN = "measured again"
"""Why a value of the same measurement is withdrawn."""

_HELD_OUT = {"test.jsonl": "test", "valid.jsonl": "validation"}
_COSTS = {
    "tokens_per_second": True,
    "first_token_seconds": False,
    "load_seconds": False,
    "peak_bytes": False,
}
"""What is recorded of each form, and whether more of it is better."""


def record_own(
    workspace: Workspace, measured: Sequence[tuple[int, Sequence[Measured]]], reporter: Reporter
) -> None:
    """Record values of adapters, each by the number of its row; a registry that can only be read stays as it is."""
    try:
        with workspace.database.write() as session:
            for number, values in measured:
                adapter = session.get_one(tables.Adapter, number)
                if put_own(workspace, session, adapter, values)[0]:
                    reporter.say(f"on record: fusery eval list {adapter.name}")
    except DatabaseReadOnlyError:
        reporter.say("not put on record: this registry may only be read here")


def put_own(
    workspace: Workspace, session: Session, adapter: tables.Adapter, measured: Sequence[Measured]
) -> tuple[list[tables.Evaluation], list[str]]:
    """Record values of an adapter, in the caller's write transaction; return the new rows, and the metrics that were known.

    Of an adapter that has as many evaluations as it may have, nothing is recorded.
    """
    own = {key_of(each.values()): each for each in measured}
    new, known, others = missing_evaluations(adapter, [each.values() for each in own.values()])
    keys = [key_of(values) for values in new] + [key_of(row) for row in others]
    if not keys or len(adapter.evaluations) + len(keys) > EVALUATIONS:
        return [], known
    rows = evaluation_rows(workspace, session, [(own[key], None) for key in keys])
    if others:
        withdraw_rows(session, adapter, others, reason=AGAIN, at=rows[0].at, by=workspace.actor)
    write_evaluations(workspace, session, adapter, rows)
    return rows, known


def probed(
    found: ProbeReport, prompts: Sequence[Prompt], owners: tuple[int | None, int | None]
) -> list[tuple[int, list[Measured]]]:
    """Return what a probe measured of adapters, by the numbers of their rows.

    Args:
        found: the report.
        prompts: what was asked.
        owners: of each of the two models the adapter that it is: put on its base, or fused alone; None for others.
    """
    about = found.about
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", about.file or "built-in")[:100]
    setting: dict[str, Any] = {
        "dataset": f"{name}@{digest_json([asdict(each) for each in prompts])[:12]}",
        "split": _HELD_OUT.get(name, "") if about.origin == "held-out" else "",
        "harness": PROBE,
        "harness_version": version("fusery"),
        "samples": found.prompts,
    }

    def made(metric: str, value: float, better: bool) -> Measured:
        return Measured(metric=metric, value=_rounded(value), higher_is_better=better, **setting)

    values: dict[int, list[Measured]] = {}
    for side, owner, loss in zip((found.a, found.b), owners, (found.loss_a, found.loss_b), strict=True):
        if owner is not None:
            values.setdefault(owner, []).append(
                made(_metric("probe", _form(side.format), "loss"), loss, False)
            )
    first, second = owners
    if first is not None and found.a.kind == "adapter" and found.loss_base is not None:
        values[first].append(made("probe.gain", found.loss_base - found.loss_a, True))
    if first is not None and first == second and (found.a.kind, found.b.kind) == ("adapter", "fused"):
        form = _form(found.b.format)
        values[first].append(made(_metric("probe", form, "kl"), found.kl, False))
        values[first].append(made(_metric("probe", form, "top1_agreement"), found.top1_agreement, True))
    return list(values.items())


def benched(found: BenchReport) -> list[Measured]:
    """Return what a bench measured of its adapter: on its base, and fused."""
    machine = found.machine
    cores = "" if machine.cores is None else f", {machine.cores} cores"
    setting: dict[str, Any] = {
        "dataset": _plain(f"{machine.system} {machine.processor}{cores}"),
        "split": f"{found.prompt_tokens}+{found.tokens} tokens",
        "harness": BENCH,
        "harness_version": version("fusery"),
        "task_version": _plain(f"mlx {machine.mlx}, mlx-lm {machine.mlx_lm}")[:100],
        "samples": found.runs,
    }
    return [
        Measured(
            metric=_metric("bench", _form_of(row), cost),
            value=_rounded(value),
            higher_is_better=_COSTS[cost],
            **setting,
        )
        for row in found.rows
        if row.kind in ("adapter", "fused") and row.error is None
        for cost, value in _costs(row)
    ]


def _costs(row: FormCost) -> Iterator[tuple[str, float]]:
    return ((name, value) for name in _COSTS if (value := getattr(row, name)) is not None)


def _form_of(row: FormCost) -> str:
    return "adapter" if row.kind == "adapter" else _form(row.label.removeprefix("fused, "))


def _form(said: str | None) -> str:
    """Return the format of a fused model as a part of a metric's name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", said or "").strip("_")


def _metric(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _plain(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]+", "_", text)[:300]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}") + 0.0  # no -0.0
