"""The text of an answer, made from its tokens, up to a stop string."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import load
from tokenizers import Tokenizer, decoders, models, normalizers

from fusery.model_server.writing import Generation, Piece, RunningJob

WORDS = ["<unk>", "</s>", "\u2581a", "\u2581Paris", "\u2581is", "s", "<0xC3>", "<0xA9>"]


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("sentencepiece")
    made = Tokenizer(models.BPE({word: number for number, word in enumerate(WORDS)}, [], unk_token="<unk>"))
    space = normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")
    made.normalizer = normalizers.Sequence(list(space))
    last = decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), *last])
    made.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return load(folder)


def written(tokenizer: Any, words: list[str], *, continues: bool) -> list[Piece]:
    writing = RunningJob(Generation(None, [2], 9, alternatives=0, continues=continues), tokenizer)
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


LETTERS = st.text("ab", max_size=12)


class Texts:
    """A tokenizer and its detokenizer: each token is its own text."""

    last_segment = ""

    @property
    def detokenizer(self) -> Texts:
        return self

    def add_token(self, text: str) -> None:
        self.last_segment = text

    def finalize(self) -> None:
        pass


def passed_on(texts: list[str], words: list[str], expected: str) -> str:
    writing, said = RunningJob(Generation(None, [2], 9, stop=tuple(words)), Texts()), ""
    for number, text in enumerate(texts, 1):
        piece = writing.add(text, "length" if number == len(texts) else None, None)
        said += piece.text
        assert expected.startswith(said)
        held = "".join(texts[:number])[len(said) :]
        assert piece.finish or not held or any(word.startswith(held) for word in words), "only a beginning"
        if piece.finish == "stop":
            assert said == expected
            assert any(word in "".join(texts) for word in words)
            return said
    assert not any(word in "".join(texts) for word in words)
    return said


@given(st.lists(LETTERS, min_size=1, max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_comes_through_is_what_is_before_the_stop_string(pieces: list[str], words: list[str]) -> None:
    text = "".join(pieces)
    ends = [(place + len(word), place) for word in words if (place := text.find(word)) >= 0]
    expected = text[: min(ends)[1]] if ends else text
    said = passed_on(pieces, words, expected)
    assert said == expected


def test_only_what_may_be_a_stop_is_held_back() -> None:
    writing = RunningJob(Generation(None, [2], 9, stop=("</end>",)), Texts())
    texts = ["one <", "b> two </en", "d> three"]
    assert [(piece.text, piece.finish) for piece in (writing.add(text, None, None) for text in texts)] == [
        ("one ", None),
        ("<b> two ", None),
        ("", "stop"),
    ]
