from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_models

from fusery.registry import Registry, Reporter
from fusery.registry.bundles import Choices, Layout, LayoutError, Target, model_layout
from fusery.registry.bundles import target as targets
from fusery.registry.errors import AlreadyExistsError, BadInputError
from fusery.registry.fusion.request import FuseRequest
from fusery.registry.runtime.document import read_document
from fusery.storage.digest import digest_file
from fusery.storage.plugins import Plugin, PluginError

V1, V2 = "course_rec_v1_20260115", "course_rec_v2_20260201"


@pytest.mark.parametrize("target", ["model", "docker"])
def test_a_bundle_is_whole_and_traced_back(target: str, stocked: Registry, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    bundle = stocked.bundles.materialize("course_rec@1", tmp_path / "out", target=target)
    assert {entry.path for entry in bundle.manifest} >= {"fusery.json", "README.md"}
    for entry in bundle.manifest:
        assert digest_file(Path(bundle.path) / entry.path) == (entry.sha256, entry.size)
    text = (Path(bundle.path) / "fusery.json").read_text(encoding="utf-8")
    for fact in ("course_rec_v1_20260115", "tiny", "courses", str(bundle.fused)):
        assert fact in text
    assert stocked.upkeep.audit().ok
    document = bundle.to_dict()
    assert document.keys() >= {"target", "path", "digest", "adapters", "files"}
    assert document["adapters"] == ["course_rec_v1_20260115"]
    second = stocked.bundles.materialize("course_rec@1", tmp_path / "out", target=target)
    assert (bundle.existed, second.existed) == (False, True)
    assert bundle.manifest == second.manifest
    assert len(stocked.adapters.show("course_rec@1")["bundles"]) == 1


def test_what_is_there_is_not_replaced_without_force(stocked: Registry, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "precious.txt").write_text("mine")
    for version in (1, 2):
        with pytest.raises(AlreadyExistsError) as caught:
            stocked.bundles.materialize(f"course_rec@{version}", place)
        assert "--force" in str(caught.value.hint)
        assert version == 2 or (place / "precious.txt").read_text() == "mine"
        stocked.bundles.materialize(f"course_rec@{version}", place, force=True)
        assert not (place / "precious.txt").exists()
        assert f"course_rec_v{version}" in (place / "fusery.json").read_text(encoding="utf-8")
        assert stocked.upkeep.audit().ok


def test_the_audit_of_bundles_that_were_moved_edited_or_added_to(stocked: Registry, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stocked.bundles.materialize("course_rec@1", out)
    out.rename(tmp_path / "elsewhere")
    assert stocked.upkeep.audit().ok
    (tmp_path / "elsewhere").rename(out)
    (out / "model-evil.safetensors").write_bytes(b"x")
    assert [problem.code for problem in stocked.upkeep.audit().problems] == ["bundle_added"]
    (out / "model-evil.safetensors").unlink()
    card = out / "README.md"
    card.chmod(0o644)
    card.write_text("edited")
    assert [problem.code for problem in stocked.upkeep.audit().problems] == ["bundle_changed"]


def test_a_place_is_one_place_however_it_is_spelled(stocked: Registry, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    stocked.bundles.materialize("course_rec@1", tmp_path / "out")
    for version, spelling in ((2, "out"), (1, "sub/../out"), (2, "link/out")):
        stocked.bundles.materialize(f"course_rec@{version}", tmp_path / spelling, force=True)
        assert stocked.upkeep.audit().ok
    shown = stocked.adapters.show("course_rec@2")["bundles"]
    paths = {row["path"] for row in shown}
    assert {path for path in paths if "(replaced)" not in path} == {str((tmp_path / "out").resolve())}


@pytest.mark.parametrize("step", ["publish_folder", "_record"])
def test_a_crash_around_the_swap_leaves_a_clean_audit(
    step: str, stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fusery.registry.bundles import delivery as local
    from fusery.registry.bundles import materialize

    stocked.bundles.materialize("course_rec@1", tmp_path / "out")

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(local if step == "publish_folder" else materialize, step, crash)
        stocked.bundles.materialize("course_rec@2", tmp_path / "out", force=True)
    assert stocked.upkeep.audit().ok
    stocked.bundles.materialize("course_rec@2", tmp_path / "out", force=True)
    assert stocked.upkeep.audit().ok


def test_a_bundle_at_a_url(stocked: Registry) -> None:
    url = f"memory://{uuid.uuid4().hex}/ship"
    told: list[tuple[int, int]] = []
    stocked.fused.fuse("course_rec@1")
    first = stocked.bundles.materialize(
        "course_rec@1", url, reporter=Reporter(progress=lambda done, total: told.append((done, total)))
    )
    assert told[-1] == (first.manifest.size, first.manifest.size)
    assert (first.path, first.existed) == (url, False)
    assert stocked.bundles.materialize("course_rec@1", url).existed
    with pytest.raises(AlreadyExistsError):
        stocked.bundles.materialize("course_rec@2", url)
    other = stocked.bundles.materialize("course_rec@2", url, force=True)
    assert other.adapters == ("course_rec_v2_20260201",)
    assert stocked.upkeep.audit().ok
    assert [row["path"] for row in stocked.adapters.show("course_rec@2")["bundles"]] == [url]


def test_an_archive_says_by_its_name_how_it_is_compressed(stocked: Registry, tmp_path: Path) -> None:
    gz, zst = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
    magic = {"a.tar.gz": gz, "a.tar.zst": zst, "b": zst}
    for name, begins in magic.items():
        bundle = stocked.bundles.materialize("course_rec@1", tmp_path / name, target="archive")
        expected = tmp_path / (name if "." in name else f"{name}.tar.zst")
        assert bundle.path == str(expected)
        assert expected.read_bytes().startswith(begins)
        assert [entry.size for entry in bundle.manifest] == [expected.stat().st_size]
    assert stocked.bundles.materialize("course_rec@1", tmp_path / "b", target="archive").existed
    with pytest.raises(AlreadyExistsError):
        stocked.bundles.materialize("course_rec@2", tmp_path / "b", target="archive")
    assert stocked.upkeep.audit().ok
    damaged = tmp_path / "a.tar.gz"
    damaged.write_bytes(damaged.read_bytes() + b"x")
    assert [problem.code for problem in stocked.upkeep.audit().problems] == ["bundle_changed"]


def test_adapters_beside_their_base(stocked: Registry, tmp_path: Path) -> None:
    def record(name: str) -> dict[str, object]:
        return dict(json.loads((tmp_path / name / "fusery.json").read_bytes()))

    mix = Choices(models=("mix=course_rec@1:1,course_rec@2:3",))
    both = ["course_rec@1", "course_rec@2"]
    made = stocked.bundles.materialize(both, tmp_path / "both", target="adapters", choices=mix)
    assert (made.adapters, made.fused, made.layout.adapters) == ((V1, V2), None, 2)
    assert record("both")["name"] == "tiny-adapters"
    names = [adapter["names"] for adapter in record("both")["adapters"]]  # type: ignore[attr-defined]
    assert names == [["course_rec@1", "course_rec"], ["course_rec@2"]]
    assert read_document(tmp_path / "both" / "serving.json").routes["mix"] == {V1: 1.0, V2: 3.0}
    stocked.bundles.materialize("course_rec@1", tmp_path / "one", target="adapters")
    assert record("one")["name"] == V1
    stocked.bases.add(tiny_models.make_base(tmp_path / "other", seed=5), name="other")
    other = {"request": FuseRequest(base="other")}
    for wrong in ({"content": "fused"}, {"target": "model", "choices": mix}, {"target": "no such"}, other):
        with pytest.raises(BadInputError):
            stocked.bundles.materialize("course_rec@1", tmp_path / "x", **{"target": "adapters"} | wrong)


def test_many_at_once(stocked: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSERY_CLUSTER", raising=False)
    said: list[str] = []
    progress: list[tuple[int, int]] = []
    reporter = Reporter(said.append, lambda done, total: progress.append((done, total)))
    (tmp_path / V2).mkdir()
    (tmp_path / V2 / "precious").touch()
    for pattern, location in (("x", None), ("{name}", "s3://bucket/x")):
        with pytest.raises(BadInputError):
            stocked.bundles.materialize_all(tmp_path / pattern, choices=Choices(location=location), jobs=1)
    here = Choices(location="s3://bucket/{name}")
    done = stocked.bundles.materialize_all(tmp_path / "{name}", choices=here, jobs=1, reporter=reporter)
    assert [bundle.path for bundle in done.made] == [str(tmp_path / V1)]
    assert ([failure.adapter for failure in done.failures], done.ok) == ([V2], False)
    assert done.failures[0].error.message in said[-1]
    assert (f"{V1}: done" in said, progress[-2:]) == (True, [(1, 2), (2, 2)])
    stocked.adapters.yank("course_rec@2", reason="bad data")
    fused = stocked.fused.fuse_all(jobs=1, reporter=reporter)
    assert ([model.adapter for model in fused.made], fused.ok) == ([V1], True)
    assert "1 yanked adapter is left out" in said


def test_broken_models_are_found(fused_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(fused_folder, tmp_path / "model")
    index, weights = folder / "model.safetensors.index.json", folder / "model.safetensors"
    index.unlink(missing_ok=True)
    assert model_layout(folder).tensors > 0
    index.write_text('{"weight_map": {"x": "model.safetensors"}}')
    with pytest.raises(LayoutError):
        model_layout(folder)
    index.unlink()
    shutil.copyfile(weights, folder / "model-2.safetensors")  # every tensor twice
    with pytest.raises(LayoutError):
        model_layout(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(LayoutError):
        model_layout(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(LayoutError):
        model_layout(folder)


def test_plugins_of_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin("fusery.targets", "mine", "their-package", "1.0", "their_module:TARGET")
    target, module = (
        Target("mine", "their_module"),
        SimpleNamespace(write=print, check=lambda folder: Layout()),
    )
    monkeypatch.setitem(__import__("sys").modules, "their_module", module)
    wrong = (
        None,
        replace(target, name="other"),
        replace(target, contents=()),
        replace(target, contents=("x",)),
    )
    for loaded in wrong:
        monkeypatch.setattr(targets, "load_plugin", lambda plugin, own, loaded=loaded: loaded)
        with pytest.raises(PluginError):
            targets.target_of(plugin)
    monkeypatch.setattr(targets, "load_plugin", lambda plugin, own: target)
    made = targets.target_of(plugin)
    assert (made.plugin, made.check(Path())) == (plugin, Layout())
    module.check = lambda folder: None
    with pytest.raises(PluginError):
        made.check(Path())
    module.check = None
    with pytest.raises(PluginError):
        targets.target_of(plugin)
