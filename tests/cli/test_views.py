"""What people see of records that take long to make, word for word: `views.txt` has it for each of them.

Remade as transcripts are: FUSERY_REMAKE=1 .venv/bin/python -P -m pytest tests/cli/test_views.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusery.cli import adapters, audit
from fusery.cli.base import _facts, _quantization
from fusery.cli.hints import Hints
from fusery.cli.session import Session
from fusery.registry.api.evaluations import Evaluations
from fusery.registry.api.exchange import Exchange
from fusery.registry.api.fused import Bases
from fusery.registry.api.upkeep import Upkeep, Webhooks
from fusery.registry.comparison.reports import (
    BenchReport,
    FormCost,
    Held,
    Machine,
    ProbedModel,
    ProbePrompts,
    ProbeReport,
    PromptScores,
)
from fusery.registry.exchange.import_runs import ImportedRun
from fusery.registry.records.adapter_details import Commit, CurvePoint, Measured, TrainingRun
from fusery.registry.records.calibrations import CalibrationReport
from fusery.registry.records.event import WebhookDeliveries
from fusery.registry.upkeep.report import Collection, Problem, Removed, Repair, Report

from .conftest import Fusery

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
FOLDER = Path(__file__).parent


def runs() -> Iterator[Any]:
    """Yield the views of adapters with a training run."""
    curve = [CurvePoint(iteration=at, train_loss=None, val_loss=1.0, learning_rate=None) for at in (1, 2)]
    full = TrainingRun(
        checkpoint=400, chosen="best", best=Measured(iteration=400, val_loss=1.25), state="finished", source="record",
        last=Measured(iteration=600, val_loss=1.5), started_at=AT, seconds=1234.5, trained_tokens=1, arguments=None,
        git=Commit(commit="abc123", dirty=True), versions={"mlx": "0.31", "mlx-lm": "0.32"}, peak_memory=3 << 20,
        machine={"processor": "M4", "cpus": 8, "memory": 1 << 30, "platform": "macOS"}, dataset_files=None,
    )  # fmt: skip
    little = ["best", "machine", "git", "started_at", "seconds", "trained_tokens", "peak_memory", "versions"]
    bare = replace(
        full, last=Measured(iteration=None, val_loss=None), state="unknown", **dict.fromkeys(little)
    )  # type: ignore[arg-type]
    machine = {"processor": None, "cpus": None, "memory": None, "platform": "Linux"}
    last, git = Measured(iteration=600, val_loss=None), Commit(commit="abc123", dirty=False)
    for run in (full, bare, replace(full, last=last, git=git, machine=machine), None):
        yield SimpleNamespace(training_run=run, curve=curve, dataset_digest="d1g" if run is full else None)


def benches() -> Iterator[BenchReport]:
    form = FormCost(
        kind="fused", label="fused (keep)", precision="keep", fidelity=None, adapters=1, bytes=2048, error=None,
        load_seconds=0.5, first_token_seconds=0.25, tokens_per_second=12.0, peak_bytes=4096.0,
    )  # fmt: skip
    held = Held(verdict="LOST", retained=0.5)
    rows = (replace(form, label="base", error="no room"), form, replace(form, label="other", fidelity=held))
    for cores, choice in ((None, "fused (keep)"), (1, None)):
        machine = Machine(system="Darwin", processor="M4", cores=cores, mlx="0.31", mlx_lm="0.32")
        yield BenchReport(
            adapter="course_v1", base="tiny", machine=machine, prompt_tokens=64, tokens=1, runs=3, rows=rows,
            choice=choice, reasons=("it is small",), at=AT,
        )  # fmt: skip


def probes() -> Iterator[ProbeReport]:
    kl = {"first": 0.25, "worst": 0.75, "least": 0.125, "second": 0.5}
    found = ProbeReport(
        a=ProbedModel("adapter", "course_v1", "a" * 64), b=ProbedModel("base", "tiny", "b" * 64), prompts=4, tokens=1, kl=0.375,
        kl_p99=0.875, top1_agreement=0.5, loss_a=1.25, loss_b=1.5, loss_base=None, gain_kept=None, seconds=2.0,
        rows=tuple(PromptScores(prompt, 1, value, 0.75, 1.0, 1.0) for prompt, value in kl.items()),
    )  # fmt: skip
    yield found
    for about in (ProbePrompts("held-out", "test.jsonl"), ProbePrompts("file", gain=-1.0)):
        yield replace(found, about_prompts=about)


def calibrations() -> Iterator[CalibrationReport]:
    found = CalibrationReport("tiny", "d" * 64, "built-in", 1, 32, 2048, "mlx-lm 0.32", True, 1.0)
    yield found
    yield replace(found, created=False, adapter="a_v1", before=0.5)
    yield replace(found, after=0.25, before=0.5)


def imports() -> Iterator[tuple[ImportedRun, ...]]:
    new = ImportedRun(
        run="1", run_name="one", project="lessons", path="out", adapter="a_v1", created=True, metrics=(), error=None,
        hint=None,
    )  # fmt: skip
    known = replace(new, run_name="two", path="", adapter="b_v1", created=False)
    refused = replace(new, adapter=None, created=False, error="no", hint="mend it")
    yield new, known, replace(known, adapter=None), refused
    yield (new,)


def bases() -> Iterator[dict[str, Any]]:
    base = {
        "names": ["tiny"], "digest": "d", "content": "c", "architecture": "llama", "parameters": 1000, "dtype": "bfloat16",
        "quantization": None, "bytes": 1024, "files": [1], "reference": None,
        "sources": [{"source": "org/a", "revision": "main"}, {"source": "b", "revision": None}],
    }  # fmt: skip
    yield base
    quantization = {"bits": 4, "group_size": 64}
    yield {**base, "reference": "/models/tiny", "adapters": ["a_v1"], "quantization": quantization}


def audits() -> Iterator[tuple[Report, bool]]:
    names = tuple(f"adapter a_v{number}" for number in range(1, 11))
    damage: Any = SimpleNamespace(digest="d")
    many, one = (Problem("blob_missing", "b", "it is gone", names[:count], damage) for count in (10, 8))
    mended = [Repair.extending(one, source="cache", quarantined=kept) for kept in ("q", None)]
    rebuilt: Any = [SimpleNamespace(verdict="different", name="a_v1", message="other bytes")]
    yield Report(problems=[many, one], rebuilt=rebuilt, notes=["a note"]), True
    yield Report(problems=[one], repaired=mended, quarantined=["q"]), False


def deliveries() -> Iterator[tuple[WebhookDeliveries, ...]]:
    failed = WebhookDeliveries(name="ci", delivered=(7,), error="no answer", next_attempt=AT, disabled=False)
    yield failed, replace(failed, delivered=(), next_attempt=None, disabled=True)
    yield (replace(failed, delivered=(1, 2), error=None, next_attempt=None),)


def collections() -> Iterator[Collection]:
    items = [Removed("blob", "0" * 64, 1024)] * 21
    yield Collection(True, items, quarantined=1, quarantined_bytes=5, notes=["a note"])


def test_what_is_printed(
    fusery: Fusery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, printed, asked = (
        Session(Hints()),
        list[str](),
        list[dict[str, Any]](),
    )
    assert fusery("admin", "init").code == 0
    for words in (["register"], ["admin", "webhook", "deliver"]):
        assert fusery(*words, "--help").code == 0, "its options are made before the method is replaced"
    for title, records, view in (
        ("a training run", runs(), lambda view: adapters.print_training(session, view)),
        ("a base", bases(), lambda view: _facts(session, view)),
        ("an audit", audits(), lambda found: audit._tell(session, found[0], hint=found[1])),
    ):
        for record in records:  # type: ignore[attr-defined]
            view(record)
            out, err = capsys.readouterr()
            printed.append(f"## {title}\n{out}{err}")
    for resource, name, results, command in (
        (Evaluations, "probe", probes(), ("eval", "probe", "a@1")),
        (Evaluations, "bench", benches(), ("eval", "bench", "a@1")),
        (Upkeep, "gc", collections(), ("admin", "gc")),
        (Webhooks, "deliver", deliveries(), ("admin", "webhook", "deliver")),
        (Bases, "calibrate", calibrations(), ("base", "calibrate", "tiny")),
        (Exchange, "import_runs", imports(), ("register", "mlflow+x")),
    ):
        for result in results:  # type: ignore[attr-defined]
            monkeypatch.setattr(resource, name, lambda *_, result=result, **how: asked.append(how) or result)
            assert fusery(*command, "--json").json
            for more in ((), ("-q",), *([("-v",)] if name in ("probe", "calibrate") else [])):
                ran = fusery(*command, *more)
                printed.append(f"## {' '.join((*command, *more))}: {ran.code}\n{ran.out}{ran.err}")
    affine: dict[str, Any] = {"bits": 4, "group_size": 64}
    printed += [_quantization(affine | {f"m{at}": {} for at in range(own)}) for own in (1, 2)]
    text = "".join(f"{line.rstrip()}\n" for part in printed for line in part.splitlines())
    if "FUSERY_REMAKE" in os.environ:
        (FOLDER / "views.txt").write_text(text, encoding="utf-8")
    assert text == (FOLDER / "views.txt").read_text(encoding="utf-8")
    assert asked[0]["request"] is None
    monkeypatch.setattr(Evaluations, "probe", lambda *_, **how: asked.append(how) or next(probes()))
    fusery("eval", "probe", "a@1", "--as", "keep")
    assert asked[-1]["request"].precision == "keep"
