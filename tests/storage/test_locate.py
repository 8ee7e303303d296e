"""Opening stores by URL, and what a URL may not hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusery.storage.digest import Digest
from fusery.storage.errors import StorageError
from fusery.storage.layout import MAX_GENERATION, blob_name, format_document, parse_blob_name, parse_format
from fusery.storage.local import LocalStore
from fusery.storage.locate import PROTOCOLS, StoreUrlError, display_url, open_store, same_server
from fusery.storage.remote import FsspecStore

SECRET = "hunter2-AKIDEXAMPLE"


@pytest.mark.parametrize("form", ["{path}", "file://{path}", "file://localhost{path}", "FILE://{path}"])
def test_a_path_and_a_file_url_open_a_folder(tmp_path: Path, form: str) -> None:
    store = open_store(form.format(path=tmp_path))
    assert isinstance(store, LocalStore)
    assert store.root == tmp_path.resolve()


@pytest.mark.parametrize("name", ["with space", "50% off", "a?b#c", "ümläut", "-dash"])
def test_the_url_of_a_local_store_opens_it_again(tmp_path: Path, name: str) -> None:
    store = open_store(str(tmp_path / name))
    blob = store.put_bytes(b"x")
    assert open_store(store.url).size(blob.digest) == 1
    assert display_url(store.url) == str(tmp_path.resolve() / name)


def test_each_store_has_a_file_system_of_its_own() -> None:
    pytest.importorskip("obstore")
    options = {"key": "a", "secret": SECRET}
    store = open_store("s3://bucket/some/prefix", options=options)
    assert store.url == "s3://bucket/some/prefix"
    assert isinstance(store, FsspecStore)
    assert store._fs is not open_store("s3://bucket/some/prefix", options=options)._fs  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://example.org/store",
        "simplecache::s3://bucket/x",
        "/tmp/a::b",
        "python://x",
        "sftp://host",
        "s3://",
        "s3:///no/bucket",
        "s3://bucket//x",
        "s3://bucket/../other",
        "s3://bucket/a b",
        "s3://bucket/%2e%2e",
        "s3://bucket/\x00",
        "s3://bucket\\x",
        "memory://",
        "file://host/share",
        "/tmp/\x1b[31m",
    ],
)
def test_a_url_that_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(StoreUrlError) as caught:
        open_store(url)
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKID:{SECRET}@bucket/prefix",
        f"s3://{SECRET}@bucket/prefix",
        f"s3://bucket/prefix?X-Amz-Signature={SECRET}",
        f"s3://bucket/prefix#{SECRET}",
        f"abfs://container@{SECRET}.dfs.core.windows.net/x",
        f"memory://x:{SECRET}@y",
        f"https://user:{SECRET}@host/x",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(StoreUrlError) as caught:
        open_store(url)
    assert SECRET not in f"{caught.value.message} {caught.value.hint} {caught.value!r}"
    assert SECRET not in display_url(url).replace(f"{SECRET}.dfs.core.windows.net", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://key:secret@bucket/prefix?sig=1#x", "s3://bucket/prefix"),
        ("file:///a%20b", "/a b"),
        ("s3://bucket/p@ss@word", "s3://bucket/word"),
        ("s3://a@b@bucket", "s3://bucket"),
    ],
)
def test_urls_as_people_see_them(url: str, shown: str) -> None:
    assert display_url(url) == shown


@given(st.text(max_size=60))
def test_no_text_opens_anything_but_a_store_or_a_refusal(text: str) -> None:
    try:
        store = open_store(f"s3:/{text}" if text.startswith("/") else f"memory://{text}")
    except StorageError:
        return
    assert store.url.startswith(("memory://", "s3://", "file://"))
    assert ".." not in store.url.split("/")


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "sftp"])
def test_a_missing_package_is_named_with_its_command(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = PROTOCOLS[scheme]
    for name in [*sys.modules, protocol.package]:
        if f"{name}.".startswith(f"{protocol.package}."):
            monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("fusery.storage.cloud")]:
        monkeypatch.delitem(sys.modules, name)
    known = sys.modules["fsspec.registry"]._registry
    for name in list(known):
        monkeypatch.delitem(known, name)
    with pytest.raises(StorageError) as caught:
        open_store(f"{scheme}://bucket/prefix")
    assert protocol.package in caught.value.message
    assert caught.value.hint == f"run: {protocol.install}"


@pytest.mark.timing
def test_a_local_store_loads_no_file_system_library() -> None:
    code = (
        "import sys; from fusery.storage.locate import open_store; open_store('/nowhere/store');"
        "print([m for m in ('fsspec', 'obstore', 'tenacity', 'asyncio', 'concurrent.futures') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sftp://host/a", "sftp://host/b/c", True),
        ("sftp://Host/a", "SFTP://host/b", True),
        ("sftp://host/a", "sftp://host:2222/a", False),
        ("sftp://host/a", "sftp://host.evil.example/a", False),
        ("gs://bucket/a", "gcs://other/a", True),
        ("s3://bucket/a", "gs://bucket/a", False),
        ("/a", "/a", False),
        ("ftp://host/a", "ftp://host/a", False),
    ],
)
def test_options_are_for_one_server(one: str, other: str, same: bool) -> None:
    assert same_server(one, other) is same
    assert same_server(other, one) is same


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
