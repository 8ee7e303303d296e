"""Verifying changed bundles, also without a registry; and model-signing itself verifies what we signed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import signing_keys
from installation import COMMANDS
from model_signing import hashing, signing, verifying
from signing_keys import FORMS, Pair

from fusery.registry import Registry
from fusery.registry.bundles.target import own_targets
from fusery.registry.documents import BUNDLE_FORMAT
from fusery.registry.errors import BadInputError
from fusery.registry.provenance.sign import SigningKey
from fusery.registry.provenance.signed_claim import FileProblem, HashedFiles, SignedClaim, read_record
from fusery.registry.provenance.verify import KeyChecker, Verification, judge, signature_path, verify
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import MissingFileError
from fusery.storage.manifest import FileEntry, Manifest

Copy = Callable[[str], Path]
Check = Callable[..., Verification]
ALL = [*FORMS, "export"]
FOLDERS = [name for name in ALL if name not in own_targets() or not own_targets()[name].single]


def files_of(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]


def flip(path: Path, at: int, mask: int) -> Callable[[], object]:
    """Change bits of one byte, and return what changes them back; an empty file gets a byte."""
    before = path.read_bytes()
    changed = bytearray(before or b"x")
    if before:
        changed[at] ^= mask
    path.write_bytes(changed)
    return lambda: path.write_bytes(before)


def named(result: Verification) -> set[str]:
    return {problem.path for problem in result.problems}


def found(result: Verification) -> set[tuple[str, str]]:
    return {(problem.code, problem.path) for problem in result.problems}


@pytest.fixture
def check(key: Pair) -> Check:
    """`verify` with the key that `signed` signs with."""
    return partial(verify, checkers=[KeyChecker.of(key.public)])


@pytest.fixture
def signed(works: Registry, bundle: Copy, key: Pair) -> Copy:
    """A function that copies a bundle of the shelf and signs it."""

    def sign(name: str) -> Path:
        place = bundle(name)
        works.trust.sign(str(place), key.signing())
        return place

    return sign


@pytest.mark.parametrize("name", ALL)
def test_one_bit_of_any_file_is_found_and_the_file_named(
    works: Registry, bundle: Copy, key: Pair, check: Check, name: str
) -> None:
    """By the bundle's own record, and by its signature."""
    place, random = bundle(name), Random(name)
    for with_signature in (False, True) if name in FOLDERS else (True,):
        if with_signature:
            works.trust.sign(str(place), key.signing())
        intact = check(place)
        assert (intact.verdict, intact.problems) == ("verified" if with_signature else "unproven", [])
        assert with_signature or (intact.record is not None and intact.record.complete)
        for path in files_of(place):
            size = path.stat().st_size
            if not size and not with_signature:
                continue
            undo = flip(path, random.randrange(size or 1), 1 << random.randrange(8))
            result = check(place)
            relative = path.relative_to(place).as_posix() if place.is_dir() else place.name
            assert result.verdict == "differs" and relative in named(result), result.problems
            assert with_signature or named(result) == {relative}
            undo()
        assert check(place).problems == []


@pytest.mark.timing
@pytest.mark.parametrize("with_signature", [True, False])
def test_added_files_are_named(signed: Copy, bundle: Copy, check: Check, with_signature: bool) -> None:
    place = (signed if with_signature else bundle)("model")
    added = (".hidden", ".git/config", ".gitattributes", ".github/x.yml", "model.sig", "deep/er/x")
    for path in added:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text("x")
    (place / "link").symlink_to("config.json")
    (place / "folder").symlink_to("/")
    os.mkfifo(place / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "s"))
    result = check(place)
    assert result.verdict == "differs"
    others = {("link", "link"), ("link", "folder"), ("special", "pipe"), ("special", "s")}
    assert {each for each in found(result) if each[0] != "wrong_key"} == {
        *(("added", path) for path in added),
        *others,
    }


def test_missing_and_replaced_files_are_named(
    signed: Copy, bundle: Copy, check: Check, tmp_path: Path
) -> None:
    place = signed("docker")
    (place / "server.py").unlink()
    shutil.move(place / "Dockerfile", place / "Containerfile")
    missing = {("missing", "server.py"), ("missing", "Dockerfile")}
    assert found(check(place)) == {*missing, ("added", "Containerfile")}
    place = bundle("model")
    shutil.move(place / "config.json", tmp_path / "config.json")
    (place / "config.json").symlink_to(tmp_path / "config.json")  # the same bytes
    assert found(verify(place)) == {("link", "config.json")}


def test_the_signature_may_lie_within(works: Registry, bundle: Copy, key: Pair, check: Check) -> None:
    """Publishers on the hub put the signature into the folder; if it is named, it does not count as an added file."""
    place = bundle("hub")
    works.trust.sign(str(place), key.signing(), output=place / "model.sig")
    assert check(place, signature=place / "model.sig").verdict == "verified"
    assert named(check(place)) == {"model.sig"}


def test_another_key_s_signature_and_an_unchecked_one(
    works: Registry, bundle: Copy, key: Pair, stranger: Pair, check: Check
) -> None:
    place = bundle("model")
    signed = works.trust.sign(str(place), stranger.signing())
    (problem,) = check(place).problems
    assert (problem.code, problem.path) == ("wrong_key", f"{place.name}.sig")
    assert "anna.pub" in problem.message
    either = [KeyChecker.of(each.public) for each in (key, stranger)]
    assert verify(place, checkers=either).signer == "stranger.pub"
    result = verify(place)
    assert (result.verdict, result.signed_with) == ("unproven", signed.key_id)
    (place / "README.md").write_text("another")
    assert named(verify(place)) == {"README.md"}, "it still shows changes"


def test_a_signature_over_an_adapter_does_not_cover_the_files_beside_it(
    works: Registry, bundle: Copy, key: Pair, check: Check, tmp_path: Path
) -> None:
    place, signature = bundle("export"), tmp_path / "export.sig"
    works.trust.sign("course_rec@1", key.signing(), output=signature)
    assert ("added", "README.md") in found(check(place, signature=signature))


def test_a_folder_and_a_file_are_not_taken_for_each_other(signed: Copy, check: Check) -> None:
    archive, folder = signed("archive"), signed("model")
    for place, other in ((folder, archive), (archive, folder)):
        assert [each.code for each in check(place, signature=signature_path(other)).problems] == ["other"]


def test_without_a_record_or_a_file(tmp_path: Path) -> None:
    for missing in ({"path": tmp_path / "nothing"}, {"path": tmp_path, "signature": tmp_path / "nothing"}):
        with pytest.raises(MissingFileError):
            verify(**missing)
    (tmp_path / "anything").mkdir()
    (tmp_path / "anything" / "x").write_text("x")
    result = verify(tmp_path / "anything")
    assert (result.verdict, result.record) == ("unproven", None)
    assert any("no list of digests" in note for note in result.notes)


def test_invalid_signatures_and_records_are_named(bundle: Copy, check: Check) -> None:
    place = bundle("model")
    for content in ("", "{", "[" * 10_000, '{"mediaType": 1}'):
        signature_path(place).write_text(content)
        assert named(check(place)) == {signature_path(place).name}, content[:20]
    signature_path(place).unlink()
    record = place / "fusery.json"
    outside = record.read_bytes().replace(b'"path": "README.md"', b'"path": "../../../etc/passwd"')
    bare = b'{"format": "fusery.bundle.v1"}'
    for data in (outside, b"", b"{", b"null", b"[]", bare, b"\xff\xfe", b"[" * 100_000, b"9" * 5000):
        record.write_bytes(data)
        assert named(verify(place)) == {"fusery.json"}, data[:20]


def entry(path: str, text: str = "") -> FileEntry:
    return FileEntry(path, len(text), digest_bytes(text.encode()))


def test_list_of_files_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    here = {path: entry(path) for path in ("a", "fusery.json", *"bcdefg")}
    for count, words in ((7, "b, c, d, e, f"), (8, "b, c, d, e, f and 1 more")):
        files = HashedFiles(tmp_path, False, dict(list(here.items())[:count]))
        claim = SignedClaim("bundle", "fusery.json", files={"a": entry("a")})
        result = Verification(files, claim)
        judge(result, None, "x", [])
        assert (result.verdict, result.notes[0].partition(" list ")[2]) == ("unproven", words)
    hashed = HashedFiles(tmp_path, False, {"b": entry("b", "x"), "c": entry("c")})
    hashed.problems.append(FileProblem("link", "d", ""))
    listed = {path: entry(path) for path in "abd"}
    result = Verification(hashed, SignedClaim("bundle", "fusery.json", files=listed, complete=True))
    judge(result, None, "x", [])
    assert found(result) == {("missing", "a"), ("changed", "b"), ("added", "c")}


def test_digest_of_a_record_is_that_of_its_list() -> None:
    files = [entry("weights")]
    rows = [file.to_dict() for file in files]
    for digest, problems in ((Manifest.of(files).digest, []), ("0" * 64, ["fusery.json"])):
        document = {
            "format": BUNDLE_FORMAT, "name": "n", "target": "t", "model": "model", "digest": digest,
            "files": rows, "adapters": [{"path": ".", "files": [entry("a").to_dict()]}],
        }  # fmt: skip
        claim = SignedClaim("bundle", "fusery.json")
        read_record(json.dumps(document).encode(), claim)
        assert [problem.path for problem in claim.problems] == problems
        assert (set(claim.files), claim.complete) == ({"model/weights", "a"}, False)


def test_a_file_may_have_another_name(
    works: Registry, bundle: Copy, key: Pair, check: Check, tmp_path: Path
) -> None:
    (gguf,) = bundle("gguf").glob("*.gguf")
    lone = shutil.copyfile(gguf, tmp_path / "renamed.gguf")
    works.trust.sign(str(lone), key.signing())
    result = check(lone)
    assert result.verdict == "verified"
    flip(lone, lone.stat().st_size - 1, 1)
    assert named(check(lone)) == {"renamed.gguf"}
    assert verify(gguf).verdict == "unproven"


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
    theirs(place, signature_path(place), key.public)
    victim = place if place.is_file() else place / "README.md"
    victim.write_bytes(victim.read_bytes() + b"\n")
    with pytest.raises(ValueError, match="mismatch"):
        theirs(place, signature_path(place), key.public)


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
    theirs(place, signature_path(place), pair.public)
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
    theirs(place, signature_path(place), pair.public)
    with pytest.raises(BadInputError) as refused:
        works.trust.sign(str(place), SigningKey(pair.private, lambda: b"guessed"))
    assert "guessed" not in str(refused.value)
    assert refused.value.__cause__ is None
    with pytest.raises(BadInputError) as refused:
        works.trust.sign(str(place), SigningKey(pair.private))
    assert refused.value.hint == "--passphrase-file FILE, or FUSERY_KEY_PASSPHRASE"


ABSENT = "sqlalchemy alembic pydantic_settings fsspec model_signing mlx"
BARE = f"import sys\nfor name in sys.argv[1].split():\n    sys.modules[name] = None\n{COMMANDS}"


def run(folder: Path, *commands: str, without: str = "") -> list[tuple[int, str, str]]:
    """Run commands with an empty environment, in a process that cannot import what a registry needs.

    Returns each command's exit code, output and errors.
    """
    home = folder / "home"
    home.mkdir(exist_ok=True)
    ran = subprocess.run(
        [sys.executable, "-P", "-c", BARE, f"{ABSENT} {without}"],
        input=json.dumps([{}, [command.split() for command in commands]]),
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
