"""`materialize` with a card of one's own: options and settings arrive, errors are one sentence."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from fixture_types import Fusery

from fusery.cli.materialize import TARGETS
from fusery.registry.bundles.target import own_targets

from .conftest import require_refusals


def test_the_targets_are_those_of_the_package() -> None:
    assert tuple(own_targets()) == TARGETS


@pytest.mark.slow
def test_a_card_by_option_or_setting(
    stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.md.j2").write_text("# {{ name }} of ours\n")
    assert stocked("materialize", "course_rec@1", "a", "-o", "card=own.md.j2").code == 0
    assert (tmp_path / "a" / "README.md").read_text() == "# course_rec_v1_20260115 of ours\n"
    (tmp_path / "home" / "card.md.j2").write_text("# by setting\n")
    (tmp_path / "home" / "config.toml").write_text('card = "card.md.j2"\n')
    assert stocked("materialize", "course_rec@1", "b").code == 0
    assert (tmp_path / "b" / "README.md").read_text() == "# by setting\n"
    assert "card.md.j2 (config.toml)" in stocked("doctor").out.replace("\n", " ")
    (tmp_path / "wrong.j2").write_text("{% if %}")
    words = "materialize course_rec@1 c -o"
    require_refusals(
        stocked, (f"{words} card=missing.j2", "missing.j2"), (f"{words} card=wrong.j2", "line 1")
    )
    assert not (tmp_path / "c").exists()


def test_refusals_write_nothing(stocked: Fusery, tmp_path: Path) -> None:
    cases = (("oci://host/x:y --target oci", "unknown kind of store: 'oci'"), ("hf://a/b", "target hub"))
    require_refusals(stocked, *((f"materialize course_rec@1 {words}", named) for words, named in cases))
    injected = ("materialize", "course_rec@1", "out", "--target", "docker", "-o", "base_image=x\nRUN y")
    require_refusals(stocked, (injected, "not the name of an image"))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is not None, reason="the packages are installed here"
)
def test_onnx_needs_its_packages(stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSERY_ONNX_PYTHON", raising=False)
    require_refusals(stocked, ("materialize course_rec@1 out --target onnx -o onnx_type=f32", "[onnx]"))
    assert not (tmp_path / "out").exists()
