"""Secrets given to open a store appear in nothing that anybody can read: a canary is looked for in everything."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusery.cli.main import run
from fusery.storage.errors import FuseryError
from fusery.storage.interface import BlobStore
from fusery.storage.locate import open_store
from fusery.storage.remote import FsspecStore
from fusery.storage.remote_calls import RemoteCalls
from fusery.storage.secrets import redact, remember, remember_given, without_credentials, without_secrets

pytestmark = pytest.mark.timing

CANARY = "c4n4ryS3cr3tVa1u"
# Nothing listens there.
NOWHERE = "http://127.0.0.1:9"


def azure_string(**changed: str) -> str:
    parts = {
        "DefaultEndpointsProtocol": "http",
        "AccountName": "account",
        "AccountKey": CANARY,
        "BlobEndpoint": f"{NOWHERE}/account",
    }
    return ";".join(f"{key}={value}" for key, value in {**parts, **changed}.items())


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "s3": (
        "obstore",
        "s3://bucket/prefix",
        {"key": f"{CANARY}K", "secret": CANARY, "token": f"{CANARY}T", "client_kwargs": {"endpoint_url": NOWHERE}},
    ),
    "s3 with a bad endpoint": (
        "obstore",
        "s3://bucket/prefix",
        {"key": CANARY, "secret": CANARY, "client_kwargs": {"endpoint_url": f"http://{CANARY}@[bad"}},
    ),
    "gcs with an access token": ("obstore", "gs://bucket/prefix", {"token": CANARY, "endpoint_url": NOWHERE}),
    "gcs with a bad account": (
        "obstore",
        "gs://bucket/prefix",
        {"service_account_key": json.dumps({"type": "service_account", "private_key": CANARY, "client_email": "x"})},
    ),
    "azure": ("obstore", "az://container/prefix", {"connection_string": azure_string()}),
    "azure with a bad key": (
        "obstore",
        "az://container/prefix",
        {"connection_string": azure_string(AccountKey=CANARY + "!not base64")},
    ),
    "azure signed": (
        "obstore",
        "az://container/prefix",
        {"account_name": "account", "account_host": "127.0.0.1:9", "sas_token": f"sv=2024-01-01&sig={CANARY}%3D"},
    ),
    "sftp": ("sshfs", "sftp://127.0.0.1:9/srv/fusery", {"username": "u", "password": CANARY, "config": []}),
    "sftp with a bad key": (
        "sshfs",
        "sftp://127.0.0.1:9/srv/fusery",
        {"username": "u", "client_keys": [f"-----BEGIN {CANARY}-----\n{CANARY}\n"], "config": []},
    ),
}  # fmt: skip

OPERATIONS: dict[str, Callable[[BlobStore], object]] = {
    "put": lambda store: store.put_bytes(b"x"),
    "list": lambda store: list(store.blobs()),
    "identify": lambda store: store.identify(),
    "initialise": lambda store: store.initialise("registry-one"),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("case", sorted(CASES))
def test_errors_show_no_secret(
    case: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    package, url, options = CASES[case]
    pytest.importorskip(package)
    caplog.set_level(logging.DEBUG)
    failed = 0
    for operation in OPERATIONS.values():
        try:
            store = open_store(url, options=options)
            assert CANARY not in store.url + repr(store)
            if hasattr(store, "_objects"):
                store._objects.calls.deadline = 0.5
            operation(store)
        except FuseryError as error:
            failed += 1
            shown = [error.message, error.hint or "", repr(error), *traceback.format_exception(error)]
            assert CANARY not in "\n".join(shown)
    assert failed == len(OPERATIONS)
    # What was written before any option was known to be a secret: nothing.
    assert CANARY not in caplog.text
    assert CANARY not in "".join(capfd.readouterr())


COMMANDS = (["admin", "init"], ["doctor"], ["--debug", "audit"], ["admin", "gc"])


@pytest.mark.parametrize("case", ["s3", "azure", "sftp"])
def test_the_program_shows_no_secret_and_keeps_none(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package, url, options = CASES[case]
    pytest.importorskip(package)
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "home"))
    monkeypatch.setenv("FUSERY_STORE_URL", url)
    monkeypatch.setenv("FUSERY_STORE_OPTIONS", json.dumps(options))
    monkeypatch.setattr(RemoteCalls.__init__, "__defaults__", (0.5,))
    monkeypatch.setattr(FsspecStore.__init__, "__kwdefaults__", {"deadline": 0.5})
    for words in COMMANDS:
        code = run(words)
        shown = "".join(capfd.readouterr())
        assert code != 0 or words == ["doctor"], shown
        assert CANARY not in shown
        assert words[0] == "--debug" or "Traceback" not in shown
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


def test_what_libraries_log_is_rewritten(caplog: pytest.LogCaptureFixture) -> None:
    remember({"secret": CANARY, "region_name": "eu-central-1"})
    caplog.set_level(logging.DEBUG)
    logging.getLogger("botocore.auth").debug("signing with %s in %s", CANARY, "eu-central-1")
    try:
        raise ValueError(CANARY)
    except ValueError:
        logging.getLogger("fsspec.asyn").exception("failed")
    assert CANARY not in caplog.text
    assert "signing with *** in eu-central-1" in caplog.text


def test_an_exception_without_a_secret_is_kept() -> None:
    remember({"secret": CANARY})
    error = OSError("harmless")
    assert without_secrets(error) is error
    hidden = ValueError("outer")
    hidden.__cause__ = KeyError(CANARY)
    assert CANARY not in "".join(traceback.format_exception(without_secrets(hidden)))


def test_parts_of_a_connection_string_are_secrets_too() -> None:
    remember({"connection_string": "AccountName=team;AccountKey=0123456789abcdef==;X=y"})
    remember({"sas_token": "sv=1&sig=abcdefghij%2Bk"})
    assert redact("key 0123456789abcdef== of team") == "key *** of team"
    assert redact("sig abcdefghij+k abcdefghij%2Bk") == "sig *** ***"


def test_credentials_are_taken_out_of_a_document() -> None:
    url = f"https://{CANARY}@host/x?token={CANARY}&size=1"
    found = without_credentials({"urls": [url, (url,)], "text": "a@b", "size": 1, "none": None})
    assert CANARY not in str(found)
    assert found["urls"][0] == found["urls"][1][0] == "https://host/x?token=***&size=1"
    assert (found["text"], found["size"], found["none"]) == ("a@b", 1, None)


def test_a_user_of_the_web_without_a_password_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "cl13nt-s3cr3t")
    remember_given(["https://w3b-us3r@host/x", "sftp://sftp-us3r@host/x"], {}, {})
    assert redact("w3b-us3r sftp-us3r cl13nt-s3cr3t") == "*** sftp-us3r ***"
