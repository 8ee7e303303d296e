"""The names in a store: made of digests only, and read back exactly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusery.storage.digest import Digest
from fusery.storage.layout import (
    MAX_GENERATION,
    blob_name,
    format_document,
    parse_blob_name,
    parse_format,
)

digests = st.text("0123456789abcdef", min_size=64, max_size=64).map(Digest)
generations = st.integers(0, MAX_GENERATION)


@given(digests, generations)
def test_a_name_is_read_back(digest: Digest, generation: int) -> None:
    assert parse_blob_name(blob_name(digest, generation)) == (digest, generation)


@given(st.text("0123456789abcdefgAB./\n", max_size=90), digests, generations)
def test_whatever_is_read_is_a_name_we_make(text: str, digest: Digest, generation: int) -> None:
    for name in (
        text,
        f"blobs/sha256/{text}",
        blob_name(digest, generation) + text,
        text + blob_name(digest),
    ):
        parsed = parse_blob_name(name)
        assert parsed is None or blob_name(*parsed) == name


@given(st.from_regex(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}", fullmatch=True))
def test_a_store_id_is_read_back(store_id: str) -> None:
    assert parse_format(format_document(store_id), "here") == store_id
