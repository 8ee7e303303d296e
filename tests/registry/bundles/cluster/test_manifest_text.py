"""Manifests as YAML: what is written a library reads as it was meant, and so does our own reader, which takes no other form."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.bundles.cluster.manifest_text import manifest_bytes, read_manifests
from fusery.registry.bundles.layout import LayoutError

# What YAML cannot say at all is no text of a manifest: a lone surrogate.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = TEXTS | st.booleans() | st.integers(-(10**17), 10**17)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(SCALARS | st.dictionaries(TEXTS, inner, max_size=3), max_size=3)
        | st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=12,
)
DOCUMENTS = st.lists(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4), min_size=1, max_size=3)


@given(DOCUMENTS)
def test_what_is_written_is_read_again(documents: list[dict[str, Any]]) -> None:
    data = manifest_bytes(documents, "a comment")
    assert data.isascii()
    assert read_manifests(data) == documents
    assert list(yaml.safe_load_all(data)) == documents
    assert manifest_bytes(read_manifests(data), "a comment") == data


OTHER = (
    "", "a", "a: b", "a: 'b'", 'a: "b', "a: &x 1", "a: 1.5", "a: [1, 2]", "a:\n", "a:\n   b: 1", "a: 1\n  b: 2", "a: 1\na: 2",
    "- 1", "a: 1\n- 2", "a: 1\n---\n", "a: null", 'a: "ü"', "\ta: 1",
)  # fmt: skip


def test_another_form_is_none_of_ours() -> None:
    for text in OTHER:
        with pytest.raises(LayoutError):
            read_manifests(text.encode())


def test_what_no_manifest_has_is_not_written() -> None:
    for value in (None, 1.5, ("a",), [[1]]):
        with pytest.raises(TypeError):
            manifest_bytes([{"a": value}], "x")
