"""From measured rows to numbers: how well the verdict on the weights, and that on answers, predict what the model does.

Behaviour is judged by the adapter's own task, on questions it was not trained on: PASS where at least 95 % of what the
adapter gained is kept, or the loss is within 0.02 nats of base + adapter; LOST where less than half is kept; DEGRADED
between.  Where base + adapter itself gains less than 0.1 nats the task cannot tell, and the row does not count.

The same is asked of two other measures, to see whether the verdict hangs on the loss: how much of the way from the base
to base + adapter the model's predictions have gone, 1 - KL(base + adapter || fused) / KL(base + adapter || base); and
what fusery judges by if it asks the model, which also takes equal tokens and general text into account.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fusery.registry.engine.verdict import LEAST_GAIN, LOST_BELOW, QUIET_TO, WHOLE_FROM, judge
from fusery.research.second_opinion import AGREE, HALF, NEAR
from fusery.research.second_opinion import KEPT as KEPT_PASS

GENERAL = 0.1  # largest KL on general text, in nats per token, with unchanged behaviour
Row = dict[str, Any]
Judge = Callable[[Row], str]

VERDICTS = ("LOST", "DEGRADED", "PASS")
SAID = ("LOST", "UNSURE", "PASS")
COLOURS = dict(zip(VERDICTS, ("#c0392b", "#e6a817", "#2e8b57"), strict=True))
MARKS = {"keep": "o", "dither": "^", "dither-calibrated": "v", "mixed": "s", "mixed-calibrated": "P"}
MARKS |= {"dequantize": "D", "quantize": "X"}


def by_weights(row: Row) -> str:
    """Return the verdict on the weights, as fusery gives it."""
    shaped = _way(row) == "mixed-calibrated"
    return judge(row["retained"], row["noise"], row["cosine"], shaped=shaped)


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
    return VERDICTS[int(kept >= KEPT_PASS) + int(kept >= HALF)]


def by_answers(row: Row) -> str:
    """Return the verdict that fusery gives if it asks the model: loss, equal tokens and general text."""
    verdict = by_loss(row)
    other = row["top1_task"] < AGREE or row["kl_general"] > GENERAL
    return "DEGRADED" if verdict == "PASS" and other else verdict


MEASURES: dict[str, Judge] = {"loss": by_loss, "predictions": by_predictions, "answers": by_answers}


def mistakes(rows: Sequence[Row], said: Judge, measure: Judge) -> int:
    """Return how many rows are not as said; UNSURE says nothing."""
    return sum(said(row) not in ("UNSURE", measure(row)) for row in rows)


def confusion(rows: Sequence[Row], said: Judge, measure: Judge) -> dict[str, dict[str, int]]:
    """Return behaviour -> verdict -> how many."""
    table = {real: dict.fromkeys(SAID, 0) for real in VERDICTS}
    for row in rows:
        table[measure(row)][said(row)] += 1
    return table


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """Print how often the verdict is wrong; return it."""
    count, rows = len(rows), telling(rows)
    print(f"{count} fuses, {len(rows)} of them telling: base + adapter gains at least {LEAST_GAIN} nats")
    summary: dict[str, Any] = {"fuses": count, "telling": len(rows)}
    for word, measure in MEASURES.items():
        print(f"\nbehaviour judged by {word}")
        summary[word] = _compared(rows, by_weights, measure)
    worst = max((row["kl_general"] for row in rows if by_weights(row) == "PASS"), default=0.0)
    print(f"\nwhat passes by its weights has a KL on general text of at most {worst:.3f}")
    return summary


def _compared(rows: Sequence[Row], said: Judge, measure: Judge) -> dict[str, Any]:
    """Print what is said of which behaviour, and each row where they differ."""
    table, wrong = confusion(rows, said, measure), mistakes(rows, said, measure)
    print(f"  {wrong / len(rows):.1%} wrong; down: behaviour, across: verdict")
    print("  " + " " * 10 + "".join(f"{verdict:>10}" for verdict in SAID))
    for real, line in table.items():
        print(f"  {real:10}" + "".join(f"{line[verdict]:10}" for verdict in SAID))
    for row in rows:
        if mistakes([row], said, measure):
            print(
                f"    {' '.join(map(str, row['case']))}: said {said(row)}, is {measure(row)}; retained "
                f"{row['retained']:.2f}, noise {row['noise']:.3f}, gain kept {row['kept']:.2f}"
            )
    return {"mistakes": wrong, "confusion": table}


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a JSON Lines file; of a case measured twice the last one."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return list({json.dumps(row["case"]): row for row in rows}.values())


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw the share of the update retained against the share of the gain kept, a mark for each way of writing; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8.4, 5.4), layout="constrained")
    for low, high, verdict in zip((-1, HALF, KEPT_PASS), (HALF, KEPT_PASS, 2), VERDICTS, strict=True):
        axes.axhspan(low, high, color=COLOURS[verdict], alpha=0.12, linewidth=0)
    for way, mark in MARKS.items():
        drawn = [row for row in telling(rows) if _way(row) == way]
        points = [(row["retained"], min(max(row["kept"], -0.1), 1.1)) for row in drawn]
        style = {"marker": mark, "edgecolors": "black", "linewidths": 0.4, "s": 40}
        if points:
            axes.scatter(*zip(*points, strict=True), c=[COLOURS[by_loss(row)] for row in drawn], **style)
            axes.scatter([], [], c="grey", label=f"{way} ({len(points)})", **style)
    loud = [row for row in telling(rows) if row["noise"] > QUIET_TO]
    if loud:
        places = [(row["retained"], row["kept"]) for row in loud]
        label = f"noise above {QUIET_TO:g} ({len(loud)})"
        axes.scatter(*zip(*places, strict=True), s=130, facecolors="none", edgecolors="black", label=label)
    for value, verdict in ((WHOLE_FROM, "PASS"), (LOST_BELOW, "UNSURE")):
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
