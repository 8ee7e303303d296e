"""`fusery login`, and commands on a server's registry with the token that it stored."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import printed_documents
import pytest
import tiny_models
from fixture_types import Fusery
from page_server import pages_of

from fusery.registry import Registry
from fusery.registry.remote.address import tokens_file
from fusery.web.auth import Proxies, TokenAuth

from .conftest import Ran

pytestmark = pytest.mark.timing


class Kept:
    """A keyring in memory."""

    def __init__(self) -> None:
        self.passwords: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.passwords.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.passwords[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.passwords[service, username]


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platformdirs.user_config_dir", lambda *_, **__: str(tmp_path / "config"))
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cached"))
    monkeypatch.setattr("fusery.registry.remote.address._keyring", lambda: None)


@pytest.fixture
def team(stocked: Fusery, tmp_path: Path) -> Iterator[tuple[str, Registry]]:
    with (
        Registry.open(tmp_path / "home") as registry,
        pages_of(registry, TokenAuth(registry, Proxies())) as url,
    ):
        yield url, registry


def log_in(fusery: Fusery, monkeypatch: pytest.MonkeyPatch, url: str, token: str, *words: str) -> Ran:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{token}\n"))
    return fusery("login", url, *words)


def test_a_token_is_stored_for_its_user_alone(
    stocked: Fusery, team: tuple[str, Registry], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, registry = team
    secret = registry.tokens.create("ann", "publisher").secret
    shown = log_in(stocked, monkeypatch, url, secret)
    assert "as ann, publisher, valid until 2" in shown.out
    assert str(tokens_file()) in shown.err and f"fusery --registry {url} list" in shown.err
    assert [stocked("login", url, "--remove").out[:7] for _ in range(2)] == ["Removed", "Token n"]
    without = stocked("--registry", url, "list", "--json")
    assert (without.code, without.json["error"]["code"]) == (2, "bad_input")
    done = log_in(stocked, monkeypatch, url, secret, "--json")
    printed_documents.require("login", done.json)
    assert (done.json["name"], done.json["role"], done.json["stored"]) == ("ann", "publisher", True)
    assert secret not in done.out + done.err
    assert stat.S_IMODE(tokens_file().stat().st_mode) == 0o600
    assert stocked("--registry", url, "list", "-q").out == stocked("list", "-q").out
    pulled = stocked("--registry", tmp_path / "other", "pull", "course_rec@1", "--from", url, "-q")
    assert pulled.code == 0, pulled.err
    assert stocked("--registry", url, "edit", "course_rec@1", "--note", "read", "-q").code == 0
    assert registry.adapters.show("course_rec@1").note == "read"
    for guarded in (False, True):
        registry.aliases.set_rules("prod", {}, guarded=guarded)
        promoted = stocked("--registry", url, "promote", "course_rec@1", "prod", "--json")
        assert promoted.code == 2 * guarded
        assert stocked("--registry", url, "alias", "set", "course_rec@1", "prod").code == 2 * guarded
    assert promoted.json["error"]["code"] == "role_not_enough"
    removed = stocked("login", url, "--remove", "--json")
    assert (removed.json["stored"], tokens_file().exists()) == (False, False)
    assert stocked("--registry", url, "list").code == 2


def test_a_keyring_is_taken_where_there_is_one(
    stocked: Fusery, team: tuple[str, Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, registry = team
    kept = Kept()
    monkeypatch.setattr("fusery.registry.remote.address._keyring", lambda: kept)
    secret = registry.tokens.create("ann", "reader").secret
    assert log_in(stocked, monkeypatch, url, secret, "-q").code == 0
    assert kept.passwords == {("fusery", url): secret}
    assert not tokens_file().exists()
    assert stocked("--registry", url, "list").code == 0
    monkeypatch.setenv("FUSERY_TOKEN", "fusery_" + "A" * 43)
    assert stocked("--registry", url, "list").code == 2
    monkeypatch.delenv("FUSERY_TOKEN")
    assert stocked("login", url, "--remove", "-q").code == 0
    assert kept.passwords == {}


def test_what_a_server_does_not_take_is_not_stored(
    stocked: Fusery, team: tuple[str, Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = team
    for token, code in (
        ("fusery_" + "A" * 43, "server_refused"),
        ("two words", "bad_input"),
        ("", "bad_input"),
    ):
        ran = log_in(stocked, monkeypatch, url, token, "--json")
        assert (ran.code, ran.json["error"]["code"]) == (2, code), token
    away = log_in(stocked, monkeypatch, "http://127.0.0.1:9", "fusery_" + "A" * 43, "--json")
    assert (away.code, away.json["error"]["code"]) == (2, "server_unavailable")
    for address in ("http://example.org", "ftp://example.org", "https://ann:hunter-2-hunter@example.org"):
        ran = log_in(stocked, monkeypatch, address, "fusery_" + "A" * 43)
        assert (ran.code, "hunter-2" in ran.err) == (2, False), address
    assert not tokens_file().exists()
    tokens_file().parent.mkdir(parents=True, exist_ok=True)
    tokens_file().write_text("[1]")
    assert stocked("--registry", url, "list", "--json").json["error"]["code"] == "bad_input"


@pytest.mark.slow
@pytest.mark.timing
def test_many_at_once_get_one_version_each(
    stocked: Fusery, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a declared version, a client that loses the race for one takes the next."""
    folders = [
        tiny_models.make_adapter(tmp_path / str(seed), tiny_base, seed=seed, rank=4) for seed in (30, 31, 32)
    ]
    with Registry.open(tmp_path / "home") as there:
        monkeypatch.setenv("FUSERY_TOKEN", there.tokens.create("ci", "publisher").secret)
        with pages_of(there, TokenAuth(there, Proxies())) as url, Registry.open(url) as own:

            def register(folder: Path) -> int:
                return own.adapters.register(folder, base="tiny", task="new").version

            with ThreadPoolExecutor(len(folders)) as pool:
                assert sorted(pool.map(register, folders)) == [1, 2, 3]
        assert there.upkeep.audit().ok
