"""What people see of records that take long to make: each line that there is to print, and no other."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fixture_types import Fusery

from fusery.cli import bench, training
from fusery.cli.base import _facts, _quantization
from fusery.cli.hints import Hints
from fusery.cli.session import Session
from fusery.registry.api.adapters import Adapters
from fusery.registry.api.bases import Bases
from fusery.registry.evaluation.bench_report import BenchReport
from fusery.registry.evaluation.probe_prompts import Prompts
from fusery.registry.evaluation.probe_report import ProbeReport, Row, Side
from fusery.registry.evaluation.subjects import FormCost
from fusery.registry.records.calibrations import CalibrationReport
from fusery.registry.records.run import Commit, CurvePoint, Measured, TrainingRun

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUN = TrainingRun(
    checkpoint=400,
    chosen="best",
    best=Measured(iteration=400, val_loss=1.25),
    last=Measured(iteration=600, val_loss=1.5),
    state="finished",
    source="record",
    started_at=AT,
    seconds=1234.5,
    trained_tokens=1,
    peak_memory=3 << 20,
    git=Commit(commit="abc123", dirty=True),
    machine={"processor": "M4", "cpus": 8, "memory": 1 << 30, "platform": "macOS"},
    versions={"mlx": "0.31", "mlx-lm": "0.32"},
    arguments=None,
    dataset_files=None,
)
CURVE = tuple(
    CurvePoint(iteration=at, train_loss=None, val_loss=1.0 + at, learning_rate=None) for at in range(1, 6)
)


@pytest.fixture
def session() -> Session:
    return Session(home=None, debug=False, hints=Hints())


def rows(out: str) -> dict[str, str]:
    """Return the values of facts by label."""
    return dict(re.findall(r"^  (.+?)  +(.+)$", out, re.MULTILINE))


def test_a_training_run(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(run: TrainingRun | None, digest: str | None = None) -> dict[str, str]:
        view: Any = SimpleNamespace(training_run=run, curve=CURVE, dataset_digest=digest)
        training.print_training(session, view)
        out = capsys.readouterr().out
        assert out.startswith("training\n") == (run is not None)
        return rows(out)

    full = shown(RUN, "d1g")
    assert full.pop("curve")
    assert full == {
        "checkpoint": "400 (best); best 400 with validation loss 1.25; last 600 with 1.5",
        "run": "finished, began 2026-03-01T12:00:00+00:00, 1,234.5 s, 1 token, peak memory 3.00 MiB",
        "dataset digest": "d1g",
        "git commit": "abc123, with changes",
        "machine": "M4, 8 cores, 1.00 GiB, macOS",
        "versions": "mlx 0.31, mlx-lm 0.32",
    }
    nothing = Measured(iteration=None, val_loss=None)
    little: dict[str, Any] = dict.fromkeys(
        ("started_at", "seconds", "trained_tokens", "peak_memory", "versions")
    )
    bare = replace(RUN, best=None, last=nothing, state="unknown", machine=None, git=None, **little)
    assert {name: value for name, value in shown(bare).items() if name != "curve"} == {
        "checkpoint": "400 (best)", "run": "its end is not on record",
    }  # fmt: skip
    machine = {"processor": None, "cpus": None, "memory": None, "platform": "Linux"}
    clean = replace(
        RUN,
        last=Measured(iteration=600, val_loss=None),
        git=Commit(commit="abc123", dirty=False),
        machine=machine,
    )
    told = shown(clean)
    assert (told["git commit"], told["machine"], told["checkpoint"][-8:]) == ("abc123", "Linux", "last 600")
    assert shown(None) == {}


FORM = FormCost(
    kind="fused", label="fused (keep)", precision="keep", fidelity=None, adapters=1, bytes=2048, error=None,
    load_seconds=0.5, first_token_seconds=0.25, tokens_per_second=12.0, peak_bytes=4096.0,
)  # fmt: skip


def test_a_bench(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    held: Any = SimpleNamespace(retained=0.5)
    machine: Any = SimpleNamespace(cores=None, processor="M4", mlx="0.31")
    broken = replace(FORM, label="base", error="no room")
    found = BenchReport(
        adapter="course_rec_v1", base="tiny", machine=machine, prompt_tokens=64, tokens=1, runs=3,
        rows=(broken, FORM, replace(FORM, label="other", fidelity=held)), choice="fused (keep)",
        reasons=("it is small",), at=AT,
    )  # fmt: skip
    bench._print(session, found)
    out = capsys.readouterr().out
    lines = {line[:14].strip(): line.split()[1:] for line in out.splitlines()}
    assert lines["base"] == ["no", "room", "2.00", "KiB", *"-----"]
    numbers = ["2.00", "KiB", "0.50", "s", "250", "ms", "12", "4.00", "KiB"]
    assert lines["fused (keep)"] == ["(keep)", "<-", "ship", "this", *numbers, "-"]
    assert lines["other"] == [*numbers, "50.0", "%"]
    assert (
        "\ncourse_rec_v1 on tiny; M4, cores, mlx 0.31; 64 + 1 token, 3 rounds\nShip: fused (keep)\n  it is small\n"
        in out
    )
    assert "Drawn to" not in out
    bench._print(
        session,
        replace(
            found, choice=None, plot=Path("x.svg"), machine=SimpleNamespace(cores=1, processor="M4", mlx="1")
        ),
    )  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert "1 core, " in out and "Ship: nothing of this" in out and out.endswith("Drawn to x.svg\n")
    assert "ship this" not in out


def test_a_probe(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fusery("init").code == 0
    kl = {"first": 0.25, "worst": 0.75, "least": 0.125, "second": 0.5}
    found = ProbeReport(
        a=Side("adapter", "course_v1", "a" * 64), b=Side("base", "tiny", "b" * 64), prompts=4, tokens=1, kl=0.375,
        kl_p99=0.875, top1_agreement=0.5, loss_a=1.25, loss_b=1.5, loss_base=None, gain_kept=None, seconds=2.0,
        rows=tuple(Row(prompt, 1, value, 0.75, 1.0, 1.0) for prompt, value in kl.items()),
    )  # fmt: skip
    asked: list[Any] = []
    monkeypatch.setattr(Adapters, "probe", lambda _, *words, **how: asked.append((words, how)) or found)
    ran = fusery("probe", "course@1")
    assert (asked[-1][0], asked[-1][1]["request"], ran.err) == (("course@1",), None, "")
    lines = ran.out.splitlines()
    assert lines[0] == found.conclusion
    assert dict(re.split("  +", line, maxsplit=1) for line in lines[2:9]) == {
        "a": f"base + course_v1  {'a' * 12}", "b": f"tiny  {'b' * 12}", "prompts": "4, 1 token scored",
        "KL(a || b)": "0.375 nats a token, 99 % below 0.875", "same next token": "50.0 %",
        "loss": "a 1.25, b 1.5, base -", "seconds": "2.0",
    }  # fmt: skip
    assert (lines[1], lines[9]) == ("", "")
    assert [line.split() for line in lines[12:]] == [
        [f"{kl[prompt]}", "75.0", "%", prompt] for prompt in ("worst", "second", "first")
    ]
    for words in (("--precision", "keep"), ("--with", "course@2:0.5")):
        fusery("probe", "course@1", *words)
        assert asked[-1][1]["request"].precision == ("keep" if words[1] == "keep" else "auto")
        assert len(asked[-1][1]["request"].extras) == (words[0] == "--with")
    found = replace(found, about=Prompts("held-out", "test.jsonl"))
    assert "1 token scored; test.jsonl of its run\n" in fusery("probe", "course@1").out
    found = replace(found, about=Prompts("file", gain=-1.0))
    assert "--prompts FILE" in fusery("probe", "course@1").err
    assert fusery("probe", "course@1", "-q").out == "course_v1\ntiny\n"


def test_a_calibration(fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fusery("init").code == 0
    found = CalibrationReport(
        "tiny", "d" * 64, "built-in", 1, 32, 2048, "mlx-lm 0.32", created=True, seconds=1.0
    )
    monkeypatch.setattr(Bases, "calibrate", lambda *_, **__: found)
    facts = {
        "digest": "d" * 64, "prompts": "built-in, 1 token", "directions": "32 of each input", "size": "2.00 KiB",
        "engine": "mlx-lm 0.32",
    }  # fmt: skip
    for more, told in (
        ({}, {}),
        ({"created": False, "adapter": "a_v1", "before": 0.5}, {"for": "a_v1"}),
        ({"adapter": None, "after": 0.25}, {"off by": "0.25 nats a token, and 0.5 before"}),
    ):
        found = replace(found, **more)  # type: ignore[arg-type]
        first, *lines = fusery("base", "calibrate", "tiny").out.splitlines()
        assert first == f"{'Calibrated' if found.created else 'Already there'}: tiny"
        assert dict(re.split("  +", line) for line in lines) == facts | told
    assert fusery("base", "calibrate", "tiny", "-q").out == "d" * 64 + "\n"


def test_what_is_known_of_a_base(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    view: Any = {
        "names": ["tiny"], "digest": "d", "content": "c", "architecture": "llama", "parameters": 1000, "dtype": "bfloat16",
        "quantization": None, "bytes": 1024, "files": [1], "reference": None,
        "sources": [{"source": "org/a", "revision": "main"}, {"source": "b", "revision": None}],
    }  # fmt: skip
    _facts(session, view)
    plain = dict(re.findall("(.+?)  +(.+)", capsys.readouterr().out))
    assert plain == {
        "name": "tiny", "digest": "d", "content": "c", "architecture": "llama", "parameters": "1,000",
        "dtype": "bfloat16", "quantization": "none", "size": "1.00 KiB in 1 file", "source": "org/a@main, b",
    }  # fmt: skip
    _facts(session, {**view, "reference": "/models/tiny", "adapters": ["a_v1"]})  # type: ignore[arg-type]
    more = dict(re.findall("(.+?)  +(.+)", capsys.readouterr().out))
    assert more == {**plain, "kept by reference": "/models/tiny", "adapters": "a_v1"}
    affine: dict[str, Any] = {"bits": 4, "group_size": 64}
    assert _quantization(affine) == "affine 4 bits, group 64"
    for own in (1, 2):
        said = _quantization(affine | {f"m{number}": {"bits": 8} for number in range(own)})
        assert said.startswith(
            f"affine 4 bits, group 64, {own} module{'s' * (own - 1)} in a way of {'its' if own == 1 else 'their'} "
        )
