from __future__ import annotations

import getpass
import os
from pathlib import Path

import pytest

from fusery.registry.errors import BadInputError
from fusery.registry.settings.settings import Settings


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


def test_a_relative_path_of_the_file_starts_at_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    text = 'store_url = "blobs"\ncache_dir = "../cache"\ndatabase_url = "sqlite:///sub/f.db?timeout=5"\n'
    (home / "config.toml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("FUSERY_HOME", str(home))
    monkeypatch.chdir(elsewhere)
    settings = Settings.load(home)
    assert settings.store == str(home / "blobs")
    assert settings.cache == home / ".." / "cache"
    assert settings.database == f"sqlite:///{home}/sub/f.db?timeout=5"


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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("store_url", "s3://bucket/prefix"),
        ("store_url", "file:///srv/blobs"),
        ("store_url", "/srv/blobs"),
        ("database_url", "sqlite:////srv/f.db"),
        ("database_url", "sqlite:///:memory:"),
        ("database_url", "postgresql://host/fusery"),
    ],
)
def test_what_is_no_relative_path_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: str
) -> None:
    monkeypatch.setenv("FUSERY_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text(f'{field} = "{value}"', encoding="utf-8")
    assert getattr(Settings.load(tmp_path), field) == value


@pytest.mark.parametrize("field", ["CACHE_DIR", "STORE_OPTIONS", "CACHE_LIMIT", "STORE_URL", "USER"])
def test_an_empty_variable_counts_as_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    expected = Settings.load(tmp_path)
    monkeypatch.setenv(f"FUSERY_{field}", "")
    settings = Settings.load(tmp_path)
    assert settings == expected
    assert settings.cache == tmp_path / "cache"
    assert settings.origin(field.lower()) == "default"


@pytest.mark.parametrize(
    ("field", "value"),
    [("CACHE_LIMIT", "-1"), ("STORE_OPTIONS", "{"), ("USER", "u" * 201), ("USER", "\udcff")],
)
def test_a_bad_value_of_the_environment_is_named_by_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: str
) -> None:
    monkeypatch.setenv(f"FUSERY_{field}", value)
    with pytest.raises(BadInputError, match=f"acceptable: {field.lower()}: "):
        Settings.load(tmp_path)


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert Settings.load(tmp_path).actor.startswith(f"uid-{os.getuid()} (")


def test_an_empty_cache_dir_in_the_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('cache_dir = ""', encoding="utf-8")
    assert Settings.load(tmp_path).cache == tmp_path / "cache"


@pytest.mark.parametrize("field", ["HOME", "CACHE_DIR", "STORE_URL"])
def test_a_user_without_a_home_folder_is_a_sentence(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    monkeypatch.setenv(f"FUSERY_{field}", "~no-such-user-4242/x")
    with pytest.raises(BadInputError, match="without a home folder"):
        Settings.load()


def test_severities_of_the_file_and_of_the_environment_count_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('[admission.severity]\na = "off"\nb = "off"\n', encoding="utf-8")
    monkeypatch.setenv("FUSERY_ADMISSION", '{"severity": {"b": "error"}}')
    assert Settings.load(tmp_path).severities == {"a": "off", "b": "error"}


def test_what_the_environment_overrides_need_not_be_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('CACHE_LIMIT = "bad"\nuser = "file"\n', encoding="utf-8")
    monkeypatch.setenv("fusery_cache_limit", "5")
    settings = Settings.load(tmp_path)
    assert (settings.cache_limit, settings.user) == (5, "file")


@pytest.mark.parametrize(
    ("said", "bytes_"),
    [("1000.0", 1000), ("7", 7), ("0", 0), ("20GB", 20 * 10**9), ("1.5 GiB", 3 << 29), ("5k", 5000)],
)
def test_a_limit_is_a_whole_number_or_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, bytes_: int
) -> None:
    monkeypatch.setenv("FUSERY_CACHE_LIMIT", said)
    assert Settings.load(tmp_path).cache_limit == bytes_


@pytest.mark.parametrize(
    "said", ["٣", "1.5", "-1", "true", "9" * 400, "9" * 5000, "1_0", "GB", "20 bits", "1e3MB"]
)
def test_what_is_no_limit_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("FUSERY_CACHE_LIMIT", said)
    with pytest.raises(BadInputError, match="cache_limit: it should be a whole number of bytes"):
        Settings.load(tmp_path)


def test_a_path_need_not_be_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_CACHE_DIR", os.fsdecode(bytes(tmp_path) + b"/\xff"))
    assert bytes(Settings.load(tmp_path).cache).endswith(b"/\xff")


@pytest.mark.parametrize("kind", ["folder", "loop", "fifo", "huge"])
def test_what_is_no_file_of_settings_is_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.toml"
    match kind:
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "fifo":
            os.mkfifo(path)
        case "huge":
            path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(BadInputError, match=r"config\.toml is "):
        Settings.load(tmp_path)


def test_a_number_with_thousands_of_digits_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f"cache_limit = {'9' * 5000}\n", encoding="utf-8")
    with pytest.raises(BadInputError, match="is not TOML that can be read"):
        Settings.load(tmp_path)
