"""Conclusions of probes, and notes on their prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fusery.registry.comparison.reports import ProbedModel, ProbePrompts, ProbeReport, PromptScores

ADAPTER, BASE = ProbedModel("adapter", "t_v1", "0" * 64), ProbedModel("base", "b", "1" * 64)
FUSED = ProbedModel("fused", "t_v1", "2" * 64, "keep")
OTHER_ADAPTER = ProbedModel("adapter", "t_v2", "3" * 64)


CONCLUSIONS: list[tuple[tuple[Any, ...], list[str], list[str]]] = [
    # a, b, KL, agreement, losses of a, b and base, gain kept; parts of the conclusion, and other words.
    ((ADAPTER, FUSED, 0.003, 0.991, 0.219, 0.22, 3.8, 0.99), ["answers as", "99.1 %", "99.0 %"], ["nearly"]),
    ((ADAPTER, FUSED, 0.094, 0.93, 2.0, 2.1, None, None), ["nearly", "0.094", "2.100"], ["'s gain"]),
    ((ADAPTER, FUSED, 0.49, 0.71, 0.2, 1.7, 3.8, 0.58), ["does not answer", "58.0 %", "3.800"], ["nearly"]),
    (
        (OTHER_ADAPTER, ADAPTER, 0.5, 0.7, 0.9, 0.2, 3.8, None),
        ["base + t_v1 is better", "base + t_v1 0.200; base + t_v2 0.900"],
        [],
    ),
    ((ADAPTER, OTHER_ADAPTER, 0.0, 0.7, 0.2, 0.2, 3.8, None), ["the same loss, 0.200", "alike"], ["better"]),
    ((ADAPTER, BASE, 0.0, 1.0, 3.8, 3.8, 3.8, None), ["changed nothing", "0.000"], ["'s gain"]),
    ((ADAPTER, BASE, 0.0005, 0.99, 3.7, 3.8, 3.8, None), ["changed little", "5.0e-04"], ["nothing"]),
    (
        (FUSED, BASE, 0.5, 0.7, 0.2, 3.8, None, None),
        ["The adapter, fused, changed what", "0.200."],
        ["of the base"],
    ),
    ((ADAPTER, BASE, 0.0, 0.99, 3.8, 3.8, 3.8, None), ["changed little"], ["nothing", "fused"]),
    (
        (FUSED, OTHER_ADAPTER, 0.1, 0.7, 0.9, 0.2, None, None),
        ["t_v1 fused (keep) 0.900", "nearly alike"],
        ["of the base"],
    ),
    ((OTHER_ADAPTER, FUSED, 0.11, 0.7, 0.2, 0.9, None, None), ["is better", "differently"], ["It keeps"]),
]


@pytest.mark.parametrize(("facts", "said", "unsaid"), CONCLUSIONS)
def test_conclusion_of_a_probe(facts: tuple[Any, ...], said: list[str], unsaid: list[str]) -> None:
    a, b, kl, same, *losses, gain = facts
    row = PromptScores("x", 1, kl, same, *losses[:2])
    conclusion = ProbeReport(a, b, 1, 1, kl, kl, same, *losses, gain, 1.0, (row,)).conclusion
    assert all(part in conclusion for part in said), conclusion
    assert not any(part in conclusion for part in unsaid), conclusion


OF_TASK = ProbePrompts("file", "a.jsonl", gain=1.0, clear=True, loss=0.5)


@pytest.mark.parametrize(
    ("about", "of_task", "note"),
    [
        (ProbePrompts(), None, None),
        (OF_TASK, True, None),
        (replace(OF_TASK, gain=0.019), False, "hardly lower than the base's"),
        (replace(OF_TASK, gain=-0.5), False, "not lower than the base's"),
        (replace(OF_TASK, clear=False), False, "hardly lower than the base's"),
        (replace(OF_TASK, loss=1.39, val_loss=0.4), True, None),
        (replace(OF_TASK, loss=1.4, val_loss=0.4), False, "1.400, and 0.400 is on record"),
        (replace(OF_TASK, origin="held-out", loss=1.4, val_loss=0.1), True, None),
        (
            replace(OF_TASK, origin="held-out", gain=0.0),
            True,
            "learned nothing that its own held-out data show",
        ),
    ],
)
def test_note_on_prompts(about: ProbePrompts, of_task: bool | None, note: str | None) -> None:
    assert about.of_task is of_task
    assert (about.note is None) == (note is None)
    assert note is None or note in str(about.note)
