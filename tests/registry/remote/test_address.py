"""Tokens of servers: in the environment and in a file of the user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusery.registry.errors import BadInputError
from fusery.registry.remote import address
from fusery.registry.remote.address import ServerAddress, bearer_token, forget_token, store_token, token_for

URL, OTHER, TOKEN, SECOND = "https://a.example.org", "https://b.example.org", "fsy_" + "a" * 40, "fsy_b"


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file of tokens, not there yet; there is no keyring."""
    monkeypatch.setattr(
        "platformdirs.user_config_dir", lambda *_, **__: str(tmp_path / "settings" / "fusery")
    )
    monkeypatch.setattr(address, "_keyring", lambda: None)
    for name in ("FUSERY_TOKEN", "FUSERY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return address.tokens_file()


def test_tokens_are_stored_in_a_private_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not forget_token(URL)
    assert store_token(URL, TOKEN) == str(file)
    store_token(OTHER, SECOND)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert (token_for(URL), token_for(OTHER)) == (TOKEN, SECOND)
    monkeypatch.setenv("FUSERY_TOKEN", SECOND)
    assert token_for(URL) == SECOND
    monkeypatch.delenv("FUSERY_TOKEN")
    assert forget_token(URL) and token_for(OTHER) == SECOND
    with pytest.raises(BadInputError):
        token_for(URL)
    assert forget_token(OTHER) and not file.exists()
    with pytest.raises(BadInputError):
        store_token(URL, "two words")
    for wrong in ([], {URL: 5}):
        file.write_text(json.dumps(wrong))
        with pytest.raises(BadInputError):
            token_for(URL)


def test_tokens_of_the_environment_and_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{SECOND}\n")
    (tmp_path / "empty").write_text("\n")
    named = {"FUSERY_TOKEN_FILE": str(tmp_path / "token")}
    given = [bearer_token(each) for each in ({}, named, {**named, "FUSERY_TOKEN": f" {TOKEN} "})]
    assert given == ["", SECOND, TOKEN]
    for wrong in ({"FUSERY_TOKEN": "two words"}, {"FUSERY_TOKEN_FILE": str(tmp_path / "empty")}):
        with pytest.raises(BadInputError):
            bearer_token(wrong)
    for url, shown in (("ftp://host", True), ("ftp://ann:secret@host", False), ("ftp://host?secret", False)):
        with pytest.raises(BadInputError) as caught:
            ServerAddress.parse(url)
        assert (url in caught.value.message, "secret" in caught.value.message) == (shown, False)
    monkeypatch.setenv("FUSERY_CA_FILE", "")
    assert address.trusted_certificates()
    monkeypatch.setenv("FUSERY_CA_FILE", str(tmp_path / "missing"))
    with pytest.raises(BadInputError):
        address.trusted_certificates()
