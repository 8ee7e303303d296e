"""`diff --weights` and `compare` through the registry: real adapters in a real store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import load_raw

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.storage.errors import BlobCorruptError


def updates(folder: Path, scale: float) -> dict[str, Any]:
    """Return the whole update of each module, computed the plain way."""
    raw = {name: value for name, (_, value) in load_raw(folder / "adapters.safetensors").items()}
    modules = {name.removesuffix(".lora_a") for name in raw if name.endswith(".lora_a")}
    return {
        module: scale
        * raw[f"{module}.lora_a"].astype(np.float64)
        @ raw[f"{module}.lora_b"].astype(np.float64)
        for module in modules
    }


def test_the_weights_of_two_versions(stocked: Registry, tmp_path: Path) -> None:
    found = stocked.adapters.diff("course_rec@1", "course_rec@2")
    assert found["changed"]["rank"] == [8, 4]
    scales = [stocked.adapters.show(f"course_rec@{version}")["scale"] for version in (1, 2)]
    first, second = (
        updates(tmp_path / name, scale) for name, scale in zip(("first", "second"), scales, strict=True)
    )
    assert {module["module"] for module in found["modules"]} == first.keys() == second.keys()
    norm = np.linalg.norm
    for module in found["modules"]:
        a, b = first[module["module"]], second[module["module"]]
        assert module["norm_a"] == pytest.approx(norm(a), rel=1e-5)
        assert module["norm_b"] == pytest.approx(norm(b), rel=1e-5)
        assert module["cosine"] == pytest.approx((a * b).sum() / norm(a) / norm(b), abs=1e-5)
        assert module["relative_change"] == pytest.approx(norm(a - b) / norm(a), rel=1e-5)
        assert 1 <= module["effective_rank_b"] <= 4 < module["effective_rank_a"] <= 8
        assert len(module["angles_in"]) == len(module["angles_out"]) == 4
    assert found["overall"]["norm_a"] == pytest.approx(
        sum(float(np.square(a).sum()) for a in first.values()) ** 0.5, rel=1e-5
    )
    same = stocked.adapters.diff("course_rec@1", "course_rec@1")
    assert (same["overall"]["relative_change"], same["overall"]["cosine"]) == (0.0, pytest.approx(1))
    assert all(module["relative_change"] == 0.0 for module in same["modules"])
    scratch = stocked.workspace.settings.cache
    assert not [path for path in scratch.rglob("*.safetensors") if path.is_file()]


def test_other_bases_and_damage_are_refused(stocked: Registry, tmp_path: Path, make_adapter: Any) -> None:
    base = tiny_models.make_base(tmp_path / "other", seed=5)
    stocked.bases.add(base, name="other")
    stocked.adapters.register(make_adapter("foreign", base=base), base="other", task="foreign")
    with pytest.raises(BadInputError) as caught:
        stocked.adapters.diff("course_rec@1", "foreign@1")
    assert str(caught.value.hint).startswith("fusery diff course_rec_v1_20260115 foreign_v1_")
    assert "base" in stocked.adapters.compare(["course_rec@1", "foreign@1"]).differs
    files = stocked.adapters.show("course_rec@1")["files"]
    [digest] = [file["sha256"] for file in files if file["path"].endswith("safetensors")]
    path = stocked.workspace.store.local_path(digest)
    assert path is not None
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BlobCorruptError):
        stocked.adapters.diff("course_rec@1", "course_rec@2")


def test_a_store_elsewhere_gives_the_same(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = stocked.adapters.diff("course_rec@1", "course_rec@2")
    monkeypatch.setattr(type(stocked.workspace.store), "local_path", lambda *_, **__: None)
    assert stocked.adapters.diff("course_rec@1", "course_rec@2") == expected


def test_compare_says_what_differs_and_what_is_the_same(stocked: Registry, make_adapter: Any) -> None:
    stocked.adapters.register(make_adapter("third", seed=3), base="tiny", task="course_rec", date="20260301")
    stocked.fused.fuse("course_rec@1")
    found = stocked.adapters.compare(["course_rec@1", "course_rec@2", "course_rec@latest"])
    dates = ("20260115", "20260201", "20260301")
    assert found["adapters"] == [f"course_rec_v{number}_{day}" for number, day in enumerate(dates, 1)]
    assert found["differs"]["val_loss"] == [0.61, 0.42, None]
    assert found["differs"]["rank"] == [8, 4, 8]
    assert found["differs"]["fused.verdict"][1:] == [None, None]
    assert found["differs"]["fused.retained"][0] == pytest.approx(
        stocked.fused.fidelity("course_rec@1")["fidelity"]["retained"]
    )
    assert found["same"]["base"] == "tiny"
    assert not found["differs"].keys() & found["same"].keys()
    assert all(len(set(map(str, values))) > 1 for values in found["differs"].values())


def test_compare_takes_two_different_adapters(stocked: Registry) -> None:
    for references in ([], ["course_rec@1"], ["course_rec@1", "course_rec_v1_20260115"]):
        with pytest.raises(BadInputError):
            stocked.adapters.compare(references)
    with pytest.raises(UnknownReferenceError):
        stocked.adapters.compare(["course_rec@1", "nobody@1"])
    with pytest.raises(BadInputError):
        stocked.adapters.compare(["course_rec@1"] * 51)


def test_curves_over_one_another(stocked: Registry, tmp_path: Path) -> None:
    place, pair = tmp_path / "curves.svg", ["course_rec@1", "course_rec@2"]
    with pytest.raises(BadInputError):  # no training curve
        stocked.adapters.compare(pair, plot=place)
    assert not place.exists()
    points = [(1, 1, None, 2.0), (1, 10, 1.5, None), (1, 20, 1.2, 1.1), (2, 20, 1.0, 0.9), (2, 1, 2.5, 2.2)]
    with stocked.workspace.database.write() as session:
        for adapter, at, train, val in points:
            row = {"adapter_id": adapter, "iteration": at, "train_loss": train, "val_loss": val}
            session.add(tables.CurvePointRow(**row))
    found = stocked.adapters.compare(pair, plot=place)
    assert [point["iteration"] for point in found["curves"]["course_rec_v2_20260201"]] == [1, 20]
    first = {"iteration": 1, "train_loss": None, "val_loss": 2.0, "learning_rate": None}
    assert found["curves"]["course_rec_v1_20260115"][0] == first
    drawing = place.read_bytes()
    assert drawing.startswith(b"<?xml")
    stocked.adapters.compare(pair, plot=place, force=True)
    assert place.read_bytes() == drawing


def test_a_module_that_only_one_adapts(stocked: Registry, make_adapter: Any) -> None:
    folder = make_adapter("fewer", seed=4, keys=["self_attn.q_proj"])
    stocked.adapters.register(folder, base="tiny", task="fewer")
    found = stocked.adapters.diff("fewer@1", "course_rec@1")
    assert found["overall"]["only_b"] > 0 and found["overall"]["only_a"] == 0
    assert all("q_proj" in each["module"] for each in found["modules"] if each["cosine"] is not None)


def test_metrics_are_compared_where_they_were_measured_alike(stocked: Registry) -> None:
    one, two = "course_rec@1", "course_rec@2"
    for reference, results, on in (
        (one, {"acc": 0.25, "f1": 0.5, "own": 1.0, "loss": 3.0}, {"dataset": "x"}),
        (one, {"acc": 0.75}, {"dataset": "y"}),
        (two, {"acc": 0.5, "f1": 0.75}, {"dataset": "x"}),
        (two, {"loss": 2.0}, {}),
    ):
        stocked.evaluations.record(reference, results, **on)
    found = stocked.adapters.compare([one, two])
    measured = {name: values for name, values in found.differs.items() if name.startswith("metric.")}
    assert measured == {
        "metric.acc (x)": (0.25, 0.5), "metric.acc (y)": (0.75, None), "metric.f1": (0.5, 0.75),
        "metric.own": (1.0, None), "metric.loss (x)": (3.0, None), "metric.loss ()": (None, 2.0),
    }  # fmt: skip
    [finding] = found.findings
    assert (finding.code, finding.metric, finding.adapters) == (
        "metric_other_dataset", "loss", ("course_rec_v1_20260115", "course_rec_v2_20260201"),
    )  # fmt: skip
    assert "on x and of course_rec_v2_20260201 on undeclared data" in finding.why
    assert [each.version for each in stocked.adapters.list(sort="metric.acc")] == [2, 1]
    assert [each.version for each in stocked.adapters.list(sort="metric.acc:desc")] == [1, 2]
    both = stocked.adapters.compare("course_rec").differs
    assert both == found.differs
    stocked.adapters.amend(one, tags={"team": "x"}, reason="forgotten")
    assert stocked.adapters.compare([one, two]).amended == {"tags": ("course_rec_v1_20260115",)}
    assert [row.val_loss_change for row in stocked.adapters.history("course_rec")] == [
        None,
        pytest.approx(-0.19),
    ]
