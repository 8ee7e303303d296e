"""The parts of identification and signing by themselves: requests to a server, its answers, and files that are odd."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from kept_registries import FIRST, KEEP, LLAMA, SECOND, Museum
from signing_keys import Pair
from sqlalchemy import update

from fusery.registry import Registry, tables
from fusery.registry.errors import (
    AlreadyExistsError,
    AmbiguousReferenceError,
    BadInputError,
    CheckFailedError,
    RoleError,
    ServerRefusedError,
    UnknownReferenceError,
)
from fusery.registry.provenance import candidates, signed_claim, tensors
from fusery.registry.provenance.recorded import record_signature
from fusery.registry.provenance.sign import require_meant
from fusery.registry.provenance.tensors import View, compare
from fusery.registry.provenance.verify import KeyChecker, verify
from fusery.registry.records.transfer import Sought, SoughtTensor, SoughtUnit
from fusery.registry.records.trust import SigningSubject
from fusery.storage.errors import FuseryError


def test_what_a_server_is_asked_and_answers(museum: Museum, tmp_path: Path) -> None:
    workspace = museum.registry.workspace
    adapter = candidates.sought(museum.originals[FIRST])
    [unit] = adapter.units
    assert unit.is_adapter and unit.files[0] in adapter.files and unit.tensors[0].digest
    assert FIRST in candidates.candidates(workspace, adapter).names
    model = candidates.sought(museum.originals[f"fused {SECOND}"])
    found = candidates.candidates(workspace, model)
    key = museum.registry.fused.list()[1]["key"]
    assert key in found.names and found.bundles == ()
    unknown = replace(model, files=(), units=tuple(replace(unit, files=("0" * 64,)) for unit in model.units))
    assert {key, LLAMA} <= set(candidates.candidates(workspace, unknown).names), "by tensors, and by shapes"
    museum.registry.bundles.materialize(FIRST, tmp_path / "out", target="model", request=KEEP)
    packed = candidates.candidates(workspace, candidates.sought(tmp_path / "out"))
    assert [bundle.path for bundle in packed.bundles] == [str(tmp_path / "out")] and len(packed.names) >= 1
    odd = SoughtTensor(name="\ud800", shape=(1,), digest="x")
    for wrong in (replace(unit, files=("a\0",)), replace(unit, tensors=(odd,))):
        with pytest.raises(BadInputError):
            candidates.candidates(workspace, Sought(files=(), units=(wrong,)))
    with pytest.raises(BadInputError, match="101"):
        candidates.candidates(workspace, Sought(files=(), units=(unit,) * 101))
    candidates.candidates(workspace, Sought(files=(), units=(unit,) * 100))


def test_requests_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_UNITS", 2)
    monkeypatch.setattr(candidates, "_TENSORS", 5)
    monkeypatch.setattr(candidates, "_FILES", 3)

    def parts(*counts: int, files: int = 0) -> list[tuple[int, list[int]]]:
        tensor = SoughtTensor(name="x", shape=(1,), digest="d")
        units = tuple(
            SoughtUnit(is_adapter=True, files=("f",), tensors=(tensor,) * count) for count in counts
        )
        cut = candidates.in_parts(Sought(files=tuple(map(str, range(files))), units=units))
        return [(len(part.files), [len(unit.tensors) for unit in part.units]) for part in cut]

    assert parts() == [(0, [])]
    assert parts(files=7) == [(3, []), (3, []), (1, [])]
    assert parts(1, 1, 1, 2, 4, 9, files=1) == [(1, []), (1, [1, 1]), (1, [1, 2]), (1, [4]), (1, [5])]
    assert parts(2, 3) == [(0, []), (1, [2, 3])]


NAME, DIGEST, KEY = "course_rec_v1_20260115", "a" * 64, "b" * 64
MEANT = SigningSubject("adapter", NAME, DIGEST, NAME, {"x": DIGEST})
FUSED = SigningSubject("fused", "a fused model", DIGEST, KEY, {"x": DIGEST}, prefix=f"fused {KEY} exact: ")
BUNDLE = SigningSubject("bundle", f"bundle {DIGEST[:12]}", DIGEST, DIGEST, {"x": DIGEST})


def test_only_what_was_named_is_signed() -> None:
    good = (
        (MEANT, ("course_rec@1", "course_rec@latest", "course_rec#prod", NAME, DIGEST)),
        *((FUSED, (DIGEST, KEY)), (BUNDLE, (DIGEST,))),
    )
    for subject, texts in good:
        for text in texts:
            require_meant(text, subject)
    wrong: list[tuple[str, SigningSubject]] = [
        *((text, MEANT) for text in ("course_rec@2", "rec@latest", "course_rec_v2_20260115", "c" * 64, "a b")),
        *(("course_rec@1", replace(MEANT, **change)) for change in ({"event": "x"}, {"prefix": "x"}, {"path": Path("/x")}, {"kind": None})),
        ("course_rec@1", FUSED), ("c" * 64, FUSED), (KEY, replace(FUSED, prefix=f"fused {DIGEST} exact: ")),
        ("course_rec@1", BUNDLE), (DIGEST, replace(BUNDLE, name="bundle x")), ("course_rec@1", replace(MEANT, name="x")),
    ]  # fmt: skip
    for text, subject in wrong:
        with pytest.raises(ServerRefusedError):
            require_meant(text, subject)


def test_records_to_sign(
    stocked: Registry, key: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust, fused = stocked.trust, stocked.fused.fuse("course_rec@1")
    stocked.bundles.materialize("course_rec@1", tmp_path / "out", target="model", request=KEEP)
    [bundle] = stocked.adapters.show("course_rec@1").bundles
    found = trust.find(fused.key)
    assert (found.kind, found.event) == ("fused", fused.key) and found.prefix.startswith(
        f"fused {fused.key} "
    )
    assert (trust.find(bundle.digest[:12]).kind, trust.find(bundle.digest).event) == ("bundle", bundle.digest)
    with pytest.raises(BadInputError, match="base model"):
        trust.find("tiny")
    for reference in ("course_rec@1", fused.key, bundle.digest):
        signed = trust.sign(reference, key.signing(), output=tmp_path / "x.sig")
        assert (signed.recorded, signed.existed, signed.path) == (True, False, tmp_path / "x.sig")
    assert trust.sign(fused.key, key.signing()).existed
    assert len(trust.signatures(fused.key).signatures) == 1
    (tmp_path / "notes").write_text("x")
    for place in (tmp_path, tmp_path / "notes"):
        with pytest.raises(AlreadyExistsError):
            trust.sign("course_rec@1", key.signing(), output=place)
    trust.sign("course_rec@1", key.signing(), output=tmp_path / "notes", force=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "course_rec@1").mkdir()
    with pytest.raises(AmbiguousReferenceError):
        trust.sign("course_rec@1", key.signing())
    with pytest.raises(CheckFailedError):  # an empty folder
        trust.sign("./course_rec@1", key.signing())
    with pytest.raises(UnknownReferenceError):
        trust.sign("course_rec@9", key.signing())
    subject, public = trust.find("course_rec@1"), key.public.read_text()
    envelope = stocked.trust.signatures("course_rec@1").signatures
    data = (tmp_path / "notes").read_text()
    checker = KeyChecker.parse("x", public)
    known = {"key_id": checker.key_id, "scheme": "model-signing"}
    facts: dict[str, Any] = {**known, "envelope": data, "public": public}
    assert envelope and record_signature(stocked.workspace, "adapter", subject.digest, **facts).existed
    for kind, digest, change in (
        ("adapter", subject.digest, {"scheme": "x"}), ("adapter", "0" * 64, {}), ("fused", subject.digest, {}),
        ("adapter", trust.find("course_rec@2").digest, {}), ("adapter", subject.digest, {"key_id": "0" * 64}),
    ):  # fmt: skip
        with pytest.raises(FuseryError):
            record_signature(stocked.workspace, kind, digest, **{**facts, **change})
    assert stocked.upkeep.audit().ok
    with stocked.workspace.database.write() as session:
        session.execute(update(tables.SignatureRow).values(envelope="{}"))
    stocked.trust.add_key("key", key.public, ["*#*"])
    other, author = (
        stocked.workspace.acting(name, role="publisher") for name in ("mallory", stocked.workspace.actor)
    )
    with pytest.raises(RoleError):
        record_signature(other, "adapter", subject.digest, **facts)
    assert not record_signature(author, "adapter", subject.digest, **facts).existed


def test_odd_files_are_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("x")
    monkeypatch.setattr(signed_claim, "DEEPEST", 2)
    assert [problem.code for problem in signed_claim.hash_all(tmp_path, digests={}).problems] == ["too_deep"]
    monkeypatch.setattr(signed_claim, "DEEPEST", 3)
    assert signed_claim.hash_all(tmp_path, digests={}).manifest is not None
    monkeypatch.setattr(signed_claim, "_LARGEST", 50)
    for document in ({"format": "x"}, {"format": "x" * 60}, {"format": 5, "name": 7}):
        (tmp_path / "fusery.json").write_text(json.dumps(document))
        claim = signed_claim.read_claim(tmp_path)
        assert claim is not None and claim.problems and not claim.files
    (tmp_path / "fusery.json").unlink()
    for text in ("[]", "{}", '{"fusery": {"format": "x"}}'):
        (tmp_path / "adapter_metadata.json").write_text(text)
        assert signed_claim.read_claim(tmp_path) is None
    (tmp_path / "x.sig").write_text("no signature")
    result = verify(tmp_path / "a", signature=tmp_path / "x.sig")
    assert [problem.code for problem in result.problems] == ["bad_signature"] and result.verdict == "differs"


def test_tensors_under_other_names(tmp_path: Path) -> None:
    views = {name: View(name, "F32", (8, 8), tmp_path, 0, 256) for name in "abcd"}

    def ask(found: dict[str, str], recorded: dict[str, str]) -> Any:
        return compare({views[name]: digest for name, digest in found.items()}, recorded)

    moved = ask({"a": "1", "b": "2"}, {"x": "1", "y": "3"})
    assert (moved.renamed, moved.changed, moved.missing, moved.extra) == (1, ("y",), (), ())
    apart = ask({"a": "1", "b": "2"}, {"a": "1", "y": "3"})
    assert (apart.renamed, apart.changed, apart.missing, apart.extra) == (0, (), ("y",), ("b",))
    more = ask({"a": "1", "b": "2", "c": "4"}, {"x": "1", "y": "3"})
    assert (more.changed, more.missing, more.extra) == ((), ("y",), ("b", "c"))
    prefixed = ask({"a": "1"}, {"model.a": "2", "rope_freqs.weight": "3"})
    assert (prefixed.changed, prefixed.missing, prefixed.extra) == (("model.a",), (), ())
    file = tmp_path / "x.safetensors"
    arrays = {"flat": np.ones((4, 4)), "short": np.arange(100), "long": np.arange(200)}
    written = {name: ("F32", array.astype(np.float32)) for name, array in arrays.items()}
    tiny_models.write_tensors(file, written, None)
    held = {view.name: tensors.is_distinctive(view) for view in tensors.read_views(file)}
    assert held == {"flat": False, "short": False, "long": True}
