"""model-signing itself checks what we signed, and we check what it signed: with keys on every curve, and certificates."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import signing_keys
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying
from signing_keys import Authority, Pair

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, CheckFailedError
from fusery.registry.signing.checking import CertificateChecker, KeyChecker
from fusery.registry.signing.sign import SigningKey
from fusery.registry.signing.verify import beside_of, verify

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


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_certificate(works: Registry, bundle: Copy, authority: Authority, tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pair = signing_keys.write_key(tmp_path, "carol", private, passphrase=b"pass")
    certificate = authority.signer("carol", private)
    chosen = SigningKey(pair.private, lambda: b"pass", certificate, (authority.between,))
    place = bundle("export")
    works.trust.sign(str(place), chosen)
    checking = verifying.Config().set_hashing_config(strict())
    checking.use_certificate_verifier(certificate_chain=[authority.root]).verify(place, beside_of(place))
    result = verify(place, checkers=[CertificateChecker.of([authority.root])])
    assert (result.verdict, result.signer) == ("verified", "CN=carol")
    assert verify(place, checkers=[KeyChecker.of(certificate)]).verdict == "verified"
    assert verify(place, checkers=[KeyChecker.of(pair.public)]).key_id == result.key_id
    (place / "README.md").write_text("x")
    assert verify(place, checkers=[CertificateChecker.of([authority.root])]).verdict == "differs"


def test_certificates_that_nobody_should_trust(
    works: Registry, bundle: Copy, authority: Authority, key: Pair, tmp_path: Path
) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pair = signing_keys.write_key(tmp_path, "dave", private)
    place = bundle("export")
    unfit = authority.signer("unfit", private, signing=False)
    works.trust.sign(str(place), SigningKey(pair.private, certificate=unfit, chain=(authority.between,)))
    (problem,) = verify(place, checkers=[CertificateChecker.of([authority.root])]).problems
    assert "cannot be used for signing" in problem.message
    good = authority.signer("dave", private)
    works.trust.sign(str(place), SigningKey(pair.private, certificate=good, chain=(authority.between,)))
    other = tmp_path / "other"
    other.mkdir()
    (problem,) = verify(place, checkers=[CertificateChecker.of([Authority(other).root])]).problems
    assert problem.code == "bad_signature"
    works.trust.sign(str(place), key.signing())
    (problem,) = verify(place, checkers=[CertificateChecker.of([authority.root])]).problems
    assert "no certificate" in problem.message
    with pytest.raises(BadInputError):
        works.trust.sign(str(place), SigningKey(key.private, certificate=good))


def test_sigstore_needs_a_network(works: Registry, bundle: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    place = bundle("export")
    with pytest.raises(CheckFailedError) as refused:
        works.trust.sign(str(place), SigningKey())
    assert "--key" in str(refused.value.hint)
    assert not beside_of(place).exists()
