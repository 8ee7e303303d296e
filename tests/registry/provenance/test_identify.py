"""Altered copies of recorded files, their claims, and files that are not on record or hostile."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import altered_models
import numpy as np
import pytest
import tiny_models
from kept_registries import FIRST, KEEP, LLAMA, OTHER, QWEN, SECOND, Museum
from sqlalchemy import event, select, text

from fusery.registry import Registry, Reporter, tables
from fusery.registry.provenance.identified import Identified
from fusery.storage.errors import FormatError, FuseryError, MissingFileError, UnsafePathError

Make = Callable[[Path, Path], Path]
"""Makes a copy of a folder at a place, and returns what is to be identified."""

CHANGED = "model.layers.2.mlp.up_proj.weight"
LEFT_OUT = "model.layers.1.self_attn.o_proj.weight"


def saved(change: altered_models.Change = lambda tensors: tensors, **options: object) -> Make:
    """Return what saves a model anew, changed."""
    return lambda source, target: altered_models.saved_anew(source, target / "x", change, **options)  # type: ignore[arg-type]


def alone(source: Path, target: Path) -> Path:
    """Save nothing but the weights, under a name that says nothing."""
    return altered_models.saved_anew(source, target, companions=False) / "weights.safetensors"


SAME: dict[str, tuple[Make, str]] = {
    "renamed": (lambda source, target: altered_models.renamed(source, target / "x"), "files"),
    "stripped": (saved(), "tensors"),
    "alone": (alone, "tensors"),
    "prefix": (saved(altered_models.shortened), "tensors"),
    "nameless": (saved(altered_models.numbered), "tensors"),
    "float16": (saved(altered_models.converted("F16")), "numbers"),
}
"""What is the same numbers still, and how that is found."""

ALTERED: dict[str, tuple[Make, str, str]] = {
    "changed": (saved(altered_models.touched(CHANGED)), "changed", CHANGED),
    "left out": (saved(altered_models.without(LEFT_OUT)), "missing", LEFT_OUT),
}
"""What was changed in one tensor."""

MODELS = {
    LLAMA: ("base", LLAMA),
    QWEN: ("base", QWEN),
    f"fused {SECOND}": ("fused", SECOND),
    f"fused {OTHER}": ("fused", OTHER),
}


PAIRS = ((LLAMA, f"fused {OTHER}"), (QWEN, f"fused {SECOND}"))
"""A base and a model on the other base; each way of making a copy is tried on one pair."""


def the_one(found: Identified, kind: str, name: str) -> dict[str, object]:
    """Return the surest answer, which must be this one and no other of another name."""
    told = found.to_dict()
    assert told["verdict"] == "known"
    best = [match for match in told["matches"] if match["confidence"] == told["matches"][0]["confidence"]]
    assert {(match["kind"], match["name"]) for match in best} == {(kind, name)}, told["matches"]
    return dict(best[0])


@pytest.mark.parametrize(("number", "way"), list(enumerate(SAME)))
def test_a_copy_of_a_model_is_identified(museum: Museum, tmp_path: Path, number: int, way: str) -> None:
    make, evidence = SAME[way]
    for model in PAIRS[number % 2]:
        (tmp_path / model).mkdir()
        found = museum.registry.provenance.identify(make(museum.originals[model], tmp_path / model))
        match = the_one(found, *MODELS[model])
        assert match["identical"]
        of_float32 = way == "float16" and model in (QWEN, f"fused {OTHER}")
        assert match["evidence"] == evidence or of_float32
        assert (match["changed"], match["missing"], match["extra"]) == ([], [], [])


@pytest.mark.parametrize(("number", "way"), list(enumerate(ALTERED)))
def test_a_changed_tensor_is_named(museum: Museum, tmp_path: Path, number: int, way: str) -> None:
    make, what, name = ALTERED[way]
    for model in PAIRS[number % 2]:
        (tmp_path / model).mkdir()
        found = museum.registry.provenance.identify(make(museum.originals[model], tmp_path / model))
        match = the_one(found, *MODELS[model])
        told = {key: match[key] for key in ("changed", "missing", "extra")}
        assert told == {"changed": [], "missing": [], "extra": [], what: [name]}
        assert match["layers"] == [int(name.split(".")[2])]
        assert f"layer {name.split('.')[2]}" in str(match["sentence"]) or what == "missing"
        assert (match["identical"], found.intact) == (False, False)


@pytest.mark.parametrize(
    ("name", "change", "evidence"),
    [
        (FIRST, lambda tensors: tensors, "tensors"),
        (OTHER, altered_models.numbered, "tensors"),
        (SECOND, altered_models.converted("F16"), "numbers"),
        (OTHER, altered_models.converted("BF16"), "numbers"),
    ],
    ids=["stripped", "nameless", "float16", "bfloat16"],
)
def test_a_copy_of_an_adapter_is_identified(
    museum: Museum, tmp_path: Path, name: str, change: altered_models.Change, evidence: str
) -> None:
    copy = altered_models.saved_anew(museum.originals[name], tmp_path / "x", change)
    match = the_one(museum.registry.provenance.identify(copy), "adapter", name)
    assert (match["evidence"], match["identical"]) == (evidence, True)


@pytest.mark.parametrize("target", ["archive", "model", "vllm", "llamacpp"])
def test_a_bundle_is_known_again_under_another_name(museum: Museum, tmp_path: Path, target: str) -> None:
    options = {} if target in ("vllm", "llamacpp") else {"request": KEEP}
    written = museum.registry.bundles.materialize(SECOND, tmp_path / "out" / target, target=target, **options)
    place = Path(written.path)
    moved = place.rename(tmp_path / "something-else")
    found = museum.registry.provenance.identify(moved).to_dict()
    kinds = {(match["kind"], match["name"]) for match in found["matches"] if match["identical"]}
    assert ("adapter" if options == {} else "fused", SECOND) in kinds
    assert ("bundle", str(place)) in kinds
    assert all(claim["true"] is not False for claim in found["claims"])


def test_a_changed_configuration_of_an_adapter_is_named(museum: Museum, tmp_path: Path) -> None:
    copy = shutil.copytree(museum.originals[FIRST], tmp_path / "x")
    altered_models.with_config(
        copy, "adapter_config.json", lora_parameters={"rank": 8, "scale": 1.0, "dropout": 0.0}
    )
    found = museum.registry.provenance.identify(copy)
    match = the_one(found, "adapter", FIRST)
    assert match["files"]["changed"] == ["adapter_config.json"]  # type: ignore[index]
    assert not found.intact


PACKED = "model.layers.1.self_attn.q_proj"


def test_a_changed_part_of_a_quantised_matrix_is_named(registry: Registry, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core")
    base = tiny_models.make_base(tmp_path / "base", bits=4, layers=2)
    registry.bases.add(base, name="packed")
    for part in ("weight", "scales", "biases"):
        touched = altered_models.touched(f"{PACKED}.{part}")
        copy = altered_models.saved_anew(base, tmp_path / part, touched, shards=2)
        (match,) = registry.provenance.identify(copy).matches
        told = match.to_dict()
        assert (told["name"], told["changed"], told["layers"]) == ("packed", [f"{PACKED}.{part}"], [1])
    stranger = tiny_models.make_base(tmp_path / "x", bits=4, layers=2, seed=3)
    assert registry.provenance.identify(stranger).matches == ()


def said(found: Identified) -> dict[str, tuple[str, bool | None]]:
    """Return what each source says, and whether that is so, without what proves nothing."""
    return {claim.source: (claim.kind, claim.true) for claim in found.claims if claim.digest}


@pytest.fixture
def bundle(museum: Museum, tmp_path: Path) -> Path:
    """A bundle of the second version, as `materialize` writes it."""
    written = museum.registry.bundles.materialize(SECOND, tmp_path / "bundle", target="model", request=KEEP)
    return Path(written.path)


def test_a_bundle_tells_the_truth_also_saved_anew(museum: Museum, bundle: Path, tmp_path: Path) -> None:
    found = museum.registry.provenance.identify(bundle)
    assert said(found) == {"fusery.json": ("fused", True), "model.safetensors": ("fused", True)}
    assert found.intact
    told = found.to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    options = {"file": "model.safetensors", "metadata": {"format": "pt"}}
    copy = altered_models.saved_anew(bundle, tmp_path / "x", **options)  # type: ignore[arg-type]
    assert said(museum.registry.provenance.identify(copy)) == {"fusery.json": ("fused", True)}


def test_a_bundle_with_another_model_in_it_does_not(museum: Museum, bundle: Path) -> None:
    file = bundle / "model.safetensors"
    file.unlink()
    shutil.copyfile(museum.originals[f"fused {FIRST}"] / "model.safetensors", file)
    found = museum.registry.provenance.identify(bundle)
    assert said(found)["fusery.json"] == ("fused", False)
    assert said(found)["model.safetensors"] == ("fused", True)
    assert found.matches[0].name == FIRST
    assert not found.intact


def test_a_forged_key_is_not_believed(museum: Museum, tmp_path: Path) -> None:
    """A stranger takes over what a model on record says of itself."""
    with museum.registry.workspace.database.read() as session:
        key = session.scalars(select(tables.FusedRow.key)).first()
    stranger = tiny_models.make_base(tmp_path / "stranger", layers=3, seed=77)
    copy = altered_models.saved_anew(stranger, tmp_path / "x", metadata={"fusery.key": str(key)})
    found = museum.registry.provenance.identify(copy)
    assert found.verdict == "unknown"
    assert said(found) == {"weights.safetensors": ("fused", False)}
    other = altered_models.saved_anew(stranger, tmp_path / "y", metadata={"fusery.key": "ab" * 32})
    found = museum.registry.provenance.identify(other)
    assert said(found) == {"weights.safetensors": ("fused", None)}, "of another registry"


def test_an_exported_adapter_tells_the_truth_until_it_is_changed(museum: Museum, tmp_path: Path) -> None:
    exported = museum.registry.exchange.export(FIRST, tmp_path / "out").path
    assert said(museum.registry.provenance.identify(exported)) == {"adapter_metadata.json": ("adapter", True)}
    altered_models.with_config(exported, "adapter_config.json", num_layers=7)
    found = museum.registry.provenance.identify(exported)
    assert said(found) == {"adapter_metadata.json": ("adapter", False)}
    assert found.verification is not None and not found.intact
    assert [problem.path for problem in found.verification.problems] == ["adapter_config.json"]


@pytest.fixture
def fused(stocked: Registry) -> Path:
    """The second version, fused, in the cache of a registry."""
    return stocked.fused.fuse("course_rec@2", KEEP).path


def test_the_index_is_made_once(stocked: Registry, fused: Path, tmp_path: Path) -> None:
    name = "model.layers.3.mlp.gate_proj.weight"
    copy = altered_models.saved_anew(fused, tmp_path / "x", altered_models.touched(name), shards=2)
    told: list[str] = []
    first = stocked.provenance.identify(copy, reporter=Reporter(told.append))
    assert (first.matches[0].kind, first.matches[0].to_dict()["changed"]) == ("fused", [name])
    assert told == ["reading tiny and 1 more, not looked at before"]
    statements: list[str] = []
    engine = stocked.workspace.database._engine
    event.listen(engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    second = stocked.provenance.identify(copy, reporter=Reporter(told.append))
    assert (second.to_dict(), len(told)) == (first.to_dict(), 1)
    assert not any(text.startswith(("INSERT", "UPDATE")) for text in statements)


def test_an_evicted_fused_model_is_known_if_it_was_looked_at_before(
    stocked: Registry, fused: Path, tmp_path: Path
) -> None:
    copy = altered_models.saved_anew(fused, tmp_path / "x")
    stocked.provenance.identify(copy)
    stocked.workspace.cache.remove(fused.name)
    match = stocked.provenance.identify(copy).matches[0]
    assert (match.kind, match.evidence, match.identical) == ("fused", "tensors", True)


def test_an_evicted_fused_model_that_was_not_is_named_as_not_compared(
    stocked: Registry, fused: Path, tmp_path: Path
) -> None:
    copy = altered_models.saved_anew(fused, tmp_path / "x")
    stocked.workspace.cache.remove(fused.name)
    found = stocked.provenance.identify(copy)
    assert [(match.kind, match.identical) for match in found.matches] == [("base", False)]
    assert [each.reason for each in found.unread] == ["its files are no longer in the cache"]
    stranger = tiny_models.make_base(tmp_path / "stranger", seed=8)
    assert stocked.provenance.identify(stranger).verdict == "inconclusive"
    stocked.fused.fuse("course_rec@2", KEEP)
    assert [match.kind for match in stocked.provenance.identify(copy).matches] == ["fused"]


def test_damaged_files_on_record_teach_nothing(stocked: Registry, fused: Path, tmp_path: Path) -> None:
    copy = altered_models.saved_anew(fused, tmp_path / "x")
    file = fused / "model.safetensors"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    found = stocked.provenance.identify(copy)
    assert [each.reason for each in found.unread] == ["its files are damaged"]
    assert [match.kind for match in found.matches] == ["base"]


def test_the_index_is_attributed_and_sealed(stocked: Registry, fused: Path, tmp_path: Path) -> None:
    """What `identify` writes has an entry of its own in the log; what somebody else changes in it is found by an audit."""
    stocked.provenance.identify(altered_models.saved_anew(fused, tmp_path / "x"))
    written = [
        entry for entry in stocked.upkeep.log() if entry.action in ("registry.indexed", "records.changed")
    ]
    assert [entry.action for entry in written] == ["registry.indexed"] * 2
    assert stocked.upkeep.audit().ok
    with stocked.workspace.database.write() as session:
        session.execute(text(f"UPDATE tensor SET digest = '{'ab' * 32}'"))
    report = stocked.upkeep.audit()
    assert {problem.subject.partition(" ")[0] for problem in report.problems} == {"manifest"}


def foreign_model(folder: Path, **settings: object) -> Path:
    """Write a model of the shapes that are on record, with weights of its own."""
    return tiny_models.make_base(folder, **{"layers": 3, "seed": 99, **settings})  # type: ignore[arg-type]


def flat_norms(folder: Path) -> Path:
    """Write a model whose norms are all ones, as those of many are, and on record as well."""
    source = foreign_model(folder / "source", seed=98)

    def flat(tensors: altered_models.Tensors) -> altered_models.Tensors:
        return {
            name: (dtype, np.full_like(values, 0x3F80) if values.ndim == 1 else values)
            for name, (dtype, values) in tensors.items()
        }

    return altered_models.saved_anew(source, folder / "x", flat)


def written(data: bytes, name: str = "file.bin") -> Callable[[Path], Path]:
    """Return what writes a file."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def empty(folder: Path) -> Path:
    """Make a folder with nothing in it."""
    (folder / "x").mkdir()
    return folder / "x"


def companions(folder: Path) -> Path:
    """Write the tokenizer of what is on record, and no weights."""
    source = foreign_model(folder / "source")
    for file in source.glob("*.safetensors"):
        file.unlink()
    (source / "config.json").unlink()
    return source


UNKNOWN: dict[str, Callable[[Path], Path]] = {
    "same shapes": foreign_model,
    "qwen": lambda folder: foreign_model(folder / "x", kind="qwen2", dtype="float32", tied=True),
    "hf": lambda folder: foreign_model(folder / "x", layout="hf"),
    "flat norms": flat_norms,
    "adapter": lambda folder: tiny_models.make_adapter(folder / "a", foreign_model(folder / "b"), seed=55),
    "gguf": lambda folder: altered_models.as_gguf(foreign_model(folder / "x"), folder / "x.gguf", "q8_0"),
    "text": written(b"hello\n", "README.md"),
    "empty folder": empty,
    "companions": companions,
}


def test_models_that_are_not_on_record_are_unknown(museum: Museum, tmp_path: Path) -> None:
    for kind, make in UNKNOWN.items():
        (tmp_path / kind).mkdir()
        found = museum.registry.provenance.identify(make(tmp_path / kind))
        assert (found.verdict, found.matches, found.intact) == ("unknown", (), False), kind


HOSTILE: dict[str, tuple[bytes, str]] = {
    "safetensors": (struct.pack("<Q", 1 << 62) + b"{}", "longer than the file"),
    "safetensors deep": (struct.pack("<Q", 40000) + b'{"' + b"[" * 40000, "safetensors"),
    "gguf": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60), "tensors, more than"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_and_leave_nothing(museum: Museum, tmp_path: Path, kind: str) -> None:
    data, why = HOSTILE[kind]
    path = tmp_path / ("x.safetensors" if kind.startswith("safetensors") else "x")
    path.write_bytes(data)
    with pytest.raises(FuseryError, match=why) as refused:
        museum.registry.provenance.identify(path)
    assert "\n" not in refused.value.message
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert list((museum.registry.workspace.settings.cache / "tmp").iterdir()) == []


@pytest.mark.parametrize("start", [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", bytes(257) + b"ustar"])
def test_an_archive_that_is_not_on_record_is_not_unpacked(
    museum: Museum, tmp_path: Path, start: bytes
) -> None:
    (tmp_path / "x").write_bytes(start + bytes(600))
    found = museum.registry.provenance.identify(tmp_path / "x")
    assert (found.kind, found.verdict) == ("archive", "inconclusive")
    assert "unpack" in found.problems[0]


def test_a_folder_is_told_although_a_file_of_it_is_damaged(museum: Museum, tmp_path: Path) -> None:
    copy = altered_models.saved_anew(museum.originals[LLAMA], tmp_path / "x", shards=3)
    (copy / "part-1.safetensors").write_bytes((copy / "part-1.safetensors").read_bytes()[:-100])
    found = museum.registry.provenance.identify(copy)
    assert found.matches[0].name == LLAMA
    assert "part-1.safetensors" in found.problems[0]
    assert not found.intact


def test_a_file_of_holes_is_not_hashed(museum: Museum, tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [1 << 40], "data_offsets": [0, 1 << 40]}}).encode()
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (1 << 40))
    with pytest.raises(UnsafePathError):
        museum.registry.provenance.identify(path)


def test_nothing_at_the_path_and_a_link_out_of_a_folder(museum: Museum, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("nowhere", "pipe"):
        with pytest.raises(MissingFileError):
            museum.registry.provenance.identify(tmp_path / name)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "model.safetensors").symlink_to(museum.originals[LLAMA] / "model.safetensors")
    with pytest.raises(UnsafePathError):
        museum.registry.provenance.identify(tmp_path / "x")


def test_documents_that_lie_about_their_kind_are_passed_over(museum: Museum, tmp_path: Path) -> None:
    copy = altered_models.saved_anew(museum.originals[FIRST], tmp_path / "x")
    for name, content in (
        (
            "fusery.json",
            json.dumps({"format": "fusery.bundle.v1", "files": 7, "adapters": [1], "provenance": []}),
        ),
        ("adapter_metadata.json", "[" * 1000),
    ):
        (copy / name).write_text(content)
    found = museum.registry.provenance.identify(copy)
    assert (found.matches[0].name, found.claims) == (FIRST, ())
    assert "adapter_metadata.json" in found.problems[0]
    with pytest.raises(FormatError):
        museum.registry.provenance.identify(written(b"GGUF\x03")(tmp_path))
