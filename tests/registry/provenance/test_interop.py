"""model-signing itself checks what we signed, and we check what it signed: with keys on every curve."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import signing_keys
from model_signing import hashing, signing, verifying
from signing_keys import Pair

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.provenance.sign import SigningKey
from fusery.registry.provenance.verify import KeyChecker, beside_of, verify

Copy = Callable[[str], Path]


def strict() -> Any:
    return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)


def theirs(place: Path, signature: Path, public: Path) -> None:
    """Let the library verify; it raises where something is wrong."""
    checking = verifying.Config().set_hashing_config(strict()).use_elliptic_key_verifier(public_key=public)
    checking.verify(place, signature)


@pytest.mark.parametrize("name", ["model", "gguf", "hub adapter"])
def test_the_library_verifies_what_we_signed(works: Registry, bundle: Copy, key: Pair, name: str) -> None:
    place = bundle(name)
    works.trust.sign(str(place), key.signing())
    theirs(place, beside_of(place), key.public)
    victim = place if place.is_file() else place / "README.md"
    victim.write_bytes(victim.read_bytes() + b"\n")
    with pytest.raises(ValueError, match="mismatch"):
        theirs(place, beside_of(place), key.public)


def test_the_library_verifies_an_adapter_by_its_signature(
    works: Registry, key: Pair, bundle: Copy, tmp_path: Path
) -> None:
    """An adapter is signed without being read; its folder in a bundle is what was signed."""
    works.trust.sign("course_rec@1", key.signing(), output=tmp_path / "adapter.sig")
    (folder,) = (bundle("adapters") / "adapters").iterdir()
    theirs(folder, tmp_path / "adapter.sig", key.public)
    result = verify(folder, signature=tmp_path / "adapter.sig", checkers=[KeyChecker.of(key.public)])
    assert result.verdict == "verified"
    shutil.copyfile(folder / "adapter_config.json", folder / "more.json")
    with pytest.raises(ValueError, match="Extra files"):
        theirs(folder, tmp_path / "adapter.sig", key.public)


@pytest.mark.parametrize("curve", signing_keys.CURVES)
def test_every_curve_both_ways(works: Registry, bundle: Copy, curve: str, tmp_path: Path) -> None:
    pair = signing_keys.write_pair(tmp_path, curve, curve=signing_keys.CURVES[curve])
    place = bundle("export")
    works.trust.sign(str(place), pair.signing())
    theirs(place, beside_of(place), pair.public)
    other = tmp_path / "theirs.sig"
    signing.Config().set_hashing_config(strict()).use_elliptic_key_signer(private_key=pair.private).sign(
        place, other
    )
    checker = [KeyChecker.of(pair.public)]
    for signature in (None, other):
        assert verify(place, signature=signature, checkers=checker).verdict == "verified"


def test_a_locked_key(works: Registry, bundle: Copy, tmp_path: Path) -> None:
    pair = signing_keys.write_pair(tmp_path, "locked", passphrase=b"s\xffcret")
    place = bundle("export")
    works.trust.sign(str(place), SigningKey(pair.private, lambda: b"s\xffcret"))
    theirs(place, beside_of(place), pair.public)
    with pytest.raises(BadInputError) as refused:
        works.trust.sign(str(place), SigningKey(pair.private, lambda: b"guessed"))
    assert "guessed" not in str(refused.value)
    assert refused.value.__cause__ is None
    with pytest.raises(BadInputError) as refused:
        works.trust.sign(str(place), SigningKey(pair.private))
    assert refused.value.hint == "--passphrase-file FILE, or FUSERY_KEY_PASSPHRASE"
