"""Which adapters lie among the files of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fusery.registry.exchange.tracked_run import (
    TrackedRun,
    is_inside,
    is_secret,
    parameters,
    tracked_adapters,
)
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
        # Checkpoints of two outputs are two.
        (
            folder("seed1/checkpoint-10") + folder("seed2/checkpoint-10"),
            {f"seed{n}": [f"checkpoint-10/{name}" for name in WHOLE] for n in (1, 2)},
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


SECRET = """password db_password dbPassword passwd pwd secret client_secret api_key openaiApiKey hub_token trainer/hub_token
token tok aws_session_token github_token hf-token credentials AWS_SECRET_ACCESS_KEY HF_TOKEN private_key use_auth_token"""
PLAIN = """pad_token eos_token image_token max_tokens tokens tokenizer learning_rate key key_value_heads monkey lr passes"""


def test_names_of_secrets() -> None:
    assert [name for name in SECRET.split() if not is_secret(name)] == []
    assert [name for name in PLAIN.split() if is_secret(name)] == []


def test_parameters_lose_what_is_secret_wherever_it_stands() -> None:
    given = {
        "lr": 1e-4,
        "hub": {"token": "S1", "name": "x"},
        "list": [{"api_key": "S2"}],
        "argv": ["train.py", "--hub_token", "S3", "--api-key=S4", "--rank", "8"],
        "done": True,
        "none": None,
    }
    kept = parameters(given)
    assert not any(f"S{number}" in repr(kept) for number in range(1, 5))
    assert kept["argv"] == ["train.py", "--hub_token", "***", "--api-key=***", "--rank", "8"]
    assert (kept["lr"], kept["hub"]["name"], kept["done"], kept["none"]) == (1e-4, "x", True, None)


def test_paths_that_stay_inside() -> None:
    assert all(map(is_inside, ["a", "a/b.json", "adapter:v0/a..b"]))
    others = ["", ".", "./a", "a//b", "a/./b", "a/../b", "../a", "/a", "a\\b", "a\0b", "a/"]
    assert not any(map(is_inside, others))
