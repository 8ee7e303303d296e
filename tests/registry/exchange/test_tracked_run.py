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
        # transformers' own callback for MLflow makes a model of each checkpoint.
        (
            folder("checkpoint-10/artifacts/checkpoint-10") + folder("checkpoint-20/artifacts/checkpoint-20"),
            {"": [f"checkpoint-{n}/{name}" for n in (10, 20) for name in WHOLE]},
        ),
    ],
)
def test_the_adapters_among_the_artifacts(paths: list[str], found: dict[str, list[str]]) -> None:
    assert dict(tracked(*paths)) == {path: sorted(names) for path, names in found.items()}


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db_password",
        "dbPassword",
        "passwd",
        "pwd",
        "secret",
        "client_secret",
        "api_key",
        "openaiApiKey",
        "hub_token",
        "trainer/hub_token",
        "token",
        "tok",
        "aws_session_token",
        "github_token",
        "hf-token",
        "credentials",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "private_key",
        "use_auth_token",
    ],
)
def test_what_is_called_like_a_secret(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "pad_token",
        "eos_token",
        "image_token",
        "max_tokens",
        "tokens",
        "tokenizer",
        "learning_rate",
        "key",
        "key_value_heads",
        "monkey",
        "lr",
        "passes",
    ],
)
def test_what_is_not(name: str) -> None:
    assert not is_secret(name)


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


@pytest.mark.parametrize("path", ["a", "a/b.json", "adapter:v0/a..b"])
def test_paths_that_stay_inside(path: str) -> None:
    assert is_inside(path)


@pytest.mark.parametrize(
    "path", ["", ".", "./a", "a//b", "a/./b", "a/../b", "../a", "/a", "a\\b", "a\0b", "a/"]
)
def test_paths_that_do_not_or_have_another_spelling(path: str) -> None:
    assert not is_inside(path)
