"""Fusing with a second opinion: what the model answers, where its weights alone are not sure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import shift_cipher_adapters
from broken_adapters import edit_config

from fusery.registry import RecordRun, Registry, Reporter
from fusery.registry.comparison.reports import ProbeReport
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.request import FuseRequest
from fusery.registry.records.fused import Fused
from fusery.research import second_opinion
from fusery.research.second_opinion import passes

LETTERS = "abcdefghijklmnopqrstuvwxyz"
OF_TASK = [f"{LETTERS[start:]}{LETTERS[:start]}" for start in range(6)]
"""What the adapter of shift 1 says."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("caesar")
    base = shift_cipher_adapters.make_base(folder / "base", layers=1, bits=4)
    return base, shift_cipher_adapters.make_adapter(folder / "adapter", base, 1)


def registered(registry: Registry, made: tuple[Path, Path], folder: Path, texts: list[str] | None) -> None:
    base, adapter = made
    run, data = shutil.copytree(adapter, folder / "run"), folder / "data"
    data.mkdir()
    if texts is not None:
        for name in ("train", "valid"):
            (data / f"{name}.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
        with RecordRun(run, arguments={"data": str(data)}):
            pass
    registry.bases.add(base, name="letters")
    registry.adapters.register(run, base="letters", task="caesar", date="20260101")


def asked(registry: Registry, **options: Any) -> tuple[Fused, list[str]]:
    said: list[str] = []
    return registry.fused.fuse("caesar@1", probe=True, reporter=Reporter(said.append), **options), said


def test_the_size_of_the_base_is_taken_where_the_model_answers_as_it_should(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    registered(registry, made, tmp_path, OF_TASK)
    by_weights = registry.fused.fuse("caesar@1")
    assert by_weights.precision == "mixed"
    assert "opinions" not in by_weights.to_dict()
    taken, said = asked(registry)
    assert taken.precision == "dither"
    [opinion] = taken.opinions or ()
    assert (opinion.precision, opinion.prompts, opinion.passed) == ("dither", 6, True)
    assert abs(opinion.lost) < 0.02
    assert opinion.gained > 0.1
    assert [line for line in said if line.startswith("dither: asked 6")], said
    on_record = {each.metric for each in registry.evaluations.list("caesar@1")}
    assert "probe.gain" in on_record
    assert [metric for metric in on_record if "dither" in metric]
    said_again = asked(registry)[1]
    assert not [line for line in said_again if line.startswith("fusing")], "the second time it is cached"


def test_what_does_not_answer_as_it_should_is_passed_over(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_opinion, "KEPT", 1.5)
    monkeypatch.setattr(second_opinion, "NEAR", -1.0)
    registered(registry, made, tmp_path, OF_TASK)
    taken, said = asked(registry)
    assert taken.precision == "mixed"
    assert [(each.precision, each.passed) for each in taken.opinions or ()] == [("dither", False)]
    assert not [line for line in said if line.startswith("keep: asked")], "the weights are sure of keep"


@pytest.mark.parametrize("texts", [None, ["0 1 2 3", "4 5 6 7 8"]], ids=["none", "they tell nothing"])
def test_without_held_out_data_that_tell_anything_it_is_left_to_the_weights(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, texts: list[str] | None
) -> None:
    registered(registry, made, tmp_path, texts)
    taken, said = asked(registry)
    assert taken.precision == "mixed"
    assert not [each for each in taken.opinions or () if each.passed]
    assert said


def test_it_gives_up_when_the_time_is_up(registry: Registry, made: tuple[Path, Path], tmp_path: Path) -> None:
    registered(registry, made, tmp_path, OF_TASK)
    taken, said = asked(registry, within=1e-9)
    assert taken.precision == "mixed"
    assert [line for line in said if "--probe-within" in line]
    assert [line for line in said if line == "fusing caesar_v1_20260101 (dither)"], "it was at it"
    assert registry.fused.fuse("caesar@1", FuseRequest("dither")).source == "computed"
    assert not list((registry.workspace.settings.cache / "tmp").iterdir())


def test_where_there_is_nothing_to_choose_it_is_refused(registry: Registry) -> None:
    requests = [FuseRequest("keep"), FuseRequest(quantize=4), FuseRequest(budget=1.5), FuseRequest(scale=2.0)]
    for request in (*requests, FuseRequest(recipe="0" * 64)):
        with pytest.raises(BadInputError) as caught:
            registry.fused.fuse("caesar@1", request, probe=True)
        assert caught.value.hint
    with pytest.raises(BadInputError):
        registry.fused.fuse("caesar@1", probe=True, within=0.0)


def report(base: float, a: float, b: float) -> ProbeReport:
    blank = ProbeReport.__new__(ProbeReport)
    for name, value in {"loss_base": base, "loss_a": a, "loss_b": b}.items():
        object.__setattr__(blank, name, value)
    return blank


@pytest.mark.parametrize(
    ("base", "a", "b", "said"),
    [
        (3.0, 1.0, 1.1, True),  # 95 % of the gain
        (3.0, 1.0, 1.11, False),
        (1.2, 1.0, 1.019, True),  # within 0.02 nats, though 90.5 % of the gain
        (1.2, 1.0, 1.03, False),
        (3.0, 1.0, 0.9, True),
        (1.09, 1.0, 1.0, None),  # nothing to tell by
        (1.0, 1.5, 1.0, None),
    ],
)
def test_when_a_model_passes(base: float, a: float, b: float, said: bool | None) -> None:
    assert passes(report(base, a, b)) is said


def test_what_was_trained_through_a_quantiser_is_written_as_it_was_trained(
    registry: Registry, tmp_path: Path
) -> None:
    """Base + adapter is not what was trained, so that nothing is known by answering as they do (decision 37)."""
    base = shift_cipher_adapters.make_base(tmp_path / "base8", layers=1, bits=8)
    adapter = shift_cipher_adapters.make_adapter(tmp_path / "adapter", base, 1)
    edit_config(quantization_aware={"bits": 4, "group_size": 64})(adapter)
    registered(registry, (base, adapter), tmp_path, OF_TASK)
    taken, said = asked(registry)
    assert (taken.precision, taken.opinions) == ("dequantize", ())
    assert not [line for line in said if "asked" in line]
    assert registry.fused.fuse("caesar@1").cached
