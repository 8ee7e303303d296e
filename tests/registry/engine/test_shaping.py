"""Shaped rounding: the two feedbacks against dense linear algebra, and what they are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_architectures
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st

from fusery.registry.engine import calibration as calibrations
from fusery.registry.engine.arithmetic import Array
from fusery.registry.engine.calibration import CalibrationFile, Directions
from fusery.registry.engine.policy import WritePolicy
from fusery.registry.engine.recipe import DITHER, KEEP, MIXED
from fusery.registry.engine.shaping import DAMPING, UPDATE_WEIGHT, Shape, Shaper, blocks_of_rows, orthonormal
from fusery.registry.errors import FusionUnsupportedError
from fusery.storage.errors import FormatError

from .conftest import OurFuse, Planner, known

ROWS, COLUMNS, RANK, TOP = 192, 64, 4, 15


def inputs(seed: int = 0, directions: int = 6) -> Directions:
    random = np.random.default_rng(seed)
    main = random.standard_normal((directions, COLUMNS)).astype(np.float32) * np.float32(2)
    rest = random.uniform(0.1, 1.0, COLUMNS).astype(np.float32)
    return Directions(main, rest, float((main**2).sum(axis=0).mean() + rest.mean()))


def update(seed: int = 1, size: float = 0.01) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    left = random.standard_normal((RANK, ROWS)).astype(np.float32) * np.float32(size)
    return left, random.standard_normal((RANK, COLUMNS)).astype(np.float32) * np.float32(0.5)


def metric(known: Directions, right: Array) -> Array:
    own = orthonormal(right)
    weight = UPDATE_WEIGHT * DAMPING * known.mean * COLUMNS / len(own)
    main = known.directions.astype(np.float64)
    rest = known.rest.astype(np.float64) + DAMPING * known.mean
    return np.diag(rest) + main.T @ main + weight * own.T @ own


def rounded(known: Directions, left: Array, right: Array, seed: int = 0) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(7)
    codes = random.integers(2, TOP - 1, (ROWS, COLUMNS)).astype(np.float32)
    steps, delta = np.ones_like(codes), (left.T @ right).astype(np.float32)
    shaper, new = Shaper(Shape.of(known, left, right), COLUMNS), np.empty_like(codes)
    for rows in blocks_of_rows(0, ROWS, seed):
        new[rows] = shaper.round(codes[rows], steps[rows], delta[rows], rows, TOP)
    return codes, new, delta


def at_random(codes: Array, delta: Array) -> Array:
    return np.floor(codes + delta + np.random.default_rng(3).random(codes.shape))


def test_gains_are_those_of_a_dense_solution() -> None:
    known, (left, right) = inputs(), update()
    shape = Shape.of(known, left, right)
    dense = metric(known, right)[np.ix_(shape.order, shape.order)]
    assert (np.diff(np.diag(dense)) <= 1e-9).all()
    error = np.random.default_rng(5).standard_normal(COLUMNS)
    state = np.zeros(shape.directions.shape[1])
    for column in range(COLUMNS):
        # What the remaining columns would best be shifted by, if they could be any number.
        done, left_over = slice(0, column), slice(column, COLUMNS)
        best = -np.linalg.solve(dense[left_over, left_over], dense[left_over, done] @ error[done])
        found = -(shape.gains[column, :, 0].astype(np.float64) * state).sum()
        assert found == pytest.approx(best[0], rel=1e-3, abs=1e-4)
        state += shape.directions[column, :, 0] * error[column]


def test_errors_are_small_where_inputs_point_and_along_the_update() -> None:
    known, (left, right) = inputs(), update(size=0.1)
    codes, new, delta = rounded(known, left, right)
    dense = metric(known, right)

    def heard(after: Array) -> float:
        error = (after - codes - delta).astype(np.float64)
        return float(np.einsum("ij,jk,ik->", error, dense, error))

    random = at_random(codes, delta)
    assert heard(new) < heard(random) / 3
    assert heard(new) < heard(codes) / 3
    assert new.min() >= 0 and new.max() <= TOP and (new == np.floor(new)).all()
    retained = ((new - codes) * delta).sum() / (delta**2).sum()
    assert retained == pytest.approx(1, abs=0.02)


def test_what_is_owed_to_the_outputs_is_taken_back() -> None:
    known, (left, right) = inputs(), update(size=0.02)
    codes, new, delta = rounded(known, left, right)
    at_once = Shaper(Shape.of(known, left, right), COLUMNS)
    without = at_once.round(codes, np.ones_like(codes), delta, np.arange(ROWS), TOP)
    basis = orthonormal(left)
    owed, owed_without = (np.linalg.norm(basis @ (after - codes - delta)) for after in (new, without))
    assert owed < 0.7 * owed_without


@settings(max_examples=40)
@given(first=st.integers(0, 1000), count=st.integers(1, 700), seed=st.integers(0, (1 << 32) - 1))
def test_blocks_take_every_row_once(first: int, count: int, seed: int) -> None:
    blocks = blocks_of_rows(first, count, seed)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(first, first + count))
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    again = blocks_of_rows(first, count, seed)
    assert all((one == other).all() for one, other in zip(blocks, again, strict=True))


def test_dither_moves_codes_only(calibrated: tuple[Path, Path, CalibrationFile], our_fuse: OurFuse) -> None:
    base, adapter, calibration = calibrated
    folder, fused = our_fuse(base, adapter, WritePolicy(DITHER, calibration=calibration))
    before, after = tiny_models.read_tensors(base), tiny_models.read_tensors(folder)
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    assert all(name.endswith(".weight") for name in changed)
    assert fused.fidelity.retained == pytest.approx(1, abs=0.05)
    _, random = our_fuse(base, adapter, WritePolicy(DITHER), name="random")
    assert abs(1 - fused.fidelity.retained) <= abs(1 - random.fidelity.retained)
    # `keep` takes no notice of it.
    kept = [
        our_fuse(base, adapter, WritePolicy(KEEP, calibration=given), name=str(given is None))[1]
        for given in (None, calibration)
    ]
    assert kept[0].files == kept[1].files


def test_mixed_has_the_same_scales(calibrated: tuple[Path, Path, CalibrationFile], our_fuse: OurFuse) -> None:
    base, adapter, calibration = calibrated
    shaped, fused = our_fuse(base, adapter, WritePolicy(MIXED, {"": 5}, calibration=calibration))
    plain, nearest = our_fuse(base, adapter, WritePolicy(MIXED, {"": 5}), name="plain")
    ours, theirs = tiny_models.read_tensors(shaped), tiny_models.read_tensors(plain)
    different = {name for name in theirs if ours[name] != theirs[name]}
    assert different
    assert all(name.endswith(".weight") for name in different)
    assert abs(1 - fused.fidelity.retained) < abs(1 - nearest.fidelity.retained)
    assert (shaped / "config.json").read_bytes() == (plain / "config.json").read_bytes()


def test_calibrations_that_do_not_fit(
    calibrated: tuple[Path, Path, CalibrationFile], planned: Planner, tmp_path: Path
) -> None:
    """Each expert has inputs of its own, and a calibration has one set for a module."""
    adapters_by_class = pytest.importorskip("adapters_by_class")
    base, adapter, _ = calibrated
    mixture = tiny_architectures.make_architecture(tmp_path / "moe", "qwen3_moe", bits=4, group_size=32)
    of_experts = adapters_by_class.make_adapter(
        tmp_path / "experts", mixture, keys=["mlp.switch_mlp.up_proj"]
    )
    widths = {module.path: module.columns for module in planned(mixture, of_experts).modules}
    assert widths and all("switch_mlp" in path for path in widths)
    experts = known(tmp_path / "c", widths)
    others = [
        known(tmp_path / f"{width}", {"model.layers.3.self_attn.q_proj": width}) for width in (1, 96, 160)
    ]
    strange = known(tmp_path / "strange", {"strange": 96})
    for precision in (DITHER, MIXED):
        with pytest.raises(FormatError):
            planned(mixture, of_experts, WritePolicy(precision, {"": 5}, calibration=experts))
        for other in others:
            with pytest.raises(FormatError) as caught:
                planned(base, adapter, WritePolicy(precision, {"": 5}, calibration=other))
            assert caught.value.hint
        # What the adapter does not touch, and what is not shaped, are of no account.
        planned(base, adapter, WritePolicy(precision, {"": 5}, calibration=strange))
    planned(base, adapter, WritePolicy(KEEP, calibration=others[0]))


@pytest.mark.parametrize("precision", [DITHER, MIXED])
def test_no_code_is_written_that_is_no_number(
    precision: str,
    calibrated: tuple[Path, Path, CalibrationFile],
    our_fuse: OurFuse,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an integer it would run over into the codes beside it, and be measured as if it were what is written."""
    monkeypatch.setattr(calibrations, "MOST_ENERGY", float("inf"))
    base, adapter, sound = calibrated
    widths = {path: 256 if path.endswith("down_proj") else 128 for path in sound.modules}
    huge = known(tmp_path / "huge", widths, size=3e38)
    with pytest.raises(FusionUnsupportedError):
        our_fuse(base, adapter, WritePolicy(precision, {"": 5}, calibration=huge, fitted=precision == DITHER))
