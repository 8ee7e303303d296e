"""A package in a store: its contents, its members, and what is refused of those that were changed."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from package_files import change_contents, change_member, member_path

from fusery.registry.remote import container
from fusery.registry.remote.container import Amount, BackupError, Container, Contents, Position
from fusery.storage.errors import OutOfSpaceError
from fusery.storage.local import LocalStore

NAME, LINES = "documents/base.ndjson", [{"name": "tiny"}, {"name": "ä", "size": 2}]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder of a package with two members, made by hand."""
    store, made = LocalStore(tmp_path / "package"), tmp_path / "made"
    store.initialise("of-a-test")
    rows = container.write_member(made, "rows/blob.ndjson", [], {"digest": "text"})
    members = (container.write_member(made, NAME, LINES), rows)
    last = Position(1, "0" * 64)
    contents = Contents("registry-1", "2026-01-05T00:00:00+00:00", "tester", last, Amount(0, 0), members)
    assert Contents.read(store) is None
    with pytest.raises(BackupError):
        Container(store, tmp_path)
    container.store_members(store, made, contents)
    contents.publish(store)
    assert Contents.read(store) == contents
    return store.root


def read(package: Path, **options: Any) -> list[Any]:
    """Return all lines of a package's documents."""
    folder = package.parent / "read"
    folder.mkdir(exist_ok=True)
    opened = Container(LocalStore(package), folder, **options)
    members = opened.contents.within("documents")
    assert opened.need(members, 5).sizes == [*(member.size for member in members), 5]
    opened.fetch(members)
    return [line for member in members for line in opened.lines(member)]


def test_members_come_back(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = Contents.read(LocalStore(package))
    assert contents is not None
    facts = [(member.stem, member.lines, member.columns) for member in contents.members]
    assert facts == [("base", 2, {}), ("blob", 0, {"digest": "text"})]
    assert read(package) == read(package, contents=contents) == [(1, LINES[0]), (2, LINES[1])]
    longest = len(member_path(package, NAME).read_bytes().splitlines(keepends=True)[1])
    for limit, error in ((longest, False), (longest - 2, True)):
        monkeypatch.setattr(container, "_LINE_BYTES", limit)
        if error:
            with pytest.raises(BackupError):
                read(package)
        else:
            assert len(read(package)) == 2
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=1 << 30))
    with pytest.raises(OutOfSpaceError):
        read(package)


def test_invalid_contents_are_refused(package: Path) -> None:
    file, most = package / "package.json", container.MOST_BLOBS
    good = file.read_bytes()
    contents: list[dict[str, Any]] = [
        {"format": "fusery.package.v1"}, {"made_at": 5}, {"schema": "0000"}, {"registry": ""},
        *({"blobs": {"count": count, "bytes": 0}} for count in (-1, most + 1)),
        *({"blobs": {"count": 0, "bytes": size}} for size in (-1, 2**63)),
    ]  # fmt: skip
    members = [
        {"name": "rows/blob.ndjson"}, {"name": "rows/../x.ndjson"}, {"lines": -1}, {"size": 2**63},
        {"columns": {"a b": "text"}},
    ]  # fmt: skip
    for values, is_member in [*((each, False) for each in contents), *((each, True) for each in members)]:
        change_contents(package, lambda it: (it["members"][0] if is_member else it).update(values))  # noqa: B023
        with pytest.raises(BackupError):
            Contents.read(LocalStore(package))
        file.write_bytes(good)
    largest = {"count": most, "bytes": 2**63 - 1}
    change_contents(package, lambda document: document.update(blobs=largest, schema="0001"))
    assert Contents.read(LocalStore(package)) is not None
    file.write_bytes(file.read_bytes().replace(b"tester", b"eve"))
    with pytest.raises(BackupError) as caught:
        Contents.read(LocalStore(package))
    assert "edited" in caught.value.message


def test_invalid_members_are_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MOST_VALUES", 5)
    path = member_path(package, NAME)
    for changed in (b"{", b"[]\n", b'{"a": 1}\n{"a": [1,2,3]}\n'):
        assert len(read(package)) == 2
        file = (package / "package.json").read_bytes()
        change_member(package, NAME, lambda _: changed)  # noqa: B023
        with pytest.raises(BackupError) as caught:
            read(package)
        assert NAME in caught.value.message
        if changed.endswith(b"}\n"):
            assert len(read(package, own=True)) == 2  # the limit is not for one's own
        (package / "package.json").write_bytes(file)
    for lines in (1, 3, 2):
        change_contents(package, lambda document: document["members"][0].update(lines=lines))  # noqa: B023
        if lines != 2:
            with pytest.raises(BackupError):
                read(package)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"tiny", b"tiNy"))
    for gone in (False, True):
        if gone:
            path.unlink()
        with pytest.raises(BackupError) as caught:
            read(package)
        assert NAME in caught.value.message
