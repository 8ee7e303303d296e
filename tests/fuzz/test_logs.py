"""Damaged training logs: a curve of finite numbers, or one sentence."""

from __future__ import annotations

import math
from random import Random

import pytest
from fuzz.mutate import garble
from hostile.arena import hang_guard

from fusery.registry.registration.training_curve import parse_log
from fusery.storage.errors import FormatError

LINES = (
    "Loading pretrained model",
    "Trainable parameters: 0.109% (1.082M/988.2M)",
    "Starting training..., iters: 1000",
    "Iter 1: Val loss 2.342, Val took 1.203s",
    "Iter 10: Train loss 2.001, Learning Rate 1.000e-05, It/sec 4.121, Trained Tokens 1971, Peak mem 3.141 GB",
    "Iter 20: Train loss nan, It/sec 4.1, Tokens/sec 812.4",
    "  iter    train_loss     tok/s    tokens",
    "  200    val 1.234    5.68s",
    "   10    2.345 \u25bc    1,234    12.3k",
    "\x1b[32m   20    2.145 \u25bc    1,234    24.3k\x1b[0m",
    "Calculating loss...:  40%|####      | 10/25 [00:01<00:02,  7.1it/s]\r",
    "2026-01-15 10:11:12 Iter 40: Val loss 1.5, Val took 1.0s",
)
NUMBERS = (
    "0", "-1", "9" * 12, "9" * 400, "9" * 5000, "1e400", "nan", "-inf", "1.5.5", "\u0661\u0662", "1,000", "",
)  # fmt: skip


def damaged(random: Random) -> bytes:
    lines = []
    for _ in range(random.randrange(1, 12)):
        words = random.choice(LINES).split(" ")
        if random.random() < 0.4:
            spots = [place for place, word in enumerate(words) if any(char.isdigit() for char in word)]
            if spots:
                words[random.choice(spots)] = random.choice(NUMBERS) + random.choice(("", ":", ",", "s", "k"))
        lines.append(" ".join(words))
    data = random.choice(("\n", "\r\n", "\r")).join(lines).encode(random.choice(("utf-8", "utf-8", "utf-16")))
    return garble(data, random) if random.random() < 0.4 else data


def hold(data: bytes) -> int:
    try:
        log = parse_log([data])
    except FormatError:
        return 0
    iterations = [point.iteration for point in log.curve.points]
    assert iterations == sorted(set(iterations))
    assert all(0 <= iteration < 1 << 31 for iteration in iterations)
    for point in log.curve.points:
        for value in (point.train_loss, point.val_loss, point.learning_rate):
            assert value is None or math.isfinite(value)
        # What a database keeps as a whole number.
        assert point.trained_tokens is None or 0 <= point.trained_tokens < 1 << 63
    assert log.peak_memory is None or 0 <= log.peak_memory < 1 << 63
    return len(iterations)


def test_many_logs() -> None:
    random = Random(1)
    assert sum(hold(damaged(random)) > 0 for _ in range(3000)) > 1000


@pytest.mark.parametrize(
    "data",
    [
        b"9" * 3_000_000,
        b"Iter " * 500_000,
        b"Iter 1: Val loss " + b"1" * 3_000_000,
        b"1 " * 1_500_000,
        b"1 val 1.0" + b" " * 3_000_000 + b"x",
        b"\x1b]" * 1_500_000,
        b"\x1b[" + b"0" * 3_000_000,
        b"\n" * 3_000_000,
        b"1 1.0 \xe2\x96\xbc 1," + b"1," * 1_500_000,
        b"Iter 1: Train loss 1.0," + b"Learning Rate 1" * 200_000,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_no_line_is_slow(data: bytes) -> None:
    with hang_guard(20):
        hold(data)
