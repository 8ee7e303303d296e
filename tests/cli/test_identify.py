"""`fusery identify` on the command line: what it prints, and how it exits."""

from __future__ import annotations

import json
from pathlib import Path

import altered_models
import pytest
import tiny_models
from fixture_types import Fusery

from .conftest import require_refusals


@pytest.fixture
def fused(stocked: Fusery) -> Path:
    """The second version, fused, in the cache."""
    ran = stocked("fuse", "course_rec@2", "--as", "keep", "--accept-loss", "--json")
    assert ran.code == 0
    return Path(ran.json["path"])


def test_a_changed_model_is_named(stocked: Fusery, fused: Path, tmp_path: Path) -> None:
    name = "model.layers.2.mlp.up_proj.weight"
    copy = altered_models.saved_anew(fused, tmp_path / "x", altered_models.touched(name))
    ran = stocked("identify", copy)
    told = f"course_rec_v2_20260201 fused onto tiny (keep), but in layer 2 {name} was changed\n"
    assert (ran.code, ran.out.startswith(told)) == (0, True)
    assert ran.out.endswith("intact: no\nsigned: no\n")
    assert stocked("identify", fused).out.endswith("intact: yes\nsigned: no\n")
    assert "unattributed" not in stocked("log").out
    assert stocked("identify", fused, "-q").out == "fused:course_rec_v2_20260201\n"
    document = stocked("identify", fused, "--json").json
    (match,) = document["matches"]
    assert (match["kind"], match["evidence"], match["confidence"]) == ("fused", "files", 1.0)
    assert (document["verdict"], document["intact"], document["kind"]) == ("known", True, "folder")
    assert {file["path"] for file in document["files"]} >= {"model.safetensors", "config.json"}


def test_hostile_files(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF\x03\0\0\0")
    require_refusals(stocked, ("identify x.gguf", "x.gguf"), ("identify nowhere", "not_found"))
    folder = tiny_models.make_adapter(tmp_path / "x", tiny_models.make_base(tmp_path / "b"), seed=4)
    document = {"format": "fusery.export.v1", "name": "\x1b[31mred", "digest": "a" * 64}
    (folder / "adapter_metadata.json").write_text(json.dumps({"fusery": document}))
    ran = stocked("identify", folder)
    assert ("\x1b" in ran.out, "not proven" in ran.out) == (False, True)
