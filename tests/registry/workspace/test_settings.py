from __future__ import annotations

import getpass
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fusery.registry.errors import BadInputError
from fusery.registry.workspace.homes import settings_in_file
from fusery.registry.workspace.settings import Settings


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
    (tmp_path / "config.toml").write_text('cache_dir = ""', encoding="utf-8")
    assert Settings.load(tmp_path).cache == tmp_path / "cache"


def test_environment_wins_over_file_and_file_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('user = "file"\ncache_limit = 5\n', encoding="utf-8")
    monkeypatch.setenv("FUSERY_USER", "environment")
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path))
    settings = Settings.load()
    assert settings.home == tmp_path
    assert (settings.user, settings.cache_limit) == ("environment", 5)
    assert (settings.origin("user"), settings.origin("cache_limit")) == ("environment", "config.toml")


@pytest.mark.parametrize(
    "content",
    [
        *("unknown_setting = 1", "store_options = 3", "= ="),
        f"cache_limit = {'9' * 5000}",
        f"x = {'[' * 5000 + ']' * 5000}",
    ],
    ids=lambda content: content[:20],
)
def test_an_invalid_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.toml").write_text(content, encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        Settings.load(tmp_path)
    assert "\n" not in caught.value.message
    assert str(tmp_path) in caught.value.message


def test_a_relative_path_of_the_file_starts_at_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    text = 'store_url = "blobs"\ncache_dir = "../cache"\ndatabase_url = "sqlite:///sub/f.db?timeout=5"\n'
    (home / "config.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("FUSERY_REGISTRY", str(home))
    monkeypatch.chdir(elsewhere)
    settings = Settings.load(home)
    assert settings.store == str(home / "blobs")
    assert settings.cache == home / ".." / "cache"
    assert settings.database == f"sqlite:///{home}/sub/f.db?timeout=5"
    for field, value in (
        ("store_url", "s3://bucket/prefix"),
        ("store_url", "/srv/blobs"),
        ("database_url", "sqlite:///:memory:"),
        ("database_url", "postgresql://host/fusery"),
    ):
        (home / "config.toml").write_text(f'{field} = "{value}"', encoding="utf-8")
        assert getattr(Settings.load(home), field) == value


def test_a_relative_path_of_the_environment_starts_at_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("FUSERY_STORE_URL", "blobs")
    monkeypatch.setenv("FUSERY_CACHE_DIR", "cache")
    monkeypatch.setenv("FUSERY_DATABASE_URL", "sqlite:///f.db")
    settings = Settings.load(tmp_path)
    # Once and for all: a program that changes its folder later keeps its registry.
    monkeypatch.chdir(tmp_path)
    assert settings.store == str(elsewhere / "blobs")
    assert settings.cache == elsewhere / "cache"
    assert settings.database == f"sqlite:///{elsewhere}/f.db"


def test_an_empty_variable_counts_as_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Settings.load(tmp_path)
    for field in ("CACHE_DIR", "STORE_OPTIONS", "CACHE_LIMIT", "STORE_URL", "USER"):
        monkeypatch.setenv(f"FUSERY_{field}", "")
    assert (settings := Settings.load(tmp_path)) == expected
    assert settings.origin("cache_limit") == "default"


@pytest.mark.parametrize(("field", "value"), [("STORE_OPTIONS", "canary{"), ("USER", "\udcff")])
def test_a_bad_value_of_the_environment_is_named_by_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: str
) -> None:
    monkeypatch.setenv(f"FUSERY_{field}", value)
    with pytest.raises(BadInputError, match=rf"\b{field.lower()}\b") as caught:
        Settings.load(tmp_path)
    assert "canary" not in str(caught.value) + str(caught.value.hint)


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert Settings.load(tmp_path).actor.startswith(f"uid-{os.getuid()} (")


@pytest.mark.parametrize("field", ["REGISTRY", "CACHE_DIR", "STORE_URL"])
def test_an_unknown_user_s_home_is_refused(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    monkeypatch.setenv(f"FUSERY_{field}", "~no-such-user-4242/x")
    with pytest.raises(BadInputError):
        Settings.load()


def test_severities_of_the_file_and_of_the_environment_count_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('[admission.severity]\na = "off"\nb = "off"\n', encoding="utf-8")
    monkeypatch.setenv("FUSERY_ADMISSION", '{"severity": {"b": "error"}}')
    assert Settings.load(tmp_path).severities == {"a": "off", "b": "error"}
    monkeypatch.delenv("FUSERY_ADMISSION")
    assert Settings.load(tmp_path).severities == {"a": "off", "b": "off"}


def test_what_the_environment_overrides_need_not_be_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('CACHE_LIMIT = "bad"\nuser = "file"\n', encoding="utf-8")
    monkeypatch.setenv("FUSERY_CACHE_LIMIT", "5")
    monkeypatch.setenv("FUSERY_CACHE_DIR", os.fsdecode(bytes(tmp_path) + b"/\xff"))
    settings = Settings.load(tmp_path)
    assert (settings.cache_limit, settings.user) == (5, "file")
    assert bytes(settings.cache).endswith(b"/\xff"), "a path need not be text"


def test_a_limit_is_a_whole_number_or_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"1000.0": 1000, "7": 7, "0": 0, "20GB": 20 * 10**9, "1.5 GiB": 3 << 29, "5k": 5000}
    for text, size in limits.items():
        monkeypatch.setenv("FUSERY_CACHE_LIMIT", text)
        assert Settings.load(tmp_path).cache_limit == size
    for text in ("٣", "-1", "true", "9" * 400, "9" * 5000, "1_0", "GB", "20 bits", "1e3MB"):
        monkeypatch.setenv("FUSERY_CACHE_LIMIT", text)
        with pytest.raises(BadInputError, match="cache_limit"):
            Settings.load(tmp_path)


@pytest.mark.parametrize(
    "make",
    [
        Path.mkdir,
        lambda path: path.symlink_to(path),
        os.mkfifo,
        lambda path: path.write_bytes(b"#" * (2 << 20)),
    ],
    ids=["folder", "loop", "fifo", "huge"],
)
def test_other_kinds_of_files_are_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "config.toml")
    with pytest.raises(BadInputError, match=r"config\.toml"):
        Settings.load(tmp_path)


def test_choices_and_tables_have_known_values_only(tmp_path: Path) -> None:
    def load(text: str) -> Settings:
        (tmp_path / "config.toml").write_text(text, encoding="utf-8")
        return Settings.load(tmp_path)

    assert [load(f'publish = "{value}"').publish for value in ("full", "recipe")] == ["full", "recipe"]
    assert load("[admission]").admission == {}
    assert load(f'user = "{"u" * 200}"').actor == "u" * 200
    for text in (
        'publish = "some"', '[admission]\nother = "x"', "[admission.severity]\na = 5", f'user = "{"u" * 201}"',
        "user = 5", 'store_url = "a\\u0000"', "admission = 5",
    ):  # fmt: skip
        with pytest.raises(BadInputError):
            load(text)


def test_settings_of_a_file_are_listed_without_being_checked(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    assert settings_in_file(str(tmp_path)) == {}
    path.write_text('unknown = "x"', encoding="utf-8")
    assert settings_in_file(str(tmp_path)) == {"unknown": "x"}
    path.write_text('= "canary"', encoding="utf-8")
    assert settings_in_file(str(tmp_path)) == {"store_options": ["canary"]}
    assert settings_in_file("https://models.example.org") == {}
    with pytest.raises(BadInputError):
        Settings.load(path)


def test_options_of_the_store_are_for_its_own_server(tmp_path: Path) -> None:
    options: dict[str, object] = {"profile": "team"}
    settings = Settings(home=tmp_path, store_url="s3://bucket/x", store_options=options)
    assert settings.options_at("s3://bucket/y") == options
    assert settings.options_at(str(tmp_path)) == {}
