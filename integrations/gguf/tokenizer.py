"""A tokenizer as GGUF's keys, which are read back and must encode a text as tokenizer.json does: a wrong name is no error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from fusery.registry.adapters.tokenizer_files import MOST_VALUES
from fusery.registry.models.gguf_tokenizer import CONTROL, STYLES, USER_DEFINED, convert_tokenizer
from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import read_object

from .family import Value, refusal

NORMAL, UNUSED = 1, 5  # Kinds of tokens (`gguf.TokenType`), besides those of `read_tokenizer`
_PROBE = (
    "Hello, world!  It's 2026-11-25, 12:34:56; don't  'LL  we'd?\n\n\tdef f(x):\n        return x**2 # 1234567\r\n"
    "  Grüße aus Köln — “quoted”… naïve café Å\u030a e\u0301 ﬁ 世界、こんにちは。한국어 Привет, мир! שלום مرحبا नमस्ते ไทย "
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 x=-3.14e-10; <b>bold</b> \u00a0\u2003 ١٢٣ ½ ² ∑∫ \u0001 ʼn ǆ İ    \n \n"
)
_JSON_LIMIT = 1 << 28
# The smallest vocabulary with which a pre-tokenizer's name can be read back.
_BYTES: Mapping[str, Value] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": [chr(0x100 + byte) for byte in range(256)],
    "tokenizer.ggml.token_type": [NORMAL] * 256,
    "tokenizer.ggml.merges": [],
}


def tokenizer_keys(files: Mapping[str, Path], config: Mapping[str, Any], rows: int) -> dict[str, Value]:
    """Return `tokenizer.*` of a model."""
    from tokenizers import Tokenizer

    if "tokenizer.json" not in files:
        raise refusal("it has no tokenizer.json")
    document = read_object(files["tokenizer.json"], limit=_JSON_LIMIT, most=MOST_VALUES)
    try:
        own = Tokenizer.from_str(json.dumps(document))
    except Exception as error:  # the library raises bare ones
        raise FormatError(f"the model's tokenizer.json cannot be read: {error}") from error
    own.no_padding()
    own.no_truncation()
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise refusal("its tokenizer is not a BPE")
    tokens, kinds = _tokens(own, rows)
    merges = _merges(model)
    settings = _optional(files, "tokenizer_config.json")
    ids = {token: index for index, token in enumerate(tokens)}
    keys: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        **_roles(files, config, settings, ids),
    }
    begins, ends = _frame(own, keys)
    keys |= {"tokenizer.ggml.add_bos_token": begins, "tokenizer.ggml.add_eos_token": ends}
    if model.get("byte_fallback"):
        keys |= piece_keys(document, tokens, kinds, merges)
    else:
        if any(" " in side for pair in merges for side in pair):
            raise refusal("its tokenizer merges tokens with spaces in them")
        keys["tokenizer.ggml.merges"] = [f"{left} {right}" for left, right in merges]
        keys["tokenizer.ggml.pre"] = _name(own, keys, rows)
    if template := _template(files, settings):
        keys["tokenizer.chat_template"] = template
    return keys


def _tokens(own: Any, rows: int) -> tuple[list[str], list[int]]:
    """Return tokens and their kinds, as `get_vocab_base` of llama.cpp's conversion/base.py has them."""
    vocabulary = {index: token for token, index in own.get_vocab(with_added_tokens=True).items()}
    added = own.get_added_tokens_decoder()
    if vocabulary and max(vocabulary) >= rows:
        raise refusal(f"its tokenizer has {max(vocabulary) + 1} tokens and its embedding {rows} rows")
    tokens, kinds = [], []
    for index in range(rows):
        tokens.append(vocabulary.get(index, f"[PAD{index}]"))
        if index not in vocabulary:
            kinds.append(UNUSED)
        elif index in added:
            kinds.append(CONTROL if added[index].special else USER_DEFINED)
        else:
            kinds.append(NORMAL)
    if len(set(tokens)) != rows:
        raise refusal("its tokenizer has a token twice")
    return tokens, kinds


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise FormatError("the model's tokenizer.json has no list of merges")
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else map(str, pair)) for pair in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise FormatError("a merge of the model's tokenizer.json is not one of two tokens")
    return [(left, right) for left, right in pairs]


def _roles(
    files: Mapping[str, Path], config: Mapping[str, Any], settings: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, Value]:
    """Return the special tokens' ids: by name from tokenizer_config.json, else from generation_config.json or config.json."""
    generation = _optional(files, "generation_config.json")
    roles: dict[str, Value] = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token = settings.get(f"{role}_token")
        text = token.get("content") if isinstance(token, Mapping) else token
        number = ids.get(text) if isinstance(text, str) else None
        numbered = [_numbers(place.get(f"{role}_token_id"), len(ids)) for place in (generation, config)]
        named = [number] if number is not None else []
        named = list(dict.fromkeys([*named, *(numbered[0] or numbered[1])]))
        if named:
            roles[f"tokenizer.ggml.{key}_token_id"] = named[0]
        if role == "eos":
            # Further tokens that end an answer have two more places.
            for extra, value in zip(("eot", "eom"), named[1:], strict=False):
                roles[f"tokenizer.ggml.{extra}_token_id"] = value
    return roles


def _numbers(value: Any, count: int) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [number for number in values if type(number) is int and 0 <= number < count]


def _frame(own: Any, keys: Mapping[str, Value]) -> tuple[bool, bool]:
    """Return whether the tokenizer puts its first token before a text, and its last one after it."""
    bare, framed = (own.encode("a", add_special_tokens=special).ids for special in (False, True))
    begin, end = (keys.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos"))
    for begins, ends in product((False, True), repeat=2):
        if framed == [begin] * begins + bare + [end] * ends:
            return begins, ends
    raise refusal("its tokenizer puts other tokens around a text than its first and its last one")


def _name(own: Any, keys: Mapping[str, Value], rows: int) -> str:
    """Return llama.cpp's name of the pre-tokenizer."""
    expected = own.encode(_PROBE, add_special_tokens=False).ids
    for name in STYLES:
        if keys["tokenizer.ggml.merges"] and _pieces(_read_back(_BYTES, name, 256)) != _pieces(own):
            continue  # A tokenizer without merges is the same under any cut.
        if _read_back(keys, name, rows).encode(_PROBE, add_special_tokens=False).ids == expected:
            return name
    raise refusal("its tokenizer cuts texts in a way that is not among those known here by llama.cpp's names")


def _read_back(keys: Mapping[str, Value], name: str, rows: int) -> Any:
    from tokenizers import Tokenizer

    metadata: Any = {**keys, "tokenizer.ggml.pre": name, "tokenizer.ggml.add_bos_token": False}
    return Tokenizer.from_str(convert_tokenizer(metadata, rows, 2048).tokenizer)


def _pieces(tokenizer: Any) -> list[str] | None:
    if tokenizer.pre_tokenizer is None:
        return None
    text = _PROBE if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(_PROBE)
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def _template(files: Mapping[str, Path], settings: Mapping[str, Any]) -> str:
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].read_text(encoding="utf-8", errors="replace")
    setting = settings.get("chat_template")
    if isinstance(setting, list):
        named = {entry.get("name"): entry.get("template") for entry in setting if isinstance(entry, Mapping)}
        setting = named.get("default")
    # Half of a character, which JSON can hold and UTF-8 cannot, becomes an escape.
    return setting.encode("utf-8", "backslashreplace").decode() if isinstance(setting, str) else ""


def _optional(files: Mapping[str, Path], name: str) -> Mapping[str, Any]:
    return read_object(files[name], limit=_JSON_LIMIT, most=MOST_VALUES) if name in files else {}


UNKNOWN, BYTE = 2, 6  # Kinds of tokens (`gguf.TokenType`)
SPACE = "\u2581"
_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND = {"type": "Prepend", "prepend": SPACE}


def piece_keys(
    document: Mapping[str, Any],
    tokens: Sequence[str],
    kinds: Sequence[int],
    merges: Sequence[tuple[str, str]],
) -> dict[str, Value]:
    """Return `tokenizer.ggml.*` of a tokenizer with byte fallback, as far as it differs from others."""
    model = document["model"]
    for setting in ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "ignore_merges"):
        if model.get(setting):
            raise refusal(f"its tokenizer has the setting {setting}")
    if missing := _BYTE_TOKENS - set(tokens):
        raise refusal(f"its tokenizer falls back to bytes and has no {min(missing)}")
    ranks = _ranks(merges)
    _require_complete(model["vocab"], merges)
    unknown = model.get("unk_token")
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [float(-ranks.get(token, len(ranks))) for token in tokens],
        "tokenizer.ggml.token_type": [
            BYTE if token in _BYTE_TOKENS else UNKNOWN if token == unknown else kind
            for token, kind in zip(tokens, kinds, strict=True)
        ],
        "tokenizer.ggml.add_space_prefix": _prefixed(document),
    }


def _ranks(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the place of each token in the order in which tokens are merged."""
    ranks: dict[str, int] = {}
    last = None
    for left, right in merges:
        token = left + right
        if token != last and token in ranks:
            raise refusal("its tokenizer's merges are not in the order of the tokens that they make")
        ranks.setdefault(token, len(ranks))
        last = token
    return ranks


def _require_complete(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
    merge_pairs = set(merges)
    for token in vocab:
        if token.startswith("<") and token.endswith(">"):  # bytes and special tokens
            continue
        for place in range(1, len(token)):
            pair = (token[:place], token[place:])
            if pair[0] in vocab and pair[1] in vocab and pair not in merge_pairs:
                raise refusal(f"llama.cpp would merge {pair[0]!r} and {pair[1]!r}, unlike its tokenizer")


def _prefixed(document: Mapping[str, Any]) -> bool:
    """Return whether a text, and each part between special tokens, gets a space before it."""
    normalizer, cut = document.get("normalizer") or {}, document.get("pre_tokenizer")
    steps = normalizer.get("normalizers", [normalizer])
    if cut is None and steps in ([_PREPEND, _REPLACE], [_REPLACE]):
        return len(steps) == 2
    plain = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
    if not normalizer and cut == plain:
        return False
    raise refusal("its tokenizer puts spaces before texts in a way that llama.cpp does not have")
