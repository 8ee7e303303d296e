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

from fusery.model_server.writing import Generation, Piece, RunningJob, StopWords

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


@given(st.lists(LETTERS, max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_comes_through_is_what_is_before_the_stop_string(pieces: list[str], words: list[str]) -> None:
    text = "".join(pieces)
    ends = [(place + len(word), place) for word in words if (place := text.find(word)) >= 0]
    expected = text[: min(ends)[1]] if ends else text
    stop, said = StopWords(words), ""
    for piece in pieces:
        said += stop.push(piece)
        assert expected.startswith(said)
    assert stop.found == bool(ends)
    if not stop.found:
        said += stop.finish()
    assert said == expected


def test_only_what_may_be_a_stop_is_held_back() -> None:
    stop = StopWords(["</end>"])
    assert stop.push("one <") == "one "
    assert stop.push("b> two </en") == "<b> two "
    assert stop.push("d> three") == ""
    assert stop.found
    assert stop.push("four") == ""
