from __future__ import annotations

from pathlib import Path

import pytest

from fusery.registry.errors import BadInputError
from fusery.registry.settings import Settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "DATABASE_URL", "STORE_URL", "STORE_OPTIONS", "CACHE_DIR", "CACHE_LIMIT", "USER"):
        monkeypatch.delenv(f"FUSERY_{name}", raising=False)


def test_defaults_lie_in_the_home(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path)
    assert settings.database == f"sqlite:///{tmp_path / 'fusery.db'}"
    assert settings.store == str(tmp_path / "store")
    assert settings.cache == tmp_path / "cache"
    assert settings.origin("store_url") == "default"


def test_environment_wins_over_file_and_file_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('user = "file"\ncache_limit = 5\n', encoding="utf-8")
    monkeypatch.setenv("FUSERY_USER", "environment")
    settings = Settings.load(tmp_path)
    assert (settings.user, settings.cache_limit) == ("environment", 5)
    assert (settings.origin("user"), settings.origin("cache_limit")) == ("environment", "config.toml")


def test_home_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_HOME", str(tmp_path / "elsewhere"))
    assert Settings.load().home == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    "content", ["cache_limit = 'many'", "unknown_setting = 1", "not toml", "store_options = 3", "= ="]
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.toml").write_text(content, encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        Settings.load(tmp_path)
    assert "\n" not in caught.value.message
    assert str(tmp_path) in caught.value.message


def test_a_bad_value_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_STORE_OPTIONS", "secret-canary{")
    with pytest.raises(BadInputError) as caught:
        Settings.load(tmp_path)
    assert "secret-canary" not in str(caught.value) + str(caught.value.hint)
