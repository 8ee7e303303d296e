"""The text of an answer, made from its tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.tokenizer_utils import load

from fusery.registry.server.writing import Job, Piece, Writing

WORDS = ["<unk>", "</s>", "\u2581a", "\u2581Paris", "\u2581is", "s", "<0xC3>", "<0xA9>"]


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer as Llama 2's, whose decoder drops the space before the first word."""
    folder: Path = tmp_path_factory.mktemp("sentencepiece")
    space = {"String": "\u2581"}
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": space, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return load(folder)


def written(tokenizer: Any, words: list[str], *, continues: bool) -> list[Piece]:
    """Return the pieces of an answer of these tokens."""
    writing = Writing(Job(None, [2], 9, alternatives=0, continues=continues), tokenizer)
    numbers = [WORDS.index(word) for word in words]
    return [writing.add(number, None, mx.zeros(len(WORDS))) for number in numbers]


@pytest.mark.parametrize("continues", [True, False])
def test_sentencepiece_keeps_the_leading_space_of_a_continuation(sentencepiece: Any, continues: bool) -> None:
    pieces = written(sentencepiece, ["\u2581Paris", "\u2581is", "s"], continues=continues)
    assert "".join(piece.text for piece in pieces) == " Paris iss"[not continues :]
    assert [piece.logprob and piece.logprob.token for piece in pieces] == [" Paris", " is", "s"]


def test_a_character_in_two_tokens_is_written_when_it_is_complete(sentencepiece: Any) -> None:
    pieces = written(sentencepiece, ["\u2581is", "<0xC3>", "<0xA9>"], continues=True)
    assert [piece.text for piece in pieces] == [" is", "", "\u00e9"]
    assert [piece.logprob and piece.logprob.token for piece in pieces] == [" is", "\ufffd", "\ufffd"]
