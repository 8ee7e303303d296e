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

from .conftest import require_refusals


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


@pytest.mark.timing
@pytest.mark.slow
def test_register_on_a_server_from_a_machine_without_a_registry(
    stocked: Fusery, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tiny_models.make_adapter(tmp_path / "trained", tiny_base, seed=9, rank=4)
    with Registry.open(tmp_path / "home") as there:
        there.bases.add(tiny_models.make_base(tmp_path / "other", dtype="float32"), name="other")
        monkeypatch.setenv("FUSERY_TOKEN", there.tokens.create("ci", "publisher").secret)
        with pages_of(there, TokenAuth(there, Proxies())) as url:
            words = ["--registry", url, "register", trained]
            said = ["--base", "tiny", "--task", "course_rec", "--val-loss", "0.3", "--tag", "team=search"]
            assert stocked(*words).code == 2
            done = stocked(*words, *said, "--json")
            assert (done.code, done.json["version"], done.json["created"]) == (0, 3, True), done.err
            assert {entry.actor for entry in there.upkeep.log(reference="course_rec@3")} == {"ci"}
            again = stocked(*words, *said)
            assert (again.code, f"Already registered: {done.json['name']}" in again.out) == (0, True), (
                again.err
            )
            for changed, named in (
                (("--version", "7"), "with version 3 and not 7"),
                (("--val-loss", "0.1"), "with val_loss 0.3 and not 0.1"),
                (("--tag", "team=ads"), "with tag.team search and not ads"),
                (("--date", "2026-01-01"), "and not 20260101"),
                (("--base", "other"), "not 'other'"),
            ):
                differs = stocked(*words, *said[:4], *changed)
                assert (differs.code, named in differs.err) == (2, True), differs.err
            shown = there.adapters.show("course_rec@3")
            alike = stocked(*words, *said, "--date", shown.date, "--alpha", str(shown.alpha))
            assert alike.code == 0, alike.err
            there.adapters.yank("course_rec@3", reason="bad")
            yanked = stocked(*words, *said)
            assert f"Already registered: {done.json['name']}" in yanked.out
            assert "yanked: bad" in yanked.err
            none = stocked(*words, "--base", "nothing", "--task", "course_rec")
            assert (none.code, "Traceback" in none.err) == (2, False)
            parent = stocked(*words[:3], trained, *said[:3], "other", "--parent", "course_rec@1", "--json")
            assert (parent.code, there.adapters.show(parent.json["name"]).parent is not None) == (0, True)
            assert there.upkeep.audit().ok


@pytest.mark.timing
@pytest.mark.slow
def test_promote_on_a_server_as_its_rules_have_it(
    stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Registry.open(tmp_path / "home") as there:
        there.aliases.set_rules("prod", {"val_loss_within": 0.1, "fidelity": "PASS"}, reason="as agreed")
        publisher, approver = (there.tokens.create(name, name).secret for name in ("publisher", "approver"))
        with pages_of(there, TokenAuth(there, Proxies())) as url:
            words = ["--registry", url, "promote", "course_rec@1", "prod"]
            monkeypatch.setenv("FUSERY_TOKEN", approver)
            words += ["--reason", "launch"]
            undecided = stocked(*words)
            assert undecided.code == 3, undecided.err
            there.aliases.set_rules("prod", {"val_loss_within": 0.1}, reason="less")
            tried = stocked(*words, "--dry-run")
            assert (tried.code, there.aliases.list()) == (0, []), tried.err
            done = stocked(*words, "--json")
            assert (done.code, done.json["moved"], done.json["alias"]) == (0, True, "course_rec#prod"), (
                done.err
            )
            assert done.json["adapter"] == there.aliases.show("course_rec#prod").adapter
            assert {entry.actor for entry in there.upkeep.log(reference="course_rec#prod")} >= {"approver"}
            assert stocked(*words, "-q").out.strip() == done.json["adapter"]
            there.aliases.set_rules("prod", {"approvals": 1}, reason="more")
            failed = stocked(*words[:3], "course_rec@2", *words[4:], "--json")
            assert (failed.code, failed.json["verdict"], failed.json["moved"]) == (1, "failed", False)
            plain = ("push", "course_rec", "--to", "http://192.0.2.1:1")
            require_refusals(
                stocked, (plain, "--insecure-http"), ((*words[:3], "nothing@1", *words[4:]), "nothing")
            )
            monkeypatch.setenv("FUSERY_TOKEN", publisher)
            require_refusals(stocked, (tuple(words), "approver"))


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
