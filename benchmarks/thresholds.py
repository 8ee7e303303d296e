"""From measured rows to thresholds: how well figures of the weights predict what the model does.

Behaviour is judged by the adapter's own task, on questions it was not trained on: PASS where at least 95 % of what the
adapter gained is kept, or the loss is within 0.02 nats of base + adapter; LOST where less than half is kept; DEGRADED
between.  Where base + adapter itself gains less than 0.1 nats the task cannot tell, and the row does not count.

The same is asked of another measure, to see whether the thresholds hang on the loss: how much of the way from the base
to base + adapter the model's predictions have gone, 1 - KL(base + adapter || fused) / KL(base + adapter || base).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fusery.registry.engine.verdict import CLEAR_FROM, DEGRADED_FROM, QUIET_TO, WHOLE_FROM, closeness
from fusery.research.second_opinion import KEPT as KEPT_PASS
from fusery.research.second_opinion import LEAST_GAIN, NEAR

Row = dict[str, Any]
Figure = Callable[[Row], float]
Judge = Callable[[Row], str]

VERDICTS = ("LOST", "DEGRADED", "PASS")
KEPT_HALF = 0.5
FIGURES: dict[str, Figure] = {
    "retained": lambda row: closeness(row["retained"]),
    "retained of the worst module": lambda row: row["least"],
    "cosine": lambda row: row["cosine"],
    "minus |R - D| / |D|": lambda row: -row["relative_error"],
    "minus noise, |R - D| / |W|": lambda row: -row["noise"],
}
"""Figures of the weights; larger is better, and a share retained counts by its closeness to 1.  D is the intended update, R the real one, W the base's weight."""
COLOURS = dict(zip(VERDICTS, ("#c0392b", "#e6a817", "#2e8b57"), strict=True))
MARKS = {"keep": "o", "dither": "^", "dither-calibrated": "v", "mixed": "s", "mixed-calibrated": "P"}
MARKS |= {"dequantize": "D", "quantize": "X"}


@dataclass(frozen=True, slots=True)
class Rule:
    """The verdict on the figures of the weights, as fusery gives it.

    Attributes:
        passes: closeness of the share retained from which a fuse passes.
        degraded: closeness below which the adapter is lost.
        noise: above it, a fuse is degraded at best.
    """

    passes: float
    degraded: float
    noise: float = math.inf

    def __call__(self, row: Row) -> str:
        """Return the verdict."""
        close = closeness(row["retained"])
        if close < self.degraded:
            return "LOST"
        return "PASS" if close >= self.passes and row["noise"] <= self.noise else "DEGRADED"


def telling(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose adapter does something for its task."""
    return [row for row in rows if row["gain"] >= LEAST_GAIN]


def by_loss(row: Row) -> str:
    """Return the verdict on what the model does, by its loss."""
    return "PASS" if row["excess"] <= NEAR else _by_share(row["kept"])


def by_predictions(row: Row) -> str:
    """Return the verdict on what the model does, by how near its predictions are."""
    return _by_share(1 - row["kl_task"] / row["kl_base_task"])


def _by_share(kept: float) -> str:
    return VERDICTS[int(kept >= KEPT_PASS) + int(kept >= KEPT_HALF)]


MEASURES: dict[str, Judge] = {"loss": by_loss, "predictions": by_predictions}


def by_figure(figure: Figure, thresholds: tuple[float, float]) -> Judge:
    """Return the verdict of a figure: PASS from the first threshold, DEGRADED from the second."""
    return lambda row: VERDICTS[int(figure(row) >= max(thresholds)) + int(figure(row) >= thresholds[1])]


def boundary(values: Sequence[float], above: Sequence[bool]) -> float:
    """Return the threshold that is on the wrong side of the fewest values; of several, the middle of the widest gap."""
    order = np.argsort(values)
    ordered, right = np.asarray(values, dtype=float)[order], np.asarray(above, dtype=bool)[order]
    # With the threshold below ordered[n], the first n are said to be below and the others above.
    mistakes = np.concatenate([[0], np.cumsum(right)]) + np.concatenate([np.cumsum(~right[::-1])[::-1], [0]])
    edges = np.concatenate([[ordered[0] - 1], ordered, [ordered[-1] + 1]])
    gaps = edges[1:] - edges[:-1]
    best = max(np.flatnonzero(mistakes == mistakes.min()), key=lambda n: gaps[n])
    return float((edges[best] + edges[best + 1]) / 2)


def fit(rows: Sequence[Row], figure: Figure, measure: Judge) -> tuple[float, float]:
    """Return the thresholds of PASS and of DEGRADED on a figure that make the fewest mistakes."""
    values, verdicts = [figure(row) for row in rows], [measure(row) for row in rows]
    return (
        boundary(values, [verdict == "PASS" for verdict in verdicts]),
        boundary(values, [verdict != "LOST" for verdict in verdicts]),
    )


def mistakes(rows: Sequence[Row], said: Judge, measure: Judge) -> int:
    """Return how many rows are not as said."""
    return sum(said(row) != measure(row) for row in rows)


def fit_rule(rows: Sequence[Row], measure: Judge) -> Rule:
    """Return the rule on retained and noise that makes the fewest mistakes; of several, the one that bears most noise."""
    noises = sorted({row["noise"] for row in rows})
    limits = [(low + high) / 2 for low, high in pairwise(noises)] + [math.inf]
    found = []
    for limit in limits:
        quiet = [row for row in rows if row["noise"] <= limit]
        passes = fit(quiet, FIGURES["retained"], measure)[0]
        rule = Rule(passes, fit(rows, FIGURES["retained"], measure)[1], limit)
        found.append((-mistakes(rows, rule, measure), limit, rule))
    return max(found, key=lambda one: one[:2])[2]


def unseen(rows: Sequence[Row], fitting: Callable[[Sequence[Row]], Judge], measure: Judge) -> int:
    """Return how many rows are not as said if thresholds are fitted to the fuses of all other adapters."""
    return sum(mistakes(own, fitting(others), measure) for own, others in _folds(rows) if others)


def _folds(rows: Sequence[Row]) -> Iterator[tuple[list[Row], list[Row]]]:
    for adapter in sorted({row["case"][0] for row in rows}):
        own = [row for row in rows if row["case"][0] == adapter]
        yield own, [row for row in rows if row["case"][0] != adapter]


def halves(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows to fit thresholds to, and those to judge them by: by a digest of the case, the same each time."""
    parts: tuple[list[Row], list[Row]] = [], []
    for row in rows:
        # A case was written in four columns before sums were added.
        case = [*row["case"], *[""] * (5 - len(row["case"]))]
        parts[hashlib.sha256(json.dumps(case).encode()).digest()[0] & 1].append(row)
    return parts


def taken(row: Row) -> bool:
    """Return whether `auto` takes it by its weights."""
    quiet = row["noise"] <= QUIET_TO and row["cosine"] >= CLEAR_FROM
    return bool(closeness(row["retained"]) >= WHOLE_FROM and quiet)


def asked(row: Row) -> bool:
    """Return whether `--probe auto` asks the model."""
    own = row["case"][2].split("-")[0] in ("keep", "dither")
    return own and not taken(row) and bool(closeness(row["retained"]) >= DEGRADED_FROM)


def judge_halves(rows: Sequence[Row], rule: Rule) -> dict[str, Any]:
    """Print how rules do on the half that they were not fitted to, and what `auto` takes of it; return it."""
    first, second = halves(rows)
    fitted = fit_rule(first, by_loss)
    wrong = {"in use": mistakes(second, rule, by_loss), "fitted": mistakes(second, fitted, by_loss)}
    print(f"\n{len(first)} rows to fit to, {len(second)} others to judge by")
    for name, count in wrong.items():
        print(f"  verdict, {name}: {count} wrong, {count / max(1, len(second)):.1%}")
    found: dict[str, Any] = {"fit": len(first), "judged": len(second), "wrong": wrong, "rule": asdict(fitted)}
    sure = [row for row in second if not asked(row)]
    left = mistakes(sure, rule, by_loss)
    print(
        f"  where the model is asked ({len(second) - len(sure)} rows) it cannot err; of the others {left} are wrong: {left / max(1, len(second)):.1%} of all"
    )
    for name, some in (("judged", second), ("all", list(rows))):
        for way, chosen in (("by the weights", taken), ("asked", asked)):
            real = {
                verdict: sum(by_loss(row) == verdict for row in some if chosen(row)) for verdict in VERDICTS
            }
            print(f"  auto, {way}, {name}: {real}")
            found[f"{way}, {name}"] = real
    return found


def confusion(rows: Sequence[Row], said: Judge, measure: Judge) -> dict[str, dict[str, int]]:
    """Return behaviour -> verdict on the weights -> how many."""
    table = {real: dict.fromkeys(VERDICTS, 0) for real in VERDICTS}
    for row in rows:
        table[measure(row)][said(row)] += 1
    return table


def report(rows: Sequence[Row], rule: Rule) -> dict[str, Any]:
    """Print how well each figure does, and how well the rule in use; return it."""
    count, rows = len(rows), telling(rows)
    print(f"{count} fuses, {len(rows)} of them telling: base + adapter gains at least {LEAST_GAIN} nats")
    summary: dict[str, Any] = {"fuses": count, "telling": len(rows), "rule": asdict(rule)}
    for word, measure in MEASURES.items():
        print(
            f"\nbehaviour judged by {word:20}{'PASS from':>10}{'DEGRADED':>10}{'mistakes':>10}{'unseen*':>9}"
        )
        fitted = {}
        for name, figure in FIGURES.items():
            best = fit(rows, figure, measure)
            found = (
                mistakes(rows, by_figure(figure, best), measure),
                unseen(rows, _fitting(figure, measure), measure),
            )
            fitted[name] = {"thresholds": best, "mistakes": found[0], "unseen": found[1]}
            print(f"  {name:38}{best[0]:10.3f}{best[1]:10.3f}{found[0]:10}{found[1]:9}")
        both = fit_rule(rows, measure)
        found = mistakes(rows, both, measure), unseen(rows, partial(fit_rule, measure=measure), measure)
        fitted["retained and noise"] = {"thresholds": asdict(both), "mistakes": found[0], "unseen": found[1]}
        words = f"retained, and noise up to {both.noise:.3f}"
        print(f"  {words:38}{both.passes:10.3f}{both.degraded:10.3f}{found[0]:10}{found[1]:9}")
        words = f"in use, with noise up to {rule.noise:g}"
        print(f"  {words:38}{rule.passes:10.3f}{rule.degraded:10.3f}{mistakes(rows, rule, measure):10}")
        summary[word] = _compared(rows, rule, measure) | {"fitted": fitted}
    print("* on the fuses of each adapter, with thresholds fitted to those of all others")
    summary["halves"] = judge_halves(rows, rule)
    return summary


def _fitting(figure: Figure, measure: Judge) -> Callable[[Sequence[Row]], Judge]:
    return lambda rows: by_figure(figure, fit(rows, figure, measure))


def _compared(rows: Sequence[Row], rule: Rule, measure: Judge) -> dict[str, Any]:
    """Print what is said of which behaviour, and each row where they differ."""
    table, wrong = confusion(rows, rule, measure), mistakes(rows, rule, measure)
    print(f"  {wrong / len(rows):.1%} wrong; down: behaviour, across: verdict on the weights")
    print("  " + " " * 10 + "".join(f"{verdict:>10}" for verdict in VERDICTS))
    for real, line in table.items():
        print(f"  {real:10}" + "".join(f"{line[verdict]:10}" for verdict in VERDICTS))
    for row in rows:
        if rule(row) != measure(row):
            print(
                f"    {' '.join(map(str, row['case']))}: said {rule(row)}, is {measure(row)}; retained "
                f"{row['retained']:.2f}, noise {row['noise']:.3f}, gain kept {row['kept']:.2f}"
            )
    return {"mistakes": wrong, "confusion": table}


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a JSON Lines file; of a case measured twice the last one."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list({json.dumps(row["case"]): row for row in rows}.values())


def draw(rows: Sequence[Row], rule: Rule, file: Path) -> None:
    """Draw the share of the update retained against the share of the gain kept, a mark for each way of writing; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8.4, 5.4), layout="constrained")
    for low, high, verdict in zip(
        (-1, KEPT_HALF, KEPT_PASS), (KEPT_HALF, KEPT_PASS, 2), VERDICTS, strict=True
    ):
        axes.axhspan(low, high, color=COLOURS[verdict], alpha=0.12, linewidth=0)
    for way, mark in MARKS.items():
        drawn = [row for row in telling(rows) if _way(row) == way]
        points = [(row["retained"], min(max(row["kept"], -0.1), 1.1)) for row in drawn]
        style = {"marker": mark, "edgecolors": "black", "linewidths": 0.4, "s": 40}
        if points:
            axes.scatter(*zip(*points, strict=True), c=[COLOURS[by_loss(row)] for row in drawn], **style)
            axes.scatter([], [], c="grey", label=f"{way} ({len(points)})", **style)
    loud = [row for row in telling(rows) if row["noise"] > rule.noise]
    if loud:
        places = [(row["retained"], row["kept"]) for row in loud]
        label = f"noise above {rule.noise:g} ({len(loud)})"
        axes.scatter(*zip(*places, strict=True), s=130, facecolors="none", edgecolors="black", label=label)
    for value, verdict in ((rule.passes, "PASS"), (rule.degraded, "DEGRADED")):
        axes.axvline(value, color="black", linewidth=0.8, linestyle="--")
        axes.text(value, -0.09, f" {verdict} from {value:g}", fontsize=8)
    axes.set(xlabel="share of the update retained in the written weights", ylim=(-0.12, 1.13))
    axes.set(ylabel="share of the adapter's gain on its task kept")
    axes.set_title(
        "A mark is a fuse, its colour what the model does: red LOST, yellow DEGRADED, green PASS", fontsize=10
    )
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.08), fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _way(row: Row) -> str:
    """Return the precision without its bits."""
    return "".join(letter for letter in row["case"][2] if not letter.isdigit())
