"""`fusery identify --verify` without a registry: no database, store or home folder, nor the libraries for them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from signing_keys import Pair

from fusery.registry import Registry

pytestmark = pytest.mark.timing

Copy = Callable[[str], Path]

BARE = """
import contextlib, io, json, os, sys
for name in ("sqlalchemy", "alembic", "pydantic_settings", "fsspec", "model_signing", "mlx", *sys.argv[1].split()):
    sys.modules[name] = None
from fusery.cli.main import main
ran = []
for words in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = 0
        try:
            main(words)
        except SystemExit as ended:
            code = ended.code or 0
    ran.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(ran))
"""


def run(folder: Path, *commands: str, without: str = "") -> list[tuple[int, str, str]]:
    """Run commands with an empty environment, in a process that cannot import what a registry needs.

    Returns each command's exit code, output and errors.
    """
    home = folder / "home"
    home.mkdir(exist_ok=True)
    words = json.dumps([command.split() for command in commands])
    ran = subprocess.run(
        [sys.executable, "-P", "-c", BARE, without, words],
        env={"HOME": str(home)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert list(home.iterdir()) == []
    return [(code, out, err) for code, out, err in json.loads(ran.stdout)]


@pytest.fixture
def elsewhere(works: Registry, bundle: Copy, key: Pair, stranger: Pair, tmp_path: Path) -> Path:
    """Another machine's folder: a signed bundle, its signature, a public key and a stranger's."""
    place = bundle("docker")
    works.trust.sign(str(place), key.signing())
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    shutil.move(place, folder / "bundle")
    shutil.move(place.with_name(f"{place.name}.sig"), folder / "bundle.sig")
    for public in (key.public, stranger.public):
        shutil.copy(public, folder)
    return folder


def test_an_intact_bundle(elsewhere: Path) -> None:
    (elsewhere / "bundle.sig").rename(elsewhere / "other.sig")
    signed, document, unsigned, stranger, no_key, not_a_key, nowhere = run(
        elsewhere,
        "identify --verify bundle --key anna.pub --signature other.sig",
        "identify --verify bundle --json --key anna.pub --signature other.sig",
        "identify --verify bundle --key anna.pub",
        "identify --verify bundle --key stranger.pub --signature other.sig",
        "identify --verify bundle --key nothing.pub",
        "identify --verify bundle --key bundle/README.md --signature other.sig",
        "identify --verify nowhere --key anna.pub",
    )
    assert (signed[0], signed[2]) == (0, "") and "signed with anna.pub" in signed[1]
    found = json.loads(document[1])
    assert (found["verdict"], found["problems"], found["registry"]) == ("verified", [], None)
    assert found["record"]["target"] == "docker"
    assert [unsigned[0], stranger[0]] == [1, 1]
    assert [no_key[0], not_a_key[0], nowhere[0]] == [2, 2, 2]
    assert no_key[2].startswith("Error: ") and "not a key" in not_a_key[2]


def test_without_the_library_a_signature_needs_the_extra(elsewhere: Path) -> None:
    [checked] = run(elsewhere, "identify --verify bundle --key anna.pub", without="cryptography")
    assert checked[0] == 2 and "pip install " in checked[2] and "[sign]" in checked[2]


def test_a_changed_bundle(elsewhere: Path) -> None:
    weights = elsewhere / "bundle" / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (elsewhere / "bundle" / ".git").mkdir()
    (elsewhere / "bundle" / ".git" / "hook").write_text("x")
    [changed] = run(elsewhere, "identify --verify bundle --key anna.pub -q")
    assert (changed[0], changed[1].split()) == (1, ["model/model.safetensors", ".git/hook"])
