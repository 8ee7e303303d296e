"""Tokenizers written as GGUF: llama.cpp numbers texts as the model's own tokenizer.json does, or there is no file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from consumers import llama_cpp_tokens
from gguf_llama import SPECIAL, VOCAB, tokenizers, vocabulary, write_gguf

from fusery.integrations.gguf.model import read_model, write_model_gguf
from fusery.integrations.gguf.tokenizer import tokenizer_keys
from fusery.registry.bundles.writing import HashedFile
from fusery.registry.errors import BadInputError
from fusery.registry.models.gguf_convert import convert_gguf
from fusery.registry.models.gguf_tokenizer import STYLES, convert_tokenizer
from fusery.storage.errors import FormatError

pytest.importorskip("gguf")

ROWS = VOCAB + 5
TEXTS = [
    "COAST-101 opens in 2026, room 31415, at 9:30.  Don't be late; WE'LL start   on time!",
    "The harbour's robots weld 1,234 plates a day, and x += 12345 * (y - 678) // 90.",
    "\tTabs, \r\nnew lines\n\n\nand trailing blanks   \nÅse's café serves naïve crème brûlée — “superb”",
    "漢字かな交じり, русский текст. <|im_start|>user\nHi<|im_end|>",
    "DON'T we'll I'D they're ½ Ⅷ ٣٤ 🙂👩‍🚀",
    "line\n\n\n  indented\r\n\ttab \na_b->c != d && e|f ~ $5 ^ `x` <=> ++i;",
    "",
]


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    tokens, merges = vocabulary()
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }


@pytest.fixture
def make_model(metadata: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    def make(style: str, **changes: Any) -> Path:
        base = tiny_models.make_base(tmp_path / "base", layers=1, hidden=64, intermediate=64, vocab=ROWS)
        known = {**metadata, "tokenizer.ggml.pre": style, **changes}
        found = convert_tokenizer(known, len(known["tokenizer.ggml.tokens"]), 512)
        (base / "tokenizer.json").write_text(found.tokenizer)
        (base / "tokenizer_config.json").write_text(json.dumps(found.config))
        (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
        return base

    return make


def files(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir()}


def keys_of(folder: Path) -> dict[str, Any]:
    return dict(tokenizer_keys(files(folder), json.loads((folder / "config.json").read_text()), ROWS))


@pytest.mark.parametrize("style", STYLES)
def test_llama_cpp_agrees(make_model: Callable[..., Path], style: str, tmp_path: Path) -> None:
    begins = style in ("smollm", "llama-bpe")
    base = make_model(style, **{"tokenizer.ggml.add_bos_token": begins})
    path = tmp_path / "model.gguf"
    with path.open("xb") as file:
        write_model_gguf(HashedFile(file), read_model(files(base)), {"general.type": "model"}, None)
    own = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    expected = [own.encode(text, add_special_tokens=True).ids for text in TEXTS]
    assert llama_cpp_tokens(path, TEXTS) == expected
    assert [own.decode(ids[begins:], skip_special_tokens=False) for ids in expected] == TEXTS
    # Only qwen2 composes accents.
    assert (own.encode("cafe\u0301").ids == own.encode("caf\u00e9").ids) is (style == "qwen2")
    keys = keys_of(base)
    # `starcoder` and `smollm` are two names for one way.
    assert keys["tokenizer.ggml.pre"] == ("smollm" if style == "starcoder" else style)
    assert keys["tokenizer.ggml.add_bos_token"] is begins
    assert keys["tokenizer.ggml.tokens"][-5:] == [f"[PAD{row}]" for row in range(VOCAB, ROWS)]
    ids = [keys[f"tokenizer.ggml.{role}_token_id"] for role in ("bos", "eos", "eot", "padding")]
    assert ids == [1, 2, 0, 0]


def test_transformers_reads_the_converted_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = write_gguf(
        tmp_path / "tiny.gguf",
        metadata={"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.eot_token_id": 0},
    )
    convert_gguf(path, tmp_path / "folder")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    for text in TEXTS:
        assert tokenizer.encode(text) == plain.encode(text).ids
        assert tokenizer.encode(text)[0] == 1
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert chat == "<|im_start|>x<|im_end|>\n"
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["eos_token_id"] == [2, 0]


def test_chat_template_is_kept(make_model: Callable[..., Path], tmp_path: Path) -> None:
    base = make_model("gpt-2")
    assert keys_of(base)["tokenizer.chat_template"] == tiny_models.CHAT_TEMPLATE
    (base / "chat_template.jinja").unlink()
    config = json.loads((base / "tokenizer_config.json").read_text())
    templates = [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ 'a' }}\n\0\ud800"}]
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": templates}))
    assert keys_of(base)["tokenizer.chat_template"] == "{{ 'a' }}\n\0\\ud800"


OTHER_FRAME: dict[str, Any] = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
        {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {
        name: {"id": name, "ids": [number], "tokens": [name]} for number, name in enumerate(SPECIAL[:2])
    },
}
WORDS = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
REFUSED: tuple[tuple[Callable[[dict[str, Any]], Any], str], ...] = (
    (lambda found: found["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "WhitespaceSplit"}), "cuts texts"),
    (lambda found: found.update(pre_tokenizer=None), "cuts texts"),
    (lambda found: found.update(normalizer={"type": "Lowercase"}), "cuts texts"),
    (lambda found: found["model"].update(byte_fallback=True), "<0x00>"),
    (lambda found: found.update(model=WORDS, added_tokens=[]), "BPE"),
    (lambda found: found.update(post_processor=OTHER_FRAME), "around a text"),
    (lambda found: found["model"].update(merges=7), "cannot be read"),
)  # fmt: skip


def test_saved_padding_and_truncation_do_not_matter(make_model: Callable[..., Path]) -> None:
    base = make_model("llama-bpe")
    expected, document = keys_of(base), json.loads((base / "tokenizer.json").read_text())
    pad = {"direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    document["padding"] = {"strategy": {"Fixed": 1024}, **pad}
    document["truncation"] = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    (base / "tokenizer.json").write_text(json.dumps(document))
    assert keys_of(base) == expected


def test_a_large_tokenizer_is_converted(make_model: Callable[..., Path]) -> None:
    """Qwen's 151,000 tokens and as many merges, in pairs, are 600,000 values; here each merge is repeated."""
    base = make_model("qwen2")
    document = json.loads((base / "tokenizer.json").read_text())
    merges = document["model"]["merges"]
    document["model"]["merges"] = merges * (200_000 // len(merges))
    (base / "tokenizer.json").write_text(json.dumps(document))
    assert keys_of(base)["tokenizer.ggml.pre"] == "qwen2"


def test_a_tokenizer_without_a_name_in_llama_cpp_is_refused(make_model: Callable[..., Path]) -> None:
    base = make_model("smollm")
    good = (base / "tokenizer.json").read_text()
    for change, named in REFUSED:
        document = json.loads(good)
        change(document)
        (base / "tokenizer.json").write_text(json.dumps(document))
        with pytest.raises((BadInputError, FormatError), match=named):
            keys_of(base)
    (base / "tokenizer.json").write_text(good)
    with pytest.raises(BadInputError, match=r"400 .* 399"):
        tokenizer_keys(files(base), {}, VOCAB - 1)
    (base / "tokenizer.json").unlink()
    with pytest.raises(BadInputError, match=r"tokenizer\.json"):
        keys_of(base)
