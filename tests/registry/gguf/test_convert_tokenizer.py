"""The GGUF converter's tokenizers, held against an independent one."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from gguf_llama import PROSE, SPECIAL, tokenizers, vocabulary, write_gguf

from fusery.registry.gguf.convert import convert_gguf
from fusery.registry.gguf.read_tokenizer import STYLES

regex = pytest.importorskip("regex")

WORDS_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ANY_CASE = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
LLAMA_CPP_CUTS = {
    "smollm": [r"\p{N}", WORDS_GPT2],
    "starcoder": [r"\p{N}", WORDS_GPT2],
    "gpt-2": [WORDS_GPT2],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", WORDS_GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "llama-bpe": [ANY_CASE + r"\p{N}{1,3}" + TAIL],
    "qwen2": [ANY_CASE + r"\p{N}" + TAIL],
}
"""As in llama.cpp's llama-vocab.cpp; what an expression leaves between two matches is a piece of its own."""


def byte_letters() -> dict[int, str]:
    """GPT-2's table from bytes to printable letters."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def cut(text: str, expressions: list[str]) -> list[str]:
    """Cut `text` by each expression in turn, matches and what lies between them."""
    pieces = [text]
    for expression in expressions:
        finer = []
        for piece in pieces:
            end = 0
            for match in regex.finditer(expression, piece):
                finer += [piece[end : match.start()], match.group()]
                end = match.end()
            finer.append(piece[end:])
        pieces = [piece for piece in finer if piece]
    return pieces


def reference_ids(text: str, pre: str, tokens: list[str], merges: list[str], special: list[str]) -> list[int]:
    """Tokenize as llama.cpp does, in plain Python: special tokens, cuts, then the merges by rank."""
    letters = byte_letters()
    ids = {token: index for index, token in enumerate(tokens)}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    result = []
    for part in regex.split("(" + "|".join(map(regex.escape, special)) + ")", text):
        if part in special:
            result.append(ids[part])
            continue
        for piece in cut(part, LLAMA_CPP_CUTS[pre]):
            word = [letters[byte] for byte in piece.encode()]
            if pre == "llama-bpe" and "".join(word) in ids:
                word = ["".join(word)]
            while pairs := [(ranks[p], n) for n, p in enumerate(pairwise(word)) if p in ranks]:
                _, n = min(pairs)
                word[n : n + 2] = [word[n] + word[n + 1]]
            result += [ids[token] for token in word]
    return result


TEXTS = [
    PROSE,
    "hello world zqxj\nzqxj",
    "  leading and   inner    spaces  ",
    "1234567890 12 3.14159 2026-11-24",
    "<|im_start|>user\nWhat's 12+34?<|im_end|>\n<|im_start|>assistant\n",
    "line\n\n\n  indented\r\n\ttab \n",
    "DON'T we'll I'D they're",
    "漢字 кириллица ελληνικά עברית 🙂👩‍🚀 ½ Ⅷ ٣٤",
    "a_b->c != d && e|f ~ $5 ^ `x` <=> ++i;",
    "",
]


def test_tokenizer_does_what_llama_cpp_does(tmp_path: Path) -> None:
    tokens, merges = vocabulary()
    outcomes = set()
    for pre in sorted(STYLES):
        path = write_gguf(tmp_path / f"{pre}.gguf", metadata={"tokenizer.ggml.pre": pre})
        convert_gguf(path, tmp_path / pre)
        tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / pre / "tokenizer.json"))
        found = [tokenizer.encode(text).ids for text in TEXTS]
        for text, ids in zip(TEXTS, found, strict=True):
            assert ids == reference_ids(text, pre, tokens, merges, list(SPECIAL)), (pre, text)
            assert tokenizer.decode(ids, skip_special_tokens=False) == text
        # Only qwen2 composes accents.
        assert (tokenizer.encode("cafe\u0301").ids == tokenizer.encode("caf\u00e9").ids) is (pre == "qwen2")
        outcomes.add(str(found))
    assert len(outcomes) == len(STYLES) - 1, "`starcoder` and `smollm` are two names for one way"


def test_transformers_reads_the_same_tokenizer(tmp_path: Path) -> None:
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
