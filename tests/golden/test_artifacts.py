"""What each release wrote is read by this version: its home, backup, bundles, exports, signatures and recipes.

Here are the very bytes that a release wrote, whatever today's code would write in their place.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden import holding
from golden.holding import HERE, RELEASES, unpacked
from golden.make import BUNDLES, DOCUMENTS, REF

from fusery.cli.main import run

Ask = Callable[..., Any]


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def artifacts(release: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(unpacked(release, tmp_path_factory), tmp_path / "artifacts"))


@pytest.fixture
def said(artifacts: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((artifacts / "expected.json").read_text(encoding="utf-8"))
    return read


@pytest.fixture
def ask(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.chdir(artifacts)
    monkeypatch.setenv("FUSERY_USER", "tester")
    return asking(artifacts / "home")


@pytest.fixture(scope="module")
def upgraded_home(release: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release's home with the schema of this version; to be copied, not changed."""
    home = tmp_path_factory.mktemp("upgraded") / "home"
    shutil.copytree(unpacked(release, tmp_path_factory) / "home", home)
    asking(home)("admin", "db", "upgrade")
    return home


@pytest.fixture
def ask_upgraded(ask: Ask, artifacts: Path, upgraded_home: Path) -> Ask:
    shutil.rmtree(artifacts / "home")
    shutil.copytree(upgraded_home, artifacts / "home")
    return ask


def asking(home: Path) -> Ask:
    def asked(*words: str | Path, code: int = 0) -> Any:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            ended = run(["--registry", str(home), *map(str, words), "--json"])
        assert ended == code, (words, out.getvalue())
        return json.loads(out.getvalue())

    return asked


def require_answers(ask: Ask, said: dict[str, Any]) -> None:
    now = {name: ask(*words.split()) for name, words in DOCUMENTS.items()}
    events = said["answers"]["events"]
    # An upgrade has an entry of its own, and so has a restore: the log goes on.
    now["events"] = [each for each in now["events"] if each["seq"] <= events[-1]["seq"]]
    other = holding.unanswered({name: said["answers"][name] for name in now}, now)
    # 0.1.0 had DEGRADED, or PASS, for what the weights do not decide.
    assert [line for line in other if not line.endswith(" became 'UNSURE'")] == []


@pytest.mark.parametrize("release", RELEASES)
def test_nothing_that_was_released_is_changed(release: str) -> None:
    lines = (HERE / release / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = [path for path in (HERE / release).iterdir() if path.name != "SHA256SUMS"]
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_its_home_is_whole_and_answers_as_it_did(ask: Ask, said: dict[str, Any]) -> None:
    ask("admin", "db", "upgrade")
    assert ask("admin", "db", "check")["differences"] == []
    require_answers(ask, said)
    report = ask("audit")
    assert report["problems"] == []
    assert report["checked"]["fused"] >= len(said["fused"])
    assert ask("audit", "--chain", "--anchor", "anchor.json", "--key", "anna.pub")["problems"] == []


def test_its_recipes_give_the_same_bits(ask_upgraded: Ask, said: dict[str, Any]) -> None:
    adapters = {"dora once": "dora@1", "dora as mlx-lm": "dora@1"}
    assert said["fused"]
    for name, made in said["fused"].items():
        adapter = adapters.get(name, "course_rec@1" if name.startswith("shaped") else REF)
        fused = ask_upgraded("fuse", adapter, "--recipe", made["key"], "--accept-loss")
        assert (fused["key"], fused["digest"]) == (made["key"], made["digest"]), name


def test_its_backup_is_restored(
    artifacts: Path,
    said: dict[str, Any],
    ask: Ask,
    tmp_path: Path,
    empty_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On PostgreSQL as well: these are the rows of a team's database, brought up by the same migrations."""
    monkeypatch.setenv("FUSERY_REGISTRY", str(tmp_path / "restored"))
    monkeypatch.setenv("FUSERY_DATABASE_URL", empty_url)
    restored = asking(tmp_path / "restored")
    restored("admin", "restore", artifacts / "backup", "--own")
    assert restored("admin", "db", "check")["differences"] == []
    require_answers(restored, said)
    assert restored("audit")["problems"] == []


def test_another_home_pulls_from_it(
    artifacts: Path, said: dict[str, Any], ask_upgraded: Ask, tmp_path: Path
) -> None:
    here = asking(tmp_path / "here")
    here("admin", "init")
    for reference in ("course_rec", "dora@1"):
        here("pull", reference, "--from", artifacts / "home", "--fused")
    facts = [
        {key: each[key] for key in ("name", "digest", "rank", "val_loss", "tags")}
        for each in said["answers"]["list"]
        if each["task"] != "small"
    ]
    assert list(holding.unanswered(facts, list(here("list")))) == []
    # A claim of another's, until it is made here.
    assert here("fuse", REF, "--as", "16bit")["digest"] == said["fused"]["dequantize"]["digest"]
    assert here("audit")["problems"] == []


def test_its_bundles_are_read(ask_upgraded: Ask) -> None:
    for bundle in BUNDLES:
        place = Path("bundles", bundle)
        signed = Path("bundles", f"{bundle}.sig").exists()
        checked = ask_upgraded("identify", "--verify", place, "--key", "anna.pub", code=0 if signed else 1)
        assert checked["problems"] == [], bundle
        assert ask_upgraded("identify", place)["intact"], bundle


def test_its_exports_are_taken_in(ask_upgraded: Ask, said: dict[str, Any], tmp_path: Path) -> None:
    here = asking(tmp_path / "here")
    here("pull", "tiny", "--from", "home")
    folders = {form: next(Path("exports", form).glob("adapters_*[!g]")) for form in ("mlx", "peft")}
    taken = here("register", folders["mlx"])
    then = next(each for each in said["answers"]["list"] if each["name"] == taken["name"])
    kept = ("digest", "val_loss", "rank", "examples", "tags")
    assert {key: taken[key] for key in kept} == {key: then[key] for key in kept}
    assert here("identify", "--verify", folders["mlx"], "--key", "anna.pub")["problems"] == []
    assert ask_upgraded("identify", folders["peft"])["verdict"] == "known"


def test_its_attestation_is_signed_and_says_the_same(ask_upgraded: Ask, said: dict[str, Any]) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    envelope = Envelope.from_dict(json.loads(Path("attestation.json").read_text(encoding="utf-8")))
    (key,) = ask_upgraded("admin", "trust", "list")
    public = SSlibKey.from_crypto(load_pem_public_key(Path("anna.pub").read_bytes()), keyid=key["key_id"])
    assert list(envelope.verify([public], 1)) == [key["key_id"]]
    assert (
        list(
            holding.unanswered(json.loads(envelope.payload), ask_upgraded("lineage", "--format", "slsa", REF))
        )
        == []
    )
