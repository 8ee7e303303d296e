"""Convert the byte-level BPE tokenizer in a GGUF file's metadata to tokenizer.json and tokenizer_config.json.

GGUF names the pre-tokenizer instead of storing it.  The expressions are those of llama.cpp's src/llama-vocab.cpp, in
the form of the models' own tokenizer.json.  An unknown name is refused: a wrong guess makes a model slightly worse.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fusery.storage.errors import FormatError

from ..errors import BadInputError, MissingExtraError
from .gguf_header import Value

CONTROL, USER_DEFINED = 3, 4
ROLES = {"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "pad": "padding_token_id"}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_AFTER_DIGITS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _AFTER_DIGITS
QWEN2_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _AFTER_DIGITS
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DEFAULT_CUTS = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_WORDS, r"\p{N}+", r"[0-9][0-9][0-9]")
_FOLDER = "register the model's Hugging Face or MLX folder instead"


@dataclass(frozen=True, slots=True)
class _Style:
    """How text is cut before the merges: the expressions in turn, each cutting what the last one left."""

    cuts: tuple[str, ...] = ()
    single_digits: bool = False
    gpt2_words: bool = False
    compose: bool = False
    whole_words_first: bool = False
    begins: bool = False


# The names of `tokenizer.ggml.pre` that are known: `default` is what llama.cpp does where a file says so.
STYLES: Mapping[str, _Style] = {
    "smollm": _Style(single_digits=True, gpt2_words=True),
    "starcoder": _Style(single_digits=True, gpt2_words=True),
    "gpt-2": _Style(gpt2_words=True),
    "default": _Style(cuts=DEFAULT_CUTS),
    "llama-bpe": _Style(cuts=(LLAMA3_WORDS,), whole_words_first=True, begins=True),
    "qwen2": _Style(cuts=(QWEN2_WORDS,), compose=True),
}


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """The contents of the tokenizer files of a model's folder."""

    tokenizer: str
    config: Mapping[str, Any]
    ids: dict[str, int | list[int]]


def convert_tokenizer(metadata: Mapping[str, Value], vocab: int, context: int) -> TokenizerFiles:
    """Convert `tokenizer.*` of a GGUF file's metadata."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise BadInputError(f"type of the GGUF tokenizer: {str(kind)[:40]!r} (allowed: 'gpt2')", hint=_FOLDER)
    name = str(metadata.get("tokenizer.ggml.pre", "default"))
    style = STYLES.get(name)
    if style is None:
        allowed = ", ".join(sorted(STYLES))
        raise BadInputError(f"unknown pre-tokenizer {name[:40]!r} (allowed: {allowed})", hint=_FOLDER)
    tokens = _strings(metadata, "tokens")
    if len(tokens) != vocab or len(set(tokens)) != vocab:
        raise FormatError(f"the GGUF file has {len(set(tokens))} different tokens, and {vocab} embeddings")
    kinds = _list(metadata, "token_type", lambda item: item in range(7))
    if len(kinds) != vocab:
        raise FormatError(f"this GGUF file has {vocab} tokens and {len(kinds)} token types")
    roles = {role: _token_id(metadata, key, vocab) for role, key in ROLES.items()}
    begins = bool(metadata.get("tokenizer.ggml.add_bos_token", style.begins)) and roles["bos"] is not None
    prefix = roles["bos"] if begins else None
    text = _tokenizer_json(style, tokens, _merges(metadata, tokens), kinds, prefix)
    config: dict[str, object] = {
        "add_bos_token": begins,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": tokens[index] for role, index in roles.items() if index is not None},
    }
    if isinstance(template := metadata.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    ids: dict[str, int | list[int]] = {
        f"{role}_token_id": index for role in ("bos", "pad") if (index := roles[role]) is not None
    }
    ends = [_token_id(metadata, key, vocab) for key in ("eos_token_id", "eot_token_id", "eom_token_id")]
    if different := list(dict.fromkeys(end for end in ends if end is not None)):
        ids["eos_token_id"] = different if len(different) > 1 else different[0]
    return TokenizerFiles(text, config, ids)


def _tokenizer_json(
    style: _Style, tokens: list[str], merges: list[tuple[str, str]], kinds: list[int], prefix: int | None
) -> str:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtraError("reading a GGUF file's tokenizer", "gguf") from error
    model = tokenizers.models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        ignore_merges=style.whole_words_first,
    )
    tokenizer, cutters = tokenizers.Tokenizer(model), tokenizers.pre_tokenizers
    if style.compose:
        tokenizer.normalizer = tokenizers.normalizers.NFC()
    steps: list[Any] = [cutters.Digits(individual_digits=True)] if style.single_digits else []
    steps += [cutters.Split(tokenizers.Regex(cut), behavior="isolated") for cut in style.cuts]
    steps.append(cutters.ByteLevel(add_prefix_space=False, use_regex=style.gpt2_words))
    tokenizer.pre_tokenizer = cutters.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    if prefix is not None:
        first = tokens[prefix]
        if ":" in first or first.startswith("$"):  # They have a meaning in the template.
            raise BadInputError(f"a first token {first[:40]!r} is not converted")
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=[first, "$A"], pair=[first, "$A", f"{first}:1", "$B:1"], special_tokens=[(first, prefix)]
        )
    tokenizer.add_tokens(
        [
            tokenizers.AddedToken(token, special=kind == CONTROL, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (CONTROL, USER_DEFINED)
        ]
    )
    if tokenizer.get_vocab_size() != len(tokens):
        raise FormatError("this GGUF file's special tokens are not all in its vocabulary")
    return str(tokenizer.to_str(pretty=False))


def _list(metadata: Mapping[str, Value], key: str, is_valid: Callable[[object], bool]) -> list[Any]:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(value, list) or not all(map(is_valid, value)):
        raise FormatError(f"this GGUF file has no valid list tokenizer.ggml.{key}")
    return value


def _strings(metadata: Mapping[str, Value], key: str) -> list[str]:
    return _list(metadata, key, lambda item: isinstance(item, str) and item != "")


def _merges(metadata: Mapping[str, Value], tokens: list[str]) -> list[tuple[str, str]]:
    vocabulary = set(tokens)
    pairs = []
    for text in _strings(metadata, "merges"):
        left, _, right = text.partition(" ")
        if left not in vocabulary or right not in vocabulary or left + right not in vocabulary:
            raise FormatError(f"this GGUF file merges {text[:80]!r}, which are not tokens of its vocabulary")
        pairs.append((left, right))
    return pairs


def _token_id(metadata: Mapping[str, Value], key: str, vocab: int) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab:
        raise FormatError(f"tokenizer.ggml.{key} is {json.dumps(value)[:40]}, and not one of {vocab} tokens")
    return value
