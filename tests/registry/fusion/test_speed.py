"""The speed of a format on this machine: measured once, recorded, and used by `auto` if speed is preferred."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tiny_models

from fusery.registry import Registry, Reporter
from fusery.registry.fusion import request as requests
from fusery.registry.fusion import speed
from fusery.registry.fusion.request import FuseRequest
from fusery.registry.fusion.speed import times_faster

FOUR = {"bits": 4, "group_size": 64}


def test_a_format_is_measured_once_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[int, int, str]] = []

    def measure(*form: int | str) -> float:
        measured.append(form)  # type: ignore[arg-type]
        return 2.5

    monkeypatch.setattr(speed, "_measured", measure)
    for _ in range(2):
        assert times_faster(tmp_path / "cache", FOUR) == 2.5
    assert times_faster(tmp_path / "cache", {**FOUR, "mode": "mxfp4"}) == 2.5
    assert measured == [(4, 64, "affine"), (4, 64, "mxfp4")]
    file = tmp_path / "cache" / "speed.json"
    document = json.loads(file.read_text())
    assert document["times"] == {"affine-4-64": 2.5, "mxfp4-4-64": 2.5}
    wrong = json.dumps({**document, "times": {"affine-4-64": -5.0}})
    for text in (json.dumps({**document, "machine": "another"}), '{"times": 5}', "not JSON", wrong):
        measured.clear()
        file.write_text(text)
        assert times_faster(tmp_path / "cache", FOUR) == 2.5
        assert measured == [(4, 64, "affine")]


def test_the_measurement_is_a_number_of_this_machine(tmp_path: Path) -> None:
    assert 0.01 < times_faster(tmp_path, FOUR) < 1000


def test_without_mlx_or_a_format_of_mlx_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in (
        None,
        {"bits": 7, "group_size": 64},
        {"bits": -1, "group_size": 0},
        {"bits": 4, "group_size": 10**30},
    ):
        assert times_faster(tmp_path, form) == 1.0
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    assert times_faster(tmp_path, FOUR) == 1.0
    assert not (tmp_path / "speed.json").exists()


@pytest.mark.parametrize(("times", "precision"), [(7.4, "dequantize"), (1.2, "mixed")])
def test_auto_prefers_speed_where_that_is_wanted(
    sqlite_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float, precision: str
) -> None:
    monkeypatch.setattr(requests, "times_faster", lambda *_: times)
    base = tiny_models.make_base(tmp_path / "four", bits=4, layers=2)
    sqlite_registry.bases.add(base, name="four")
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.01)
    sqlite_registry.adapters.register(adapter, base="four", task="small")
    assert sqlite_registry.fused.fuse("small@1").precision == "mixed"
    said: list[str] = []
    made = sqlite_registry.fused.fuse("small@1", FuseRequest(prefer="speed"), reporter=Reporter(said.append))
    assert made.precision == precision
    assert bool([line for line in said if f"{times:g} times as fast" in line]) == (precision == "dequantize")
    assert not [line for line in said if "no smaller format" in line], "nobody looked for one"
