"""Calibrating a base: the directions of its inputs, what is kept and recorded, and what is found when it is damaged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from sqlalchemy import select

pytest.importorskip("mlx_lm")

from fusery.registry import Registry, Reporter, tables
from fusery.registry.database import events
from fusery.registry.engine.calibration import CalibrationFile, read_calibration
from fusery.registry.errors import MissingExtraError, ModelUnusableError, UnknownReferenceError
from fusery.registry.records.calibrations import CALIBRATION, current_calibration, fetch_calibration
from fusery.registry.records.references import resolve_base
from fusery.registry.upkeep.audit import NOT_ANCHORED
from fusery.research.calibrate import Inputs, Moments, inputs_of, moments
from fusery.research.models import LoadedModel, load_tokenizer
from fusery.research.prompts import Sample, built_in, for_calibration, read_prompts, tokenise
from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, FuseryError


def second_moments(model: LoadedModel, samples: list[Sample]) -> dict[str, np.ndarray[Any, Any]]:
    """Return the mean of x x^T, (in, in), of each linear layer's inputs, summed up whole."""
    rows: dict[str, list[Inputs]] = {}
    inputs_of(model, samples, lambda path, inputs: rows.setdefault(path, []).append(inputs))
    joined = {path: np.concatenate(parts) for path, parts in rows.items()}
    return {path: inputs.T @ inputs / np.float32(max(len(inputs), 1)) for path, inputs in joined.items()}


@pytest.fixture
def based(registry: Registry, tiny_base: Path) -> Registry:
    registry.bases.add(tiny_base, name="tiny")
    return registry


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def fetched(registry: Registry, digest: str, target: Path) -> CalibrationFile:
    return read_calibration(fetch_calibration(registry.workspace, digest, target))


def damage(registry: Registry, digest: str) -> None:
    with registry.workspace.database.read() as session:
        row = session.scalars(
            select(tables.CalibrationRow).where(tables.CalibrationRow.digest == digest)
        ).one()
        blob = Digest(row.manifest.files[0].sha256)
    path = registry.workspace.store.local_path(blob, generation=0)
    assert path is not None
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_base_is_calibrated_once(based: Registry, prompts: Path) -> None:
    said: list[str] = []
    done: list[tuple[int, int]] = []
    made = based.bases.calibrate(
        "tiny", prompts=prompts, reporter=Reporter(said.append, lambda *at: done.append(at))
    )
    assert (made.base, made.prompts, made.rank, made.created) == ("tiny", "prompts.jsonl", 32, True)
    assert len(said) == 4 and "not quantised" in said[0] and f"{made.tokens:,} tokens" in said[1]
    said.clear()
    assert done[-1] == (2 * made.tokens, 2 * made.tokens)
    again = based.bases.calibrate("tiny", prompts=prompts, reporter=Reporter(said.append))
    assert again.to_dict() == {**made.to_dict(), "created": False, "seconds": 0.0}
    assert len(said) == 1, "nothing was read"
    view = based.bases.show("tiny")
    (shown,) = view["calibrations"]
    expected = {"digest": made.digest, "prompts": "prompts.jsonl", "tokens": made.tokens, "adapter": None}
    assert {name: value for name, value in shown.items() if name != "created_at"} == expected
    with based.workspace.database.read() as session:
        base = resolve_base(session, "tiny")
        row = current_calibration(session, base)
        assert row is not None
        assert (row.digest, row.engine, row.created_by) == (made.digest, made.engine, "tester")
        assert not list(events.verify_chain(session))
    (event,) = based.upkeep.log(action="base.calibrated")
    assert (event.subject, event.detail["calibration"]) == (base.digest, made.digest)


def test_what_is_kept(based: Registry, prompts: Path, tmp_path: Path, tiny_base: Path) -> None:
    made = based.bases.calibrate("tiny", prompts=prompts)
    found = fetched(based, made.digest, tmp_path / "c")
    assert (tmp_path / "c").stat().st_size == made.bytes
    assert (found.base, found.tokens) == (based.bases.show("tiny")["digest"], made.tokens)
    blocks = [f"model.layers.{layer}.{name}" for layer in range(4) for name in tiny_models.LINEAR]
    assert set(found.modules) == {*blocks, "lm_head"}
    assert len(set(found.modules.values())) == 4 * 4 + 1
    module = "model.layers.2.mlp.down_proj"
    samples = tokenise(read_prompts(prompts), load_tokenizer(tiny_base))
    whole = second_moments(LoadedModel.load(tiny_base, numpy=True), samples)[module].astype(np.float64)
    given = found.of(module)
    assert given is not None
    assert given.directions.shape == (32, 256)
    assert given.mean == pytest.approx(np.diag(whole).mean(), rel=1e-4)
    diagonal = np.square(given.directions).sum(axis=0) + given.rest
    assert np.allclose(diagonal, np.diag(whole), rtol=0.01, atol=1e-3 * given.mean)
    largest = np.linalg.eigvalsh(whole)[-1]
    assert np.square(given.directions[0]).sum() == pytest.approx(largest, rel=0.02)


def test_the_one_that_was_asked_for_last_is_taken(registry: Registry, prompts: Path, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "four", bits=4, group_size=32, layers=1)
    registry.bases.add(base, name="four", reference=True)
    plain = write(tmp_path / "plain.txt", "Something else.\n")

    def taken() -> object:
        with registry.workspace.database.read() as session:
            row = current_calibration(session, resolve_base(session, "four"))
            return row and row.digest

    assert taken() is None
    one = registry.bases.calibrate("four", prompts=prompts)
    other = registry.bases.calibrate("four", prompts=plain)
    assert taken() == other.digest != one.digest
    for asked, file, before in ((one, prompts, other), (other, plain, one), (one, prompts, other)):
        said: list[str] = []
        again = registry.bases.calibrate("four", prompts=file, reporter=Reporter(said.append))
        assert (again.digest, again.created) == (asked.digest, False)
        assert len(said) == 1 and before.digest[:12] in said[0]
        assert taken() == asked.digest
    # Asked for once more it is taken already, and nothing is said or recorded.
    entries = len(registry.upkeep.log())
    said = []
    registry.bases.calibrate("four", prompts=prompts, reporter=Reporter(said.append))
    assert (said, len(registry.upkeep.log())) == ([], entries)
    # One that was lost in the store is made anew, and is then the one that was asked for last.
    damage(registry, one.digest)
    assert registry.bases.calibrate("four", prompts=prompts).digest == one.digest == taken()
    assert registry.upkeep.audit().ok
    assert not registry.bases.calibrate("four", prompts=prompts.rename(tmp_path / "renamed.jsonl")).created
    assert len(registry.bases.show("four").calibrations) == 2


def test_audit_finds_a_damaged_calibration(based: Registry, prompts: Path, tmp_path: Path) -> None:
    made = based.bases.calibrate("tiny", prompts=prompts)
    before = based.upkeep.audit()
    assert (before.ok, before.checked["calibration"]) == (True, 1)
    assert before.notes == [NOT_ANCHORED]
    damage(based, made.digest)
    for report in (based.upkeep.audit(), based.upkeep.audit(("tiny",))):
        assert [problem.code for problem in report.problems] == ["blob_corrupt"]
        assert CALIBRATION in report.problems[0].subject and made.digest[:12] in report.problems[0].subject
    with pytest.raises(BlobCorruptError):
        fetch_calibration(based.workspace, made.digest, tmp_path / "c")
    again = based.bases.calibrate("tiny", prompts=prompts)  # it is made anew
    assert again.digest == made.digest
    assert based.upkeep.audit().ok
    assert len(based.bases.show("tiny")["calibrations"]) == 1


def test_refused_calibrations(
    based: Registry, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownReferenceError):
        based.bases.calibrate("nothing")
    with pytest.raises(FuseryError):
        based.bases.calibrate("tiny", prompts=tmp_path / "absent.jsonl")
    with pytest.raises(UnknownReferenceError):
        fetch_calibration(based.workspace, "0" * 64, tmp_path / "c")
    odd = write(tmp_path / "odd\udcff.txt", "Some text.\n")
    assert based.bases.calibrate("tiny", prompts=odd).prompts == "odd?.txt"
    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    with pytest.raises(MissingExtraError):
        based.bases.calibrate("tiny")


def test_the_built_in_texts_are_not_what_probe_asks() -> None:
    texts = for_calibration()
    assert len(texts) > 10
    assert not {prompt.label for prompt in built_in()} & {prompt.label for prompt in texts}


WIDTH = 128


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("watched") / "tiny"
    return LoadedModel.load(tiny_models.make_base(folder, layers=2, hidden=WIDTH), numpy=True)


def samples(count: int = 6, length: int = 150) -> list[Sample]:
    random = np.random.default_rng(5)
    return [
        Sample("x", tuple(random.integers(0, 250, length + number).tolist()), 1) for number in range(count)
    ]


def test_layers_that_share_an_input_are_found(model: LoadedModel) -> None:
    found = moments(model, samples(2), 4)
    layers = range(2)
    expected = {}
    for layer in layers:
        path = f"model.layers.{layer}."
        expected |= {path + name: path + "self_attn.q_proj" for name in tiny_models.LINEAR[:3]}
        expected |= {path + name: path + name for name in ("self_attn.o_proj", "mlp.down_proj")}
        expected |= {path + name: path + "mlp.gate_proj" for name in ("mlp.gate_proj", "mlp.up_proj")}
    assert found.modules == expected | {"lm_head": "lm_head"}
    assert set(found.inputs) == set(found.modules.values())


def test_they_are_the_largest_eigenvectors(model: LoadedModel) -> None:
    asked, rank = samples(), 12
    found, whole = moments(model, asked, rank), second_moments(model, asked)
    for key, moment in found.inputs.items():
        matrix = whole[key].astype(np.float64)
        largest = float(np.linalg.eigvalsh(matrix)[-1])
        assert moment.directions.shape == (len(matrix), rank)
        assert np.allclose(moment.diagonal, np.diag(matrix), rtol=1e-4)
        values = np.linalg.eigvalsh(matrix)[::-1][:rank]
        got = np.square(moment.directions).sum(axis=0)
        assert (np.diff(got) <= 0).all()
        # Random weights are the hard case: no direction stands out, and there the sum is a few per cent short.
        assert 0.88 * values.sum() < got.sum() < 1.0001 * values.sum()
        # Never more than there is, in any direction.
        assert np.linalg.eigvalsh(matrix - moment.directions @ moment.directions.T)[0] > -1e-5 * largest


def test_fewer_tokens_than_directions(model: LoadedModel) -> None:
    found = moments(model, [Sample("x", (1, 2, 3, 4, 5), 1)], 32)
    for moment in found.inputs.values():
        assert moment.directions.shape[1] == 32
        assert np.isfinite(moment.directions).all()
        assert np.allclose(np.square(moment.directions).sum(axis=1), moment.diagonal, rtol=1e-3, atol=1e-6)
        assert not moment.directions[:, 5:].any()


def test_it_gives_the_same_twice_and_tells_how_far_it_is(model: LoadedModel) -> None:
    asked: list[Sample] = samples()
    told: list[tuple[int, int]] = []

    def run() -> Moments:
        return moments(model, asked, 4, progress=lambda *at: told.append(at))

    one, other = run(), run()
    for key, moment in one.inputs.items():
        assert np.array_equal(moment.directions, other.inputs[key].directions)
    tokens = sum(len(sample.tokens) for sample in asked)
    half = told[: len(told) // 2]
    assert half == sorted(half)
    assert half[-1] == (2 * tokens, 2 * tokens)
    assert len(half) > 2


def test_a_model_that_gives_no_numbers(tmp_path: Path) -> None:
    broken = LoadedModel.load(tiny_models.make_base(tmp_path / "tiny", layers=1), numpy=True)
    layer = broken.network.model.layers[0].mlp.up_proj
    layer.weight = layer.weight * float("inf")
    with pytest.raises(ModelUnusableError):
        moments(broken, samples(1), 4)
