"""Curves, and the logs that they are read from."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import plain_log, table_log

from fusery.registry.registration.training_curve import (
    Curve,
    Point,
    parse_log,
    read_log,
    sparkline,
)
from fusery.storage.errors import MissingFileError

LOSS = st.none() | st.floats(allow_nan=True, allow_infinity=True)
POINTS = st.lists(
    st.builds(Point, st.integers(0, 50), train_loss=LOSS, val_loss=LOSS, learning_rate=LOSS), max_size=30
)


@given(POINTS)
def test_a_curve_is_in_order_and_finite_and_forgets_nothing(points: list[Point]) -> None:
    curve = Curve.of(points)
    iterations = [point.iteration for point in curve.points]
    assert iterations == sorted({point.iteration for point in points})
    for point in curve.points:
        said = [p.val_loss for p in points if p.iteration == point.iteration and p.val_loss is not None]
        finite = [loss for loss in said if math.isfinite(loss)]
        assert point.val_loss == (finite[-1] if finite else None)
        assert (point.iteration in curve.not_finite) >= (len(finite) < len(said))


@given(POINTS, st.integers(0, 60))
def test_what_is_known_at_a_checkpoint_is_what_was_measured_until_then(points: list[Point], at: int) -> None:
    curve = Curve.of(points)
    before = curve.until(at)
    assert before.points == tuple(point for point in curve.points if point.iteration <= at)
    assert curve.until(None) == curve


def test_the_best_is_the_lowest_and_the_later_of_equals_and_never_the_start() -> None:
    losses = {1: 0.1, 100: 0.5, 200: 0.3, 300: 0.3, 400: 0.9}
    curve = Curve.of(Point(at, val_loss=loss) for at, loss in losses.items())
    assert curve.best() == (300, 0.3)
    assert curve.last() == (400, 0.9)
    assert curve.start_loss == 0.1
    assert Curve().best() is None
    assert Curve().last() is None


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(1, 60))
def test_a_sparkline_fits_and_shows_the_lowest_lowest(losses: list[float], width: int) -> None:
    line = sparkline(losses, width)
    assert len(line) == min(len(losses), width)
    if 0 < len(losses) <= width:
        assert line[losses.index(min(losses))] == "▁"
        if max(losses) > min(losses):
            assert line[losses.index(max(losses))] == "█"


LOGS = Path(__file__).parent / "logs"
LOSSES = st.dictionaries(st.integers(1, 99_999), st.floats(0, 200), max_size=12)

JANUARY_2024 = """\
Starting training..., iters: 1000
Iter 1: Val loss 2.659, Val took 20.187s
Iter 10: Train loss 2.401, It/sec 0.385, Tokens/sec 148.300
Iter 20: Train loss 2.111, It/sec 0.385, Tokens/sec 148.300
Iter 20: Val loss 2.050, Val took 20.187s
Saved final adapter weights to adapters.npz.
"""
MARCH_2024 = """\
Iter 1: Val loss 2.659, Val took 20.187s
Iter 10: Train loss 2.401, Learning Rate 1.000e-05, It/sec 0.385, Tokens/sec 148.3, Trained Tokens 3852, Peak mem 5.101 GB
Iter 10: Saved adapter weights to adapters/adapters.safetensors and adapters/0000010_adapters.safetensors.
"""


@pytest.mark.parametrize("name", ["v0_32_pipe.log", "v0_32_script.log"])
def test_real_logs_of_today(name: str) -> None:
    """One written to a pipe with colours, one from `script`, with a live progress bar over and over."""
    log = read_log(LOGS / name)
    assert log.curve.validations == {4: 2.362, 8: 1.003, 12: 0.729}
    assert log.curve.start_loss == 6.361
    assert {point.iteration: point.train_loss for point in log.curve.points if point.train_loss} == {
        2: 5.537, 4: 2.986, 6: 1.823, 8: 1.427, 10: 0.954, 12: 0.778,
    }  # fmt: skip
    assert log.curve.trained_tokens == 1600


def test_logs_of_the_first_versions() -> None:
    log = parse_log([JANUARY_2024.encode()])
    assert log.curve.validations == {20: 2.05}
    assert log.curve.points[1].learning_rate is None
    assert log.curve.trained_tokens is None
    log = parse_log([MARCH_2024.encode()])
    assert log.peak_memory == 5_101_000_000
    assert (log.curve.points[-1].learning_rate, log.curve.trained_tokens) == (1e-5, 3852)


@given(LOSSES, LOSSES, st.sampled_from([plain_log, table_log]), st.sampled_from(["\n", "\r\n"]))
def test_what_the_trainer_prints_is_read_back(
    val: dict[int, float], train: dict[int, float], printed: object, end: str
) -> None:
    text = printed(val, train)  # type: ignore[operator]
    curve = parse_log([text.replace("\n", end).encode()]).curve
    assert {p.iteration: p.val_loss for p in curve.points if p.val_loss is not None} == {
        at: float(f"{loss:.3f}") for at, loss in val.items()
    }
    assert {p.iteration: p.train_loss for p in curve.points if p.train_loss is not None} == {
        at: float(f"{loss:.3f}") for at, loss in train.items()
    }


def test_of_several_runs_in_one_log_the_last_counts() -> None:
    twice = plain_log({1: 5, 100: 3, 200: 1}) + plain_log({1: 5, 100: 2})
    assert parse_log([twice.encode()]).curve.validations == {100: 2}
    without_headers = "\n".join(line for line in twice.splitlines() if not line.startswith("Starting"))
    assert parse_log([without_headers.encode()]).curve.validations == {100: 2}


def test_a_run_that_diverged() -> None:
    diverged = "Iter 200: Val loss nan, Val took 1.000s\nIter 210: Train loss inf, It/sec 1\n"
    log = parse_log([(plain_log({1: 5, 100: 3}) + diverged).encode()])
    assert log.curve.not_finite == (200, 210)
    assert log.curve.validations == {100: 3}


def test_lines_with_a_time_and_bars_before_them_and_others_between() -> None:
    text = (
        "2026-01-15 12:00:01 Iter 1: Val loss 2.000, Val took 1.000s\n"
        "Calculating loss...:  40%|████      | 10/25\rCalculating loss...: 100%|███| 25/25"
        "Iter 100: Val loss 1.500, Val took 1.000s\n"
        "[WARNING] Some sequences are longer than 128 tokens.\n"
        "Jan 15 12:00:02    200    val 1.250    5.68s\n"
        "Test loss 1.100, Test ppl 3.004.\n"
    )
    assert parse_log([text.encode()]).curve.validations == {100: 1.5, 200: 1.25}


@given(st.data())
def test_where_a_block_ends_makes_no_difference(data: st.DataObject) -> None:
    whole = (LOGS / "v0_32_script.log").read_bytes()
    ends = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    blocks = [whole[begin:end] for begin, end in itertools.pairwise([0, *ends, len(whole)])]
    assert parse_log(blocks) == parse_log([whole])


PARTS = ["Iter ", "9" * 30, ": Val loss ", "nan", "1.5", " val ", "\x1b[2K", "\r", "\n", "  ", "s", "k"]


@given(st.lists(st.sampled_from(PARTS), max_size=30))
def test_nothing_that_looks_like_a_log_is_too_much(parts: list[str]) -> None:
    curve = parse_log(["".join(parts).encode()]).curve
    assert all(point.iteration <= 2**31 - 1 for point in curve.points)


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        read_log(tmp_path / "nowhere.log")
    with pytest.raises(MissingFileError):
        read_log(tmp_path)
