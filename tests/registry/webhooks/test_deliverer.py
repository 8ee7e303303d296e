"""What the environment of whoever delivers says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusery.registry.errors import BadInputError
from fusery.registry.webhooks.deliverer import Deliverer, NoWebhookSecretError
from fusery.storage.errors import MissingFileError, StorageError

FIRST, SECOND = "f" * 32, "s" * 40


def load(**said: str) -> Deliverer:
    return Deliverer.load({f"FUSERY_WEBHOOK_{name.upper()}": value for name, value in said.items()})


def test_nothing_is_known_and_nothing_private_reached_by_itself() -> None:
    assert load() == load(secret="  ", private="0") == Deliverer()
    with pytest.raises(NoWebhookSecretError, match="no secret") as caught:
        load().require_secrets()
    assert "openssl rand -hex 32" in str(caught.value.hint)


def test_a_secret_is_in_the_environment_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{FIRST}\n{SECOND}\n", encoding="utf-8")
    assert load(secret=FIRST).secrets == (FIRST.encode(),)
    assert load(secret_file=str(file)).secrets == (FIRST.encode(), SECOND.encode())
    with pytest.raises(BadInputError, match="both set"):
        load(secret=FIRST, secret_file=str(file))


@pytest.mark.parametrize("secret", ["short", f"{FIRST} short", " ".join([FIRST] * 5)])
def test_secrets_that_are_short_or_many_are_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(BadInputError, match="32 characters") as caught:
        load(secret=secret)
    assert "short" not in caught.value.message
    assert FIRST not in caught.value.message


def test_a_file_that_there_is_not_or_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        load(secret_file=str(tmp_path / "nowhere"))
    with pytest.raises(MissingFileError):
        load(secret_file=str(tmp_path))


@pytest.mark.parametrize(
    ("word", "private"), [("1", True), ("Yes", True), ("true", True), ("no", False), ("", False)]
)
def test_private_networks_are_allowed_by_a_word(word: str, private: bool) -> None:
    assert load(private=word).private is private


def test_another_word_is_refused() -> None:
    with pytest.raises(BadInputError, match="neither 1 nor 0"):
        load(private="perhaps")


def test_no_secret_is_shown() -> None:
    assert FIRST not in repr(load(secret=FIRST))
