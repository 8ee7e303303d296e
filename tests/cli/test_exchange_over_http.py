"""`push` and `pull` with the URL of a server: the same output, one sentence for what is wrong, and the token nowhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery
from page_server import pages_of

from fusery.registry import Registry
from fusery.web.auth import Proxies, TokenAuth


@pytest.mark.timing
@pytest.mark.slow
def test_push_and_pull_by_command(stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Registry.open(tmp_path / "there") as there:
        there.init()
        token = there.tokens.create("ci", "publisher").secret
        (tmp_path / "token").write_text(token + "\n")
        with pages_of(there, TokenAuth(there, Proxies())) as url:
            said = []
            for words in (["push", "course_rec", "--to", url], ["pull", "course_rec", "--from", url]):
                ran = stocked(*words)
                assert (ran.code, "fusery login" in ran.err) == (2, True), ran.err
            monkeypatch.setenv("FUSERY_TOKEN_FILE", str(tmp_path / "token"))
            told = stocked("push", "course_rec", "--to", url, "--dry-run")
            assert (told.code, "Would copy 3 records" in told.out) == (0, True), told.err
            done = stocked("push", "course_rec", "--to", url, "--json")
            assert (done.code, done.json["copied"], done.json["to"]["place"]) == (0, 3, url)
            again = stocked("push", "course_rec", "--to", url)
            assert f"Nothing to copy: {url} has it all." in again.out
            pulled = stocked("--registry", tmp_path / "third", "pull", "course_rec", "--from", url, "--json")
            assert (pulled.code, pulled.json["copied"], pulled.json["from"]["place"]) == (0, 3, url)
            unknown = stocked("pull", "nothing", "--from", url)
            assert (unknown.code, "Traceback" in unknown.err) == (2, False)
            there.tokens.revoke("ci")
            refused = stocked("pull", "course_rec", "--from", url, "--json")
            assert (refused.code, refused.json["error"]["code"]) == (2, "server_refused")
            assert "token" in refused.json["error"]["message"]
            both = stocked("push", "course_rec", "--to", f"{url}?token={token}")
            assert both.code == 2
            said += [told, done, again, pulled, unknown, refused, both]
        assert all(token not in each.out + each.err for each in said)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "token"]
    assert all(token.encode() not in path.read_bytes() for path in left)


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
