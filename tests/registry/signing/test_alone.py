"""`fusery verify` where there is no registry: no database, no store, no home folder, not even the libraries for them."""

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

Copy = Callable[[str], Path]

BARE = """
import sys
for name in ("sqlalchemy", "alembic", "pydantic_settings", "fsspec", "model_signing", "mlx", *sys.argv[1].split()):
    sys.modules[name] = None
from fusery.cli.main import main
main(sys.argv[2:])
"""


def run(folder: Path, *words: str | Path, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line with an empty environment, in a process that cannot import what a registry needs."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-P", "-c", BARE, without, *map(str, words)]
    ran = subprocess.run(
        command, env={"HOME": str(home)}, cwd=folder, capture_output=True, text=True, check=False
    )
    assert list(home.iterdir()) == []
    assert "Traceback" not in ran.stderr
    return ran


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


def test_a_signed_bundle(elsewhere: Path) -> None:
    ran = run(elsewhere, "verify", "bundle", "--key", "anna.pub")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "signed with anna.pub" in ran.stdout
    ran = run(elsewhere, "verify", "bundle", "--json", "--key", "anna.pub")
    document = json.loads(ran.stdout)
    assert (document["verdict"], document["problems"], document["registry"]) == ("verified", [], None)
    assert document["record"]["target"] == "docker"


def test_a_changed_bundle(elsewhere: Path) -> None:
    weights = elsewhere / "bundle" / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (elsewhere / "bundle" / ".git").mkdir()
    (elsewhere / "bundle" / ".git" / "hook").write_text("x")
    ran = run(elsewhere, "verify", "bundle", "--key", "anna.pub", "-q")
    assert (ran.returncode, ran.stdout.split()) == (1, ["model/model.safetensors", ".git/hook"])
    assert run(elsewhere, "verify", "bundle").returncode == 1


def test_what_proves_nothing(elsewhere: Path) -> None:
    assert run(elsewhere, "verify", "bundle").returncode == 3
    (elsewhere / "bundle.sig").rename(elsewhere / "other.sig")
    ran = run(elsewhere, "verify", "bundle", without="cryptography")
    assert ran.returncode == 3 and "no signature" in ran.stdout
    assert run(elsewhere, "verify", "bundle", "--key", "anna.pub").returncode == 3
    assert run(elsewhere, "verify", "bundle", "--key", "anna.pub", "--signature", "other.sig").returncode == 0


@pytest.mark.parametrize(
    "content", ["", "{", "[" * 10_000, '{"mediaType": 1}'], ids=["empty", "cut", "deep", "odd"]
)
def test_a_signature_that_is_none(elsewhere: Path, content: str) -> None:
    (elsewhere / "bundle.sig").write_text(content)
    ran = run(elsewhere, "verify", "bundle", "--key", "anna.pub")
    assert ran.returncode == 1
    assert "bundle.sig is not a signature that can be read" in ran.stdout


def test_wrong_and_missing_keys(elsewhere: Path) -> None:
    assert run(elsewhere, "verify", "bundle", "--key", "stranger.pub").returncode == 1
    ran = run(elsewhere, "verify", "bundle", "--key", "nothing.pub")
    assert ran.returncode == 2 and ran.stderr.startswith("Error: ")
    ran = run(elsewhere, "verify", "bundle", "--key", "bundle/README.md")
    assert ran.returncode == 2 and "not a key" in ran.stderr
    assert run(elsewhere, "verify", "nowhere").returncode == 2


def test_what_is_missing_is_said_with_the_extra_to_install(elsewhere: Path) -> None:
    ran = run(elsewhere, "verify", "bundle", "--key", "anna.pub", without="cryptography")
    assert ran.returncode == 2
    assert "pip install " in ran.stderr and "[sign]" in ran.stderr
