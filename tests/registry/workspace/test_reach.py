"""Settings that a home folder's `config.toml` may hold, by the owner of the folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fusery.registry.errors import BadInputError
from fusery.registry.workspace.reach import options_of, require_folders
from fusery.registry.workspace.settings import Settings
from fusery.storage.layout import FORMAT_NAME

OUTWARD = {
    "database_url": 'database_url = "postgresql://ann:secret-canary@evil.example/x"',
    "store_url": 'store_url = "s3://bucket/x"',
    "store_options": 'store_options = { endpoint_url = "http://secret-canary.example" }',
    "cache_dir": 'cache_dir = "../cache"',
    "card": 'card = "/etc/passwd"',
}
INWARD = 'store_url = "blobs"\ncache_dir = "warm"\ndatabase_url = "sqlite:///sub/f.db"\ncard = "card.j2"\nuser = "ann"\n'
STARTING = {
    "proxy_command": '{ proxy_command = "touch /tmp/secret-canary" }',
    "config": '{ config = ["/tmp/ssh_config"] }',
    "pkcs11_provider": '{ PKCS11_Provider = "/tmp/evil.so" }',
    "send_env": '{ send_env = ["AWS_SECRET_ACCESS_KEY"] }',
    "agent_path": '{ inner = [ { agent_path = "/tmp/agent" } ] }',
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "DATABASE_URL", "STORE_URL", "STORE_OPTIONS", "CACHE_DIR", "CARD", "USER"):
        monkeypatch.delenv(f"FUSERY_{name}", raising=False)


def write(home: Path, text: str) -> Path:
    home.mkdir(exist_ok=True, mode=0o755)
    path = home / "config.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return path


def refused(home: Path | None, said: str) -> BadInputError:
    with pytest.raises(BadInputError, match=said) as caught:
        Settings.load(home)
    assert "secret-canary" not in caught.value.message + str(caught.value.hint)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("name", OUTWARD)
def test_a_folder_that_is_only_named_does_not_lead_out_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    home = tmp_path / "home"
    write(home, OUTWARD[name])
    assert name in refused(home, "in your own home only").message
    monkeypatch.setenv("FUSERY_REGISTRY", str(home))
    assert getattr(Settings.load(), name)
    assert getattr(Settings.load(home), name), "the same folder, named twice"


@pytest.mark.parametrize("name", ["database_url", "store_url"])
def test_what_the_environment_says_instead_makes_it_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write(tmp_path / "home", OUTWARD[name])
    monkeypatch.setenv(f"FUSERY_{name.upper()}", f"{'sqlite:///' if 'data' in name else ''}{tmp_path}/own")
    assert str(tmp_path / "own") in getattr(Settings.load(tmp_path / "home"), name)


def test_settings_that_stay_inside_count_anywhere(tmp_path: Path) -> None:
    write(tmp_path / "home", INWARD)
    settings = Settings.load(tmp_path / "home")
    assert (settings.user, settings.store) == ("ann", str(tmp_path / "home" / "blobs"))
    (tmp_path / "home" / "blobs").symlink_to(tmp_path)  # leads out
    refused(tmp_path / "home", "store_url")


@pytest.mark.parametrize("name", STARTING)
def test_no_file_starts_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write(tmp_path / "home", f'store_url = "sftp://host/folder"\nstore_options = {STARTING[name]}')
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "home"))
    assert name in refused(None, "start a program").message
    monkeypatch.setenv("FUSERY_STORE_OPTIONS", '{"proxy_command": "nc %h %p"}')
    assert Settings.load().store_options == {"proxy_command": "nc %h %p"}


@pytest.mark.parametrize("part", ["", "config.toml"])
def test_a_home_of_others_counts_as_nobody_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("FUSERY_REGISTRY", str(home))
    for mode in (0o777, 0o757):
        write(home, OUTWARD["store_url"])
        (home / part).chmod(mode)
        assert "chmod go-w" in str(refused(None, "others can write").hint)
        write(home, INWARD)
        assert Settings.load().user == "ann"
        home.chmod(0o755)
    path = write(home, OUTWARD["store_url"])
    (home / part).chmod(0o775)
    assert Settings.load().store_url, "a group of one's own is nobody else"
    if os.getuid() == 0:  # only root can give a file away
        os.chown(home / part, -1, 12345)
        refused(None, "others can write")
        (home / part).chmod(0o755)
        os.chown(path, 12345, 12345)
        refused(None, "others can write")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    (folder / "store" / "blobs" / "sha256" / "ab").mkdir(parents=True)
    (folder / "store" / "tmp").mkdir()
    return folder


def link(*parts: str) -> Callable[[Path], None]:
    """Return a function that makes a part of a home a link out of it."""

    def spoil(home: Path) -> None:
        place = home.joinpath("store", *parts)
        if place.is_dir():
            place.rename(home.parent / "moved")
        place.symlink_to(home.parent)

    return spoil


@pytest.mark.parametrize("parts", [(), (FORMAT_NAME,), ("tmp",), ("blobs",), ("blobs", "sha256", "ab")])
def test_links_are_refused(parts: tuple[str, ...], home: Path) -> None:
    require_folders(home / "store")
    link(*parts)(home)
    with pytest.raises(BadInputError):
        require_folders(home / "store")


def test_options_are_a_json_object() -> None:
    assert (options_of(None), options_of('{"profile": "team"}')) == ({}, {"profile": "team"})
    for text in ("[]", "{", "[" * 5000):
        with pytest.raises(BadInputError):
            options_of(text)
