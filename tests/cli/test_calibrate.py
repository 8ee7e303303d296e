"""`fusery base calibrate`: a base in, a calibration out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

Fusery = Any


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("The ferry leaves at seven.\nA second line.\n", encoding="utf-8")
    return path


def test_for_people(stocked: Fusery, prompts: Path) -> None:
    ran = stocked("calibrate", "tiny", "--prompts", prompts)
    assert ran.code == 0
    assert ran.out.startswith("Calibrated: tiny\n")
    for text in ("prompts.txt, 42 tokens", "32 of each input", "KiB", "mlx-lm"):
        assert text in ran.out, text
    assert "the base reads 42 tokens" in ran.err
    again = stocked("calibrate", "tiny", "--prompts", prompts)
    assert (again.code, again.err) == (
        0,
        "tiny is not quantised in affine codes: no fuse on it takes a calibration\n",
    )
    assert again.out == ran.out.replace("Calibrated", "Already there")
    shown = stocked("base", "show", "tiny")
    assert " on prompts.txt, 42 tokens\n" in shown.out


def test_as_json(stocked: Fusery, prompts: Path) -> None:
    ran = stocked("calibrate", "tiny", "--prompts", prompts, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.json.keys() == {
        "base", "digest", "prompts", "tokens", "rank", "bytes", "engine", "created", "seconds",
        "adapter", "before", "after",
    }  # fmt: skip
    assert ran.json["created"]
    shown = stocked("base", "show", "tiny", "--json").json
    assert [row["digest"] for row in shown["calibrations"]] == [ran.json["digest"]]
    quiet = stocked("calibrate", "tiny", "--prompts", prompts, "-q")
    assert (quiet.out, quiet.err) == (f"{ran.json['digest']}\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [(("nothing",), "there is no base"), (("tiny", "--prompts", "absent.jsonl"), "there is no file")],
)
def test_what_is_not_there_is_exit_code_2(words: tuple[str, ...], said: str, stocked: Fusery) -> None:
    ran = stocked("calibrate", *words)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err
