"""What a thing says of itself is held against what it is; and what registry it is asked of makes no difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import altered_models
import pytest
import tiny_models
from kept_registries import FIRST, KEEP, SECOND, Museum
from sqlalchemy import event, select, update

from fusery.registry import Registry, Reporter, tables
from fusery.registry.provenance.identified import Identified


def said(found: Identified) -> dict[str, tuple[str, bool | None]]:
    """Return what each source says, and whether that is so, without what proves nothing."""
    return {claim.source: (claim.kind, claim.truth) for claim in found.claims if claim.digest}


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
    with stocked.workspace.database._engine.begin() as connection:
        connection.execute(update(tables.TensorRow).values(digest="ab" * 32))
    report = stocked.upkeep.audit()
    assert {problem.subject.partition(" ")[0] for problem in report.problems} == {"manifest"}
