"""Expressions are matched as Python matches them, and in bounded time whatever they are."""

from __future__ import annotations

import contextlib
import re
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.adapters.patterns import PatternError, full_match

pytestmark = pytest.mark.timing

ATOMS = st.sampled_from(
    ["a", "b", ".", r"\.", "layers", r"\d", r"\w", r"\D", r"\s", "[ab]", "[^a.]", "[0-9]", r"[\d_]", "^", "$", r"\b", "1"]
)  # fmt: skip
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "+?", "{2}", "{1,3}", "{,2}"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=6,
)
TEXTS = st.text(st.sampled_from("ab1._ layers"), max_size=12)


@given(PATTERNS, TEXTS)
def test_it_finds_what_python_finds(pattern: str, text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert full_match(pattern, text) == (re.fullmatch(pattern, text) is not None)


UNSLOTH = r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:k_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\.(?:up_proj))"


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"(.*\.)?(down_proj)", "model.layers.3.mlp.down_proj", True),
        (r"(.*\.)?(down_proj)", "model.layers.3.mlp.shutdown_proj", False),
        (r"(.*\.)?(^model\.layers\.2[0-3]\.self_attn\.q_proj)", "model.layers.21.self_attn.q_proj", True),
        (r"(.*\.)?(^layers\.2)", "model.layers.2", False),
        (UNSLOTH, "model.layers.11.mlp.up_proj", True),
    ],
)
def test_expressions_that_people_write(pattern: str, text: str, found: bool) -> None:
    assert full_match(pattern, text) is found


NESTED = ["(a+)+b", "(a|a)*b", "(((a+)+)+)+b", "a?" * 30 + "a" * 30, "(a{0,999}){0,999}b"]


@pytest.mark.parametrize("pattern", NESTED)
def test_expressions_that_hang_python_do_not_hang_this(pattern: str) -> None:
    started = time.thread_time()  # which does not go on while others have their turn
    with contextlib.suppress(PatternError):
        assert not full_match(pattern, "a" * 29 + "!")
    assert time.thread_time() - started < 20  # Python takes years


UNKNOWN = ["(", "[", "a{99999}", r"(a)\1", "(?=a)a", "(?<=a)b", "(?i)a", "(?i:a)", "(?>a)", "a++"]


@pytest.mark.parametrize(
    "pattern", [*UNKNOWN, "a" * 5000 + "+", "(" * 3000 + ")" * 3000], ids=lambda text: text[:9]
)
def test_what_is_not_matched_is_an_error(pattern: str) -> None:
    with pytest.raises(PatternError):
        full_match(pattern, "a" * 3)
