"""`push` and `pull` with the URL of a server: the same output, one sentence for what is wrong, and the token nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixture_types import Fusery
from page_server import pages_of

from fusery.registry import Registry
from fusery.web.doors import Proxies, TeamDoor


def test_push_and_pull_by_command(stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Registry.open(tmp_path / "there") as there:
        there.init()
        token = there.tokens.create("ci", "publisher").secret
        (tmp_path / "token").write_text(token + "\n")
        with pages_of(there, TeamDoor(there, Proxies())) as url:
            said = []
            for words in (["push", "course_rec", "--to", url], ["pull", "course_rec", "--from", url]):
                ran = stocked(*words)
                assert (ran.code, "FUSERY_TOKEN" in ran.err) == (2, True), ran.err
            monkeypatch.setenv("FUSERY_TOKEN_FILE", str(tmp_path / "token"))
            told = stocked("push", "course_rec", "--to", url, "--dry-run")
            assert (told.code, "Would copy 3 records" in told.out) == (0, True), told.err
            done = stocked("push", "course_rec", "--to", url, "--json")
            assert (done.code, done.json["copied"], done.json["to"]["place"]) == (0, 3, url)
            again = stocked("push", "course_rec", "--to", url)
            assert f"Nothing to copy: {url} has it all." in again.out
            pulled = stocked("--home", tmp_path / "third", "pull", "course_rec", "--from", url, "--json")
            assert (pulled.code, pulled.json["copied"], pulled.json["from"]["place"]) == (0, 3, url)
            unknown = stocked("pull", "nothing", "--from", url)
            assert (unknown.code, "Traceback" in unknown.err) == (2, False)
            there.tokens.revoke("ci")
            refused = stocked("pull", "course_rec", "--from", url)
            assert (refused.code, "does not take this token" in refused.err) == (2, True)
            both = stocked("push", "course_rec", "--to", f"{url}?token={token}")
            assert both.code == 2
            said += [told, done, again, pulled, unknown, refused, both]
        assert all(token not in each.out + each.err for each in said)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "token"]
    assert all(token.encode() not in path.read_bytes() for path in left)


def test_over_a_network_only_with_tls(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_TOKEN", "fusery_" + "a" * 43)
    ran = stocked("push", "course_rec", "--to", "http://192.0.2.1:1")
    assert (ran.code, "--insecure-http" in ran.err) == (2, True), ran.err
