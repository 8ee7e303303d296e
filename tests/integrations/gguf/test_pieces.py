"""Tokenizers that were SentencePiece's: llama.cpp merges by scores what the model's own tokenizer.json merges by rank."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from consumers import llama_cpp_tokens

from fusery.integrations.gguf.model import read_model, write_model_gguf
from fusery.integrations.gguf.tokenizer import tokenizer_keys
from fusery.registry.bundles.writing import HashedFile
from fusery.registry.errors import BadInputError

pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

ROWS = 700
SPECIAL = ("<unk>", "<s>", "</s>")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PROSE = [
    "The harbour's robots weld a thousand plates a day, and the welders weld the rest of them there.",
    "Which course teaches the welding of the hulls of ships? The course that the harbour teaches.",
    "  Two spaces, then the rest;   three   and more.  There there, the the the.",
]
TEXTS = [
    *PROSE,
    " a leading space",
    "Grüße, 世界 \U0001f600",
    "[INST] x [/INST]</s><s>the next",
    "a\nb\t c",
    "",
]
PREPEND = {"type": "Prepend", "prepend": "\u2581"}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.normalizer = tokenizers.normalizers.Replace(" ", "\u2581")
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=330, show_progress=False)
    trained.train_from_iterator(PROSE * 3, trainer)
    found = trained.get_vocab()
    tokens = [*SPECIAL, *BYTES, *sorted(found, key=lambda token: found[token])]
    vocab = {token: number for number, token in enumerate(tokens)}
    merges = [
        [token[:place], token[place:]]
        for token in tokens[259:]
        for place in range(1, len(token))
        if token[:place] in vocab and token[place:] in vocab
    ]
    added = [
        {"id": number, "content": token, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for number, token in enumerate(SPECIAL)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": merges,
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


@pytest.fixture
def make_model(document: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    def make(**changes: Any) -> Path:
        base = tiny_models.make_base(
            tmp_path / "base", kind="mistral", layers=1, hidden=64, intermediate=64, vocab=ROWS
        )
        (base / "tokenizer.json").write_text(json.dumps({**document, **changes}))
        config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": {"content": "<unk>"}}
        (base / "tokenizer_config.json").write_text(json.dumps(config))
        (base / "generation_config.json").write_text("{}")
        return base

    return make


METASPACE: dict[str, Any] = {
    "normalizer": None,
    "pre_tokenizer": {
        "type": "Metaspace",
        "replacement": "\u2581",
        "prepend_scheme": "never",
        "split": False,
    },
}


@pytest.mark.parametrize(
    ("changes", "prefix"),
    [({}, True), ({"normalizer": REPLACE}, False), (METASPACE, False)],
    ids=["as Llama 2", "no space before", "cut instead"],
)
def test_llama_cpp_agrees(
    make_model: Callable[..., Path], changes: dict[str, Any], prefix: bool, tmp_path: Path
) -> None:
    base = make_model(**changes)
    path = tmp_path / "model.gguf"
    with path.open("xb") as file:
        files = {each.name: each for each in base.iterdir()}
        write_model_gguf(HashedFile(file), read_model(files), {"general.type": "model"}, None)
    own = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    expected = [own.encode(text).ids for text in TEXTS]
    assert llama_cpp_tokens(path, TEXTS) == expected
    assert max(len(ids) for ids in expected) < 60, "the merges are at work"
    keys = tokenizer_keys(files, {}, ROWS)
    assert keys["tokenizer.ggml.add_space_prefix"] is prefix
    assert keys["tokenizer.ggml.add_bos_token"] is True


REFUSED: tuple[tuple[Callable[[dict[str, Any]], Any], str], ...] = (
    (lambda found: found["model"]["merges"].pop(), "llama.cpp would merge"),
    (lambda found: found["model"]["merges"].append(found["model"]["merges"][0]), "not in the order"),
    (lambda found: found["model"]["vocab"].pop("<0x41>"), "<0x41>"),
    (lambda found: found.update(METASPACE, pre_tokenizer=METASPACE["pre_tokenizer"] | {"prepend_scheme": "first"}), "spaces"),
    (lambda found: found.update(normalizer={"type": "Lowercase"}), "spaces"),
    (lambda found: found["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
)  # fmt: skip


def test_unsupported(make_model: Callable[..., Path], document: dict[str, Any], tmp_path: Path) -> None:
    base = make_model()
    for change, named in REFUSED:
        changed = json.loads(json.dumps(document))
        change(changed)
        (base / "tokenizer.json").write_text(json.dumps(changed))
        with pytest.raises(BadInputError, match=named):
            tokenizer_keys({each.name: each for each in base.iterdir()}, {}, ROWS)
