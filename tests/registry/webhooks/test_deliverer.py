"""What the environment of whoever delivers says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusery.registry.errors import BadInputError
from fusery.registry.webhooks.signing import Deliverer, NoWebhookSecretError
from fusery.storage.errors import MissingFileError, StorageError

FIRST, SECOND = "f" * 32, "s" * 40


def load(**said: str) -> Deliverer:
    return Deliverer.load({f"FUSERY_WEBHOOK_{name.upper()}": value for name, value in said.items()})


def test_nothing_is_known_and_nothing_private_reached_by_itself() -> None:
    assert load() == load(secret="  ", private="0") == Deliverer()
    with pytest.raises(NoWebhookSecretError):
        load().require_secrets()


def test_a_secret_is_in_the_environment_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{FIRST}\n{SECOND}\n", encoding="utf-8")
    assert load(secret=FIRST).secrets == (FIRST.encode(),)
    assert load(secret_file=str(file)).secrets == (FIRST.encode(), SECOND.encode())
    assert FIRST not in repr(load(secret=FIRST))
    with pytest.raises(BadInputError):
        load(secret=FIRST, secret_file=str(file))
    with pytest.raises(StorageError):
        load(secret_file=str(tmp_path / "nowhere"))
    with pytest.raises(MissingFileError):
        load(secret_file=str(tmp_path))


@pytest.mark.parametrize("secret", ["short", f"{FIRST} short", " ".join([FIRST] * 5)])
def test_secrets_that_are_short_or_many_are_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(BadInputError) as caught:
        load(secret=secret)
    assert "short" not in caught.value.message
    assert FIRST not in caught.value.message


def test_private_networks_are_allowed_by_a_word() -> None:
    for word, private in (("1", True), ("Yes", True), ("true", True), ("no", False), ("", False)):
        assert load(private=word).private is private
    with pytest.raises(BadInputError):
        load(private="perhaps")
