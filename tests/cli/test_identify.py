"""`fusery identify` on the command line: what it prints, and how it exits."""

from __future__ import annotations

from pathlib import Path

import altered_models
import pytest
import tiny_models
from fixture_types import Fusery


@pytest.fixture
def fused(stocked: Fusery) -> Path:
    """The second version, fused, in the cache."""
    ran = stocked("fuse", "course_rec@2", "--precision", "keep", "--accept-loss", "--json")
    assert ran.code == 0
    return Path(ran.json["path"])


def test_what_was_changed_is_said_in_one_sentence(stocked: Fusery, fused: Path, tmp_path: Path) -> None:
    copy = altered_models.saved_anew(
        fused, tmp_path / "x", altered_models.touched("model.layers.2.mlp.up_proj.weight")
    )
    ran = stocked("identify", copy)
    assert ran.code == 0
    assert ran.out.startswith(
        "course_rec_v2_20260201 fused onto tiny (keep), but in layer 2 model.layers.2.mlp.up_proj.weight was changed\n"
    )
    assert stocked("identify", copy, "--strict").code == 1
    assert stocked("identify", fused, "--strict").code == 0


def test_names_and_json(stocked: Fusery, fused: Path) -> None:
    assert stocked("identify", fused, "-q").out == "fused:course_rec_v2_20260201\n"
    told = stocked("identify", fused, "--json").json
    (match,) = told["matches"]
    assert (match["kind"], match["evidence"], match["confidence"]) == ("fused", "files", 1.0)
    assert (told["verdict"], told["intact"], told["kind"]) == ("known", True, "folder")
    assert {file["path"] for file in told["files"]} >= {"model.safetensors", "config.json"}


def test_a_stranger_exits_with_one_and_an_evicted_model_with_three(
    stocked: Fusery, fused: Path, tmp_path: Path
) -> None:
    stranger = tiny_models.make_base(tmp_path / "stranger", seed=9)
    ran = stocked("identify", stranger)
    assert (ran.code, ran.out.splitlines()[0][:8]) == (1, "unknown:")
    assert stocked("identify", stranger, "--json").json["matches"] == []
    other = tiny_models.make_adapter(tmp_path / "other", stranger, seed=3)
    assert stocked("identify", other).code == 1
    assert stocked("fuse", "course_rec@1", "--precision", "keep", "--accept-loss").code == 0
    assert stocked("cache", "prune", "0", "-y").code == 0
    ran = stocked("identify", tiny_models.make_base(tmp_path / "another", seed=10))
    assert (ran.code, "not compared with course_rec_v1_20260115" in ran.out) == (3, True)


def test_what_cannot_be_read_is_one_sentence(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03\0\0\0")
    ran = stocked("identify", tmp_path / "x.gguf")
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert ran.err.startswith("Error: x.gguf is cut short")
    assert stocked("identify", tmp_path / "nowhere", "--json").json["error"]["code"] == "not_found"


def test_control_characters_of_a_stranger_do_not_reach_the_terminal(stocked: Fusery, tmp_path: Path) -> None:
    folder = tiny_models.make_adapter(tmp_path / "x", tiny_models.make_base(tmp_path / "b"), seed=4)
    (folder / "adapter_metadata.json").write_text(
        '{"fusery": {"format": "fusery.export.v1", "name": "\\u001b[31mred", "digest": "' + "a" * 64 + '"}}'
    )
    ran = stocked("identify", folder)
    assert "\x1b" not in ran.out
    assert "not proven" in ran.out
