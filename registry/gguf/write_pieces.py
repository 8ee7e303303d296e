"""A tokenizer that was SentencePiece's, as Llama 2's and Mistral's are: GGUF's kind `llama`, which merges by scores.

A tokenizer.json has ranked merges and no scores.  llama.cpp merges any two neighbours that make a token, the token with the
best score first, then the leftmost (src/llama-vocab.cpp, `llm_tokenizer_spm_session`).  That gives the same tokens as the
ranked merges if each token's merges follow one another in the ranking and no possible merge is missing; then the scores are
the ranks, and else it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import BadInputError
from .write_container import Value

UNKNOWN, BYTE = 2, 6
"""Kinds of tokens (`gguf.TokenType`)."""

SPACE = "\u2581"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND = {"type": "Prepend", "prepend": SPACE}


def piece_keys(
    document: Mapping[str, Any],
    tokens: Sequence[str],
    kinds: Sequence[int],
    merges: Sequence[tuple[str, str]],
) -> dict[str, Value]:
    """Return `tokenizer.ggml.*` of a tokenizer with byte fallback, as far as it differs from others.

    Args:
        document: tokenizer.json.
        tokens: by number.
        kinds: of each.
        merges: in their order.

    Raises:
        BadInputError: llama.cpp would cut texts differently.
    """
    model = document["model"]
    for setting in ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "ignore_merges"):
        if model.get(setting):
            raise _refusal(f"its tokenizer has the setting {setting}")
    if missing := set(_BYTES) - set(tokens):
        raise _refusal(f"its tokenizer falls back to bytes and has no {min(missing)}")
    ranks = _ranks(merges)
    _require_complete(model["vocab"], merges)
    unknown = model.get("unk_token")
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [float(-ranks.get(token, len(ranks))) for token in tokens],
        "tokenizer.ggml.token_type": [
            BYTE if token in _BYTES_SET else UNKNOWN if token == unknown else kind
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
            raise _refusal("its tokenizer's merges are not in the order of the tokens that they make")
        ranks.setdefault(token, len(ranks))
        last = token
    return ranks


def _require_complete(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
    known = set(merges)
    for token in vocab:
        if token in _BYTES_SET or (token.startswith("<") and token.endswith(">")):
            continue
        for place in range(1, len(token)):
            pair = (token[:place], token[place:])
            if pair[0] in vocab and pair[1] in vocab and pair not in known:
                raise _refusal(
                    f"its tokenizer makes no {token!r} of {pair[0]!r} and {pair[1]!r}, as llama.cpp would"
                )


def _prefixed(document: Mapping[str, Any]) -> bool:
    """Tell whether a text, and each part between special tokens, gets a space before it.

    The third way, a space before the first part only or only where there is none, llama.cpp does not have.
    """
    normalizer, cut = document.get("normalizer"), document.get("pre_tokenizer")
    steps = (
        normalizer.get("normalizers") if normalizer and normalizer.get("type") == "Sequence" else [normalizer]
    )
    if cut is None and steps in ([_PREPEND, _REPLACE], [_REPLACE]):
        return len(steps) == 2
    plain = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": False}
    if normalizer is None and cut == plain:
        return False
    raise _refusal("its tokenizer puts spaces before texts in a way that llama.cpp does not have")


def _refusal(why: str) -> BadInputError:
    return BadInputError(f"the model is not written as GGUF: {why}")


_BYTES_SET = frozenset(_BYTES)
