"""Which adapters lie among the files of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fusery.registry.exchange.tracked_run import TrackedRun, tracked_adapters
from fusery.registry.training.record import RunRecord


def tracked(*paths: str) -> Iterator[tuple[str, list[str]]]:
    record = RunRecord.model_validate({"started_at": "2026-09-21T00:00:00Z"})
    run = TrackedRun("0", "run", "lessons", record, {}, dict.fromkeys(paths, 1), lambda path, place: None)
    return ((each.path, sorted(each.files)) for each in tracked_adapters(run))


WHOLE = ("adapter_config.json", "adapter_model.safetensors")


def folder(path: str, *names: str) -> list[str]:
    return [f"{path}/{name}" if path else name for name in (names or WHOLE)]


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        ([], {}),
        (folder("", "adapter_config.json"), {}),
        (folder("", "adapter_model.safetensors", "config.json"), {}),
        (folder(""), {"": list(WHOLE)}),
        (folder("a") + folder("b"), {"a": list(WHOLE), "b": list(WHOLE)}),
        # A trainer's output folder: its own weights and two checkpoints are one.
        (
            folder("out") + folder("out/checkpoint-10") + folder("out/checkpoint-20"),
            {"out": [*WHOLE, *(f"checkpoint-{n}/{name}" for n in (10, 20) for name in WHOLE)]},
        ),
        # transformers' own callback for MLflow makes a model of each checkpoint.
        (
            folder("checkpoint-10/artifacts/checkpoint-10") + folder("checkpoint-20/artifacts/checkpoint-20"),
            {"": [f"checkpoint-{n}/{name}" for n in (10, 20) for name in WHOLE]},
        ),
    ],
)
def test_the_adapters_among_the_artifacts(paths: list[str], found: dict[str, list[str]]) -> None:
    assert dict(tracked(*paths)) == {path: sorted(names) for path, names in found.items()}
