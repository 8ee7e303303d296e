"""Who may ask: the file is followed on its own, and what it cannot say lets nobody in."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path

import pytest
from waiting import wait_until

from fusery.model_server import keys as module
from fusery.model_server.keys import Keys
from fusery.registry.runtime.document import MAX_BYTES
from fusery.registry.runtime.errors import DocumentError, Refusal

pytestmark = pytest.mark.timing


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


GOOD = f"""
[acme]
key_sha256 = ["{digest("one")}", "{digest("two")}"]
models = ["a", "gone_v3"]

[all]
key_sha256 = ["{digest("three")}"]
"""
WITHOUT_ONE = GOOD.replace(f'"{digest("one")}", ', "")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "keys.toml"
    found.write_text(GOOD)
    return found


@pytest.fixture
def keys(path: Path) -> Keys:
    return Keys(path)


def status(keys: Keys, key: str) -> int:
    try:
        keys.authenticate(f"Bearer {key}")
    except Refusal as refusal:
        return refusal.status
    return 200


def test_a_key_opens_what_is_its_tenant_s(keys: Keys) -> None:
    for key, name in (("one", "acme"), ("two", "acme"), ("three", "all")):
        access = keys.authenticate(f"Bearer {key}")
        assert access.tenant is not None
        assert access.tenant.name == access.owner == name
    wrong = ("", "Bearer", "Bearer four", "Basic one", f"Bearer {digest('one')}", "one", "Bearer \ud800")
    for header in (None, *wrong):
        with pytest.raises(Refusal) as caught:
            keys.authenticate(header)
        assert caught.value.status == 401
        assert caught.value.document["error"]["code"] == "invalid_api_key"


SPOILT = {
    "emptied": b"",
    "garbage": b"\xff\x00[acme",
    "no table": b"acme = 5",
    "a plain key": b'[acme]\nkey_sha256 = ["secret"]',
    "an unknown word": GOOD.replace("[all]", "[all]\nadmin = true").encode(),
    "a key of two": GOOD.replace(digest("three"), digest("two")).encode(),
    "a table twice": (GOOD * 2).encode(),
    "too long": GOOD.encode() + b"#" * MAX_BYTES,
}


@pytest.mark.parametrize("way", [*SPOILT, "removed", "a folder", "a pipe"])
def test_an_unusable_file_of_keys_lets_nobody_in_until_it_is_mended(
    keys: Keys, path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    access, counted = keys.authenticate("Bearer one"), list[str]()
    keys.count = counted.append
    path.unlink()
    if way == "a folder":
        path.mkdir()
    elif way == "a pipe":
        os.mkfifo(path)
    elif way != "removed":
        path.write_bytes(SPOILT[way])
    keys.look()
    before = free_descriptor()
    for _ in range(3):
        keys.look()
    assert free_descriptor() == before, "a file was left open"
    assert not keys.usable
    assert {status(keys, key) for key in ("one", "three", "four")} == {503}
    objection = keys.objection(access, "a")
    assert objection is not None
    assert objection.status == 503
    assert str(path) not in str(objection)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    with pytest.raises(DocumentError) as caught:
        Keys(path)
    assert str(path) in str(caught.value)
    assert "secret" not in caplog.text + str(caught.value)
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    path.write_text(GOOD)
    keys.look()
    assert keys.usable
    assert (status(keys, "one"), status(keys, "four")) == (200, 401)
    assert keys.objection(access, "a") is None
    assert counted == ["refused", "done"]


def free_descriptor() -> int:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    os.close(descriptor)
    return descriptor


def test_a_key_that_is_taken_back(keys: Keys, path: Path) -> None:
    one, two = keys.authenticate("Bearer one"), keys.authenticate("Bearer two")
    path.write_text(WITHOUT_ONE)
    keys.look()
    assert (status(keys, "one"), status(keys, "two")) == (401, 200)
    assert keys.objection(two, "a") is None
    objection = keys.objection(one, "a")
    assert objection is not None
    assert objection.status == 401
    path.write_text(WITHOUT_ONE + f'[new]\nkey_sha256 = ["{digest("one")}"]')
    keys.look()
    assert keys.authenticate("Bearer one").owner == "new"
    assert keys.objection(one, "a") is not None, "the key is somebody else's now"
    # The content counts, and not size and time.
    path.write_text(GOOD)
    keys.look()
    before = path.stat()
    path.write_text(GOOD.replace(digest("one"), digest("six")))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    keys.look()
    assert (status(keys, "one"), status(keys, "six")) == (401, 200)


def document(tenants: object = None, **more: object) -> str:
    given = {"key_sha256": [digest("one")], "name": "acme", "models": ["gone_v3"]}
    return json.dumps({"format": 1, "tenants": [given] if tenants is None else tenants, **more})


def test_the_keys_of_a_document_whatever_else_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    path.write_text(document())
    keys = Keys(path, document=True)
    assert status(keys, "one") == 200
    other = {"name": "other", "key_sha256": [digest("two")]}
    path.write_text(document([other], base="none", adapters=[{"name": "nowhere"}], routes=7))
    keys.look()
    assert (status(keys, "one"), status(keys, "two")) == (401, 200)
    for text in ("", "{", "[]", document([]), "{}", document([{"name": "acme"}]), document("all")):
        path.write_text(text)
        keys.look()
        assert (status(keys, "one"), status(keys, "two")) == (503, 503), text
    path.write_text(document())
    keys.look()
    assert (status(keys, "one"), status(keys, "two")) == (200, 401)


def test_a_document_without_tenants_is_open_until_it_has_some(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    path.write_text("{}")
    keys = Keys(path, document=True)
    anybody = keys.authenticate(None)
    assert (anybody.tenant, anybody.owner) == (None, "")
    path.write_text("{")  # there is nothing that could be taken back
    keys.look()
    assert keys.usable
    assert keys.objection(anybody, "a") is None
    path.write_text(document())
    keys.look()
    assert (status(keys, "one"), status(keys, "nobody")) == (200, 401)
    objection = keys.objection(anybody, "a")
    assert objection is not None
    assert objection.status == 401


def test_a_file_that_cannot_be_looked_at_any_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    reading, go_on = threading.Event(), threading.Event()

    parsed = Keys._parsed

    def hang(self: Keys, data: bytes) -> list[module.Tenant]:
        if data != GOOD.encode():
            reading.set()
            go_on.wait(60)
        return parsed(self, data)

    monkeypatch.setattr(Keys, "_parsed", hang)
    keys = Keys(path)
    keys.start()
    try:
        path.write_text(WITHOUT_ONE)
        assert reading.wait(60)
        assert status(keys, "three") == 200
        monkeypatch.setattr(module, "STALE_SECONDS", 0.0)
        assert status(keys, "three") == 503
        monkeypatch.setattr(module, "STALE_SECONDS", 60.0)
        go_on.set()
        wait_until(lambda: status(keys, "one") == 401)
    finally:
        go_on.set()
        keys.stop()


def test_an_older_reading_does_not_replace_a_newer_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on, parsed = threading.Event(), threading.Event(), Keys._parsed

    def slow_for_bad(self: Keys, data: bytes) -> list[module.Tenant]:
        if not data:
            reading.set()
            assert go_on.wait(60)
        return parsed(self, data)

    monkeypatch.setattr(Keys, "_parsed", slow_for_bad)
    keys = Keys(path)
    path.write_text("")
    older = threading.Thread(target=keys.look)
    older.start()
    assert reading.wait(60)
    path.write_text(GOOD)
    newer = threading.Thread(target=keys.look)
    newer.start()
    newer.join(0.2)  # without a lock it ends here, before the older one
    go_on.set()
    for thread in (older, newer):
        thread.join(60)
    assert keys.usable
    assert status(keys, "one") == 200
