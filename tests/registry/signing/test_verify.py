"""Verifying changed bundles: every file of every target, and every file that does not belong there."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from signing_keys import FORMS, Pair

from fusery.registry import Registry
from fusery.registry.bundles import TARGETS
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.signing.checking import KeyChecker
from fusery.registry.signing.verify import Verification, beside_of, verify
from fusery.storage.errors import MissingFileError

Copy = Callable[[str], Path]
ALL = [*FORMS, "export"]
FOLDERS = [name for name in ALL if name not in TARGETS or not TARGETS[name].single]


def files_of(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]


def flip(path: Path, at: int, mask: int) -> Callable[[], None]:
    """Change bits of one byte, and return what changes them back."""

    def change() -> None:
        with path.open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ mask]))

    change()
    return change


def named(result: Verification) -> set[str]:
    return {problem.path for problem in result.problems}


@pytest.fixture
def checker(key: Pair) -> list[KeyChecker]:
    return [KeyChecker.of(key.public)]


@pytest.mark.parametrize("name", ALL)
def test_one_bit_of_any_file_is_found_and_the_file_named(
    works: Registry, bundle: Copy, key: Pair, checker: list[KeyChecker], name: str
) -> None:
    place = bundle(name)
    works.trust.sign(str(place), key.signing())
    assert verify(place, checkers=checker).verdict == "verified"
    random = Random(name)
    for path in files_of(place):
        size = path.stat().st_size
        undo = flip(path, random.randrange(size), 1 << random.randrange(8)) if size else None
        if undo is None:
            path.write_bytes(b"x")
        result = verify(place, checkers=checker)
        assert result.verdict == "differs"
        relative = path.relative_to(place).as_posix() if place.is_dir() else place.name
        assert relative in named(result), result.problems
        path.write_bytes(b"") if undo is None else undo()
    assert verify(place, checkers=checker).verdict == "verified"


@pytest.mark.parametrize("name", FOLDERS)
def test_without_a_signature_the_bundle_s_own_record_shows_it(bundle: Copy, name: str) -> None:
    place = bundle(name)
    intact = verify(place)
    assert (intact.verdict, intact.problems) == ("unproven", [])
    assert intact.claim is not None and intact.claim.complete
    random = Random(name)
    for path in files_of(place):
        size = path.stat().st_size
        if not size:
            continue
        undo = flip(path, random.randrange(size), 1 << random.randrange(8))
        result = verify(place)
        assert (result.verdict, named(result)) == ("differs", {path.relative_to(place).as_posix()})
        undo()
    assert verify(place).problems == []


def test_any_bit_of_the_record_is_found_without_a_signature(bundle: Copy) -> None:
    place = bundle("model")
    record = place / "fusery.json"
    size, random = record.stat().st_size, Random(7)
    for at in [*range(10), *range(size - 10, size), *(random.randrange(size) for _ in range(20))]:
        undo = flip(record, at, 1 << random.randrange(8))
        assert named(verify(place)) == {"fusery.json"}
        undo()


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_what_was_added_is_named(
    works: Registry, bundle: Copy, key: Pair, checker: list[KeyChecker], signed: bool
) -> None:
    place = bundle("model")
    if signed:
        works.trust.sign(str(place), key.signing())
    added = (".hidden", ".git/config", ".gitattributes", ".github/x.yml", "model.sig", "deep/er/x")
    for path in added:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text("x")
    (place / "link").symlink_to("config.json")
    (place / "folder").symlink_to("/")
    os.mkfifo(place / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "s"))
    result = verify(place, checkers=checker)
    assert result.verdict == "differs"
    assert {(problem.code, problem.path) for problem in result.problems if problem.code != "wrong_key"} == {
        *(("added", path) for path in added),
        ("link", "link"),
        ("link", "folder"),
        ("special", "pipe"),
        ("special", "s"),
    }


def test_what_is_missing_is_named(
    works: Registry, bundle: Copy, key: Pair, checker: list[KeyChecker]
) -> None:
    place = bundle("docker")
    works.trust.sign(str(place), key.signing())
    (place / "server.py").unlink()
    shutil.move(place / "Dockerfile", place / "Containerfile")
    result = verify(place, checkers=checker)
    assert {(problem.code, problem.path) for problem in result.problems} == {
        ("missing", "server.py"),
        ("missing", "Dockerfile"),
        ("added", "Containerfile"),
    }


def test_a_file_that_became_a_link_to_the_same_bytes_is_named(bundle: Copy, tmp_path: Path) -> None:
    place = bundle("model")
    shutil.move(place / "config.json", tmp_path / "config.json")
    (place / "config.json").symlink_to(tmp_path / "config.json")
    assert [(each.code, each.path) for each in verify(place).problems] == [("link", "config.json")]


def test_the_signature_may_lie_within(
    works: Registry, bundle: Copy, key: Pair, checker: list[KeyChecker]
) -> None:
    """As publishers of models on the hub do it; said explicitly, it is no file that was added."""
    place = bundle("hub")
    works.trust.sign(str(place), key.signing(), output=place / "model.sig")
    assert verify(place, signature=place / "model.sig", checkers=checker).verdict == "verified"
    assert named(verify(place, checkers=checker)) == {"model.sig"}


def test_a_stranger_s_signature(
    works: Registry, bundle: Copy, key: Pair, stranger: Pair, checker: list[KeyChecker]
) -> None:
    place = bundle("model")
    works.trust.sign(str(place), stranger.signing())
    (problem,) = verify(place, checkers=checker).problems
    assert (problem.code, problem.path) == ("wrong_key", f"{place.name}.sig")
    assert "anna.pub" in problem.message
    either = [*checker, KeyChecker.of(stranger.public)]
    assert verify(place, checkers=either).signer == "stranger.pub"


def test_a_signature_that_nobody_can_check_still_shows_changes(
    works: Registry, bundle: Copy, key: Pair
) -> None:
    place = bundle("model")
    signed = works.trust.sign(str(place), key.signing())
    result = verify(place)
    assert (result.verdict, result.hint) == ("unproven", signed.key_id)
    (place / "README.md").write_text("another")
    assert named(verify(place)) == {"README.md"}


def test_a_signature_over_the_model_or_adapter_does_not_verify_the_files_beside_it(
    works: Registry, bundle: Copy, key: Pair, checker: list[KeyChecker], tmp_path: Path
) -> None:
    """A bundle written around a signed adapter gets no exit code 0 for its own files."""
    fused = works.fused.fuse("course_rec@1", FuseRequest(precision="keep", accept_loss=True))
    beside = {".gitattributes", "README.md", "adapter_metadata.json"}
    for signed, name, weights in (
        (fused["key"], "docker", "model/model.safetensors"),
        ("course_rec@1", "export", "adapters.safetensors"),
    ):
        place, signature = bundle(name), tmp_path / f"{name}.sig"
        works.trust.sign(signed, key.signing(), output=signature)
        result = verify(place, signature=signature, checkers=checker)
        assert (result.verdict, result.signer, result.problems) == ("unproven", "anna.pub", [])
        assert "server.py" in result.unsigned if name == "docker" else set(result.unsigned) == beside
        assert weights not in result.unsigned
        (place / weights).write_bytes(b"x")
        assert named(verify(place, signature=signature, checkers=checker)) == {weights}


def test_an_adapter_s_own_files_are_verified_by_its_signature(
    works: Registry, bundle: Copy, key: Pair, checker: list[KeyChecker], tmp_path: Path
) -> None:
    place = bundle("export")
    for extra in (".gitattributes", "README.md", "adapter_metadata.json"):
        (place / extra).unlink()
    works.trust.sign("course_rec@1", key.signing(), output=tmp_path / "adapter.sig")
    assert verify(place, signature=tmp_path / "adapter.sig", checkers=checker).verdict == "verified"


def test_a_folder_and_a_file_are_not_taken_for_each_other(
    works: Registry, bundle: Copy, key: Pair, checker: list[KeyChecker]
) -> None:
    archive, folder = bundle("archive"), bundle("model")
    for place in (archive, folder):
        works.trust.sign(str(place), key.signing())
    for place, other in ((folder, archive), (archive, folder)):
        crossed = verify(place, signature=beside_of(other), checkers=checker)
        assert [problem.code for problem in crossed.problems] == ["other"]


def test_a_file_may_have_another_name(
    works: Registry, bundle: Copy, key: Pair, checker: list[KeyChecker], tmp_path: Path
) -> None:
    (gguf,) = bundle("gguf").glob("*.gguf")
    lone = shutil.copyfile(gguf, tmp_path / "renamed.gguf")
    works.trust.sign(str(lone), key.signing())
    result = verify(lone, checkers=checker)
    assert (result.verdict, result.claim is not None and result.claim.kind) == ("verified", "gguf")
    flip(lone, lone.stat().st_size - 1, 1)
    assert named(verify(lone, checkers=checker)) == {"renamed.gguf"}
    assert verify(gguf).verdict == "unproven"


def test_without_a_record_or_a_file(tmp_path: Path) -> None:
    for missing in ({"path": tmp_path / "nothing"}, {"path": tmp_path, "signature": tmp_path / "nothing"}):
        with pytest.raises(MissingFileError):
            verify(**missing)
    (tmp_path / "anything").mkdir()
    (tmp_path / "anything" / "x").write_text("x")
    result = verify(tmp_path / "anything")
    assert (result.verdict, result.claim) == ("unproven", None)
    assert any("no list of digests" in note for note in result.notes)


@pytest.mark.parametrize("content", ["", "{", "[" * 10_000, '{"mediaType": 1}'], ids=["", "{", "deep", "odd"])
def test_an_invalid_signature_is_named(
    works: Registry, bundle: Copy, checker: list[KeyChecker], content: str
) -> None:
    place = bundle("gguf")
    beside_of(place).write_text(content)
    assert named(verify(place, checkers=checker)) == {beside_of(place).name}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b'{"format": "fusery.bundle.v1"}', b"\xff\xfe", b"[" * 100_000, b"9" * 5000],
    ids=["empty", "cut", "null", "list", "bare", "no text", "deep", "number"],
)
def test_an_invalid_record_is_named(bundle: Copy, content: bytes) -> None:
    place = bundle("model")
    (place / "fusery.json").write_bytes(content)
    assert named(verify(place)) == {"fusery.json"}


def test_a_record_that_points_outside_reads_nothing_there(bundle: Copy) -> None:
    place = bundle("model")
    record = place / "fusery.json"
    record.write_text(record.read_text().replace('"path": "README.md"', '"path": "../../../etc/passwd"'))
    assert named(verify(place)) == {"fusery.json"}
