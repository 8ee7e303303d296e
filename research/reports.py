"""Reports of probes, from what was measured, and the evaluations that probes and benchmarks record."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from fusery.registry.comparison.harness_results import MetricValue
from fusery.registry.comparison.reports import (
    GAIN,
    BenchReport,
    ProbedModel,
    ProbePrompts,
    ProbeReport,
    PromptScores,
)
from fusery.storage.digest import digest_json

from .models import Floats, ModelScores, TokenScores
from .prompts import Prompt, Sample

_LABEL = 80


def report(
    a: ProbedModel,
    b: ProbedModel,
    samples: Sequence[Sample],
    measured: ModelScores,
    seconds: float,
    *,
    about: ProbePrompts | None = None,
    one_base: bool = True,
) -> ProbeReport:
    """Sum up what was measured."""
    whole = TokenScores.joined(measured.scores)
    loss_a, loss_b = float(whole.loss_a.mean()), float(whole.loss_b.mean())
    loss_base = float(np.concatenate(measured.base_losses).mean()) if measured.base_losses else None
    kinds = (a.kind, b.kind)
    if b.kind == "base" != a.kind and one_base:
        loss_base = loss_b
    gain = loss_base - loss_a if loss_base is not None and kinds == ("adapter", "fused") else 0.0
    return ProbeReport(
        a=a,
        b=b,
        prompts=len(samples),
        tokens=len(whole.kl),
        kl=float(whole.kl.mean()),
        kl_p99=float(np.percentile(whole.kl, 99)),
        top1_agreement=float(whole.same.mean()),
        loss_a=loss_a,
        loss_b=loss_b,
        loss_base=loss_base,
        gain_kept=(loss_base - loss_b) / gain if loss_base is not None and gain >= GAIN else None,
        seconds=round(seconds, 3),
        about_prompts=about_prompts(about or ProbePrompts(), kinds, measured, one_base=one_base),
        rows=tuple(_row(sample, scores) for sample, scores in zip(samples, measured.scores, strict=True)),
    )


def _row(sample: Sample, scores: TokenScores) -> PromptScores:
    return PromptScores(
        prompt=" ".join(sample.label[: 4 * _LABEL].split())[:_LABEL],
        tokens=len(scores.kl),
        kl=float(scores.kl.mean()),
        top1_agreement=float(scores.same.mean()),
        loss_a=float(scores.loss_a.mean()),
        loss_b=float(scores.loss_b.mean()),
    )


def probed(
    probe_report: ProbeReport,
    prompts: Sequence[Prompt],
    owners: tuple[int | None, int | None],
    *,
    one_base: bool = True,
) -> list[tuple[int, list[MetricValue]]]:
    """Return what a probe measured of adapters, by the numbers of their rows."""
    about = probe_report.about_prompts
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", about.file or "built-in")[:100]
    split = {"test.jsonl": "test", "valid.jsonl": "validation"}.get(name, "")
    setting: Mapping[str, Any] = {
        "dataset": f"{name}@{digest_json([asdict(prompt) for prompt in prompts])[:12]}",
        "split": split if about.origin == "held-out" else "",
        "harness": "fusery probe",
        "harness_version": version("fusery"),
        "samples": probe_report.prompts,
    }

    values: dict[int, list[MetricValue]] = {}

    def add(owner: int | None, metric: str, value: float, better: bool) -> None:
        if owner is not None:
            made = MetricValue(metric=metric, value=_rounded(value), higher_is_better=better, **setting)
            values.setdefault(owner, []).append(made)

    a, b, (first, second) = probe_report.a, probe_report.b, owners
    add(first, _metric("probe", _form(a.format), "loss"), probe_report.loss_a, False)
    add(second, _metric("probe", _form(b.format), "loss"), probe_report.loss_b, False)
    if a.kind == "adapter" and probe_report.loss_base is not None:
        add(first, "probe.gain", probe_report.loss_base - probe_report.loss_a, True)
        if second != first and b.kind == "adapter" and one_base:
            add(second, "probe.gain", probe_report.loss_base - probe_report.loss_b, True)
    if first == second and (a.kind, b.kind) == ("adapter", "fused"):
        add(first, _metric("probe", _form(b.format), "kl"), probe_report.kl, False)
        add(first, _metric("probe", _form(b.format), "top1_agreement"), probe_report.top1_agreement, True)
    return list(values.items())


def _form(format_label: str | None) -> str:
    """Return the format of a fused model as a part of a metric's name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", format_label or "").strip("_")


def _metric(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}") + 0.0  # no -0.0


def about_prompts(
    probe_prompts: ProbePrompts, kinds: tuple[str, str], measured: ModelScores, *, one_base: bool
) -> ProbePrompts:
    """Return what the prompts are to the adapter: whether it makes them more likely than its base does."""
    adapted, base = _losses(kinds, measured, one_base=one_base)
    if not base:
        return probe_prompts
    falls = np.array([float((b - a).mean()) for a, b in zip(adapted, base, strict=True)])
    # Prompt by prompt, since tokens of one prompt go together.
    error = float(falls.std(ddof=1)) / len(falls) ** 0.5 if len(falls) > 2 else 0.0
    loss, loss_base = float(np.concatenate(adapted).mean()), float(np.concatenate(base).mean())
    return replace(probe_prompts, gain=loss_base - loss, clear=float(falls.mean()) >= 2 * error, loss=loss)


def _losses(
    kinds: tuple[str, str], measured: ModelScores, *, one_base: bool
) -> tuple[list[Floats], list[Floats]]:
    """Return the losses of the adapter and of its own base, prompt by prompt; nothing where the base was not measured."""
    a, b = ([getattr(score, side) for score in measured.scores] for side in ("loss_a", "loss_b"))
    if measured.base_losses:
        return a, list(measured.base_losses)
    if not one_base or kinds[0] == kinds[1]:
        return [], []
    if kinds[1] == "base":
        return a, b
    return (b, a) if kinds[0] == "base" else ([], [])


# The recorded figures of each form, and whether more is better
COSTS = {"tokens_per_second": True, "first_token_seconds": False, "load_seconds": False, "peak_bytes": False}


def benched(bench_report: BenchReport) -> list[MetricValue]:
    """Return what a bench measured of its adapter: on its base, and fused."""
    machine = bench_report.machine
    cores = "" if machine.cores is None else f", {machine.cores} cores"
    setting: Mapping[str, Any] = {
        "dataset": _plain(f"{machine.system} {machine.processor}{cores}"),
        "split": f"{bench_report.prompt_tokens}+{bench_report.tokens} tokens",
        "harness": "fusery bench",
        "harness_version": version("fusery"),
        "task_version": _plain(f"mlx {machine.mlx}, mlx-lm {machine.mlx_lm}")[:100],
        "samples": bench_report.runs,
    }
    return [
        MetricValue(
            metric=_metric(
                "bench",
                "adapter" if row.kind == "adapter" else _form(row.label.removeprefix("fused, ")),
                cost,
            ),
            value=_rounded(value),
            higher_is_better=COSTS[cost],
            **setting,
        )
        for row in bench_report.rows
        if row.kind in ("adapter", "fused") and row.error is None
        for cost in COSTS
        if (value := getattr(row, cost)) is not None
    ]


def _plain(text: str) -> str:
    return re.sub(r"[^\x20-\x7e]+", "_", text)[:300]
