"""`materialize` with a card of one's own and with an image built at once: options and settings arrive, errors are one sentence."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from fixture_types import Fusery

from fusery.cli.materialize import TARGETS
from fusery.registry import bundles

from .conftest import require_refusals


def test_the_targets_are_those_of_the_package() -> None:
    assert tuple(bundles.TARGETS) == TARGETS


@pytest.mark.slow
def test_a_card_by_option_and_by_setting(
    stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.md.j2").write_text("# {{ name }} of ours\n")
    assert stocked("materialize", "course_rec@1", "a", "--card", "own.md.j2").code == 0
    assert (tmp_path / "a" / "README.md").read_text() == "# course_rec_v1_20260115 of ours\n"
    (tmp_path / "home" / "card.md.j2").write_text("# by setting\n")
    (tmp_path / "home" / "config.toml").write_text('card = "card.md.j2"\n')
    assert stocked("materialize", "course_rec@1", "b").code == 0
    assert (tmp_path / "b" / "README.md").read_text() == "# by setting\n"
    assert "card.md.j2 (config.toml)" in stocked("doctor").out.replace("\n", " ")
    (tmp_path / "wrong.j2").write_text("{% if %}")
    words = "materialize course_rec@1 c --card"
    require_refusals(stocked, (f"{words} missing.j2", "missing.j2"), (f"{words} wrong.j2", "line 1"))
    assert not (tmp_path / "c").exists()


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which container engines are found: none so far."""
    folder = tmp_path / "engines"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin")
    monkeypatch.setattr(
        "fusery.registry.bundles.image.shutil.which",
        lambda name: str(folder / name) if (folder / name).exists() else None,
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "words", "name", "options"),
    [
        ("buildah", "course_rec@1 out --target docker --build cpu", "fused:course_rec_v1_20260115", ""),
        (
            "podman",
            "course_rec@1 course_rec@2 out --target adapters --build nvidia",
            "adapters:tiny-adapters-nvidia",
            "--build-arg REQUIREMENTS=requirements-nvidia.txt ",
        ),
    ],
)
def test_an_image_is_built_by_the_engine_that_is_there(
    stocked: Fusery, engines: Path, tmp_path: Path, engine: str, words: str, name: str, options: str
) -> None:
    (engines / engine).write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (engines / engine).chmod(0o755)
    base = ("--base-image", "localhost/python:3.12")
    done = stocked("materialize", *words.split(), *base, "--json")
    assert done.code == 0, done.err
    assert done.json["image"] == {"engine": engine, "name": name}
    expected = f"build --format docker --tag {name} {options}{tmp_path / 'out'}"
    assert (tmp_path / "asked").read_text().splitlines() == ["info", expected]
    assert "ARG BASE_IMAGE=localhost/python:3.12\n" in (tmp_path / "out" / "Dockerfile").read_text()


def test_refusals_write_nothing(stocked: Fusery, engines: Path, tmp_path: Path) -> None:
    cases = (
        ("out --target docker --build cpu", "docker, podman and buildah"),
        ("out --build nvidia", "docker or adapters"),
        ("memory://x/out --target docker --build cpu", "docker or adapters"),
        ("oci://host/x:y", "target oci"),
        ("hf://a/b", "target hub"),
    )
    require_refusals(stocked, *((f"materialize course_rec@1 {words}", named) for words, named in cases))
    injected = ("materialize", "course_rec@1", "out", "--target", "docker", "--base-image", "x\nRUN y")
    require_refusals(stocked, (injected, "not the name of an image"))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is not None, reason="the packages are installed here"
)
def test_onnx_without_its_packages_is_one_sentence(
    stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUSERY_ONNX_PYTHON", raising=False)
    words = "materialize course_rec@1 out --target onnx --precision keep --accept-loss --onnx-type f32"
    require_refusals(stocked, (words, "[onnx]"))
    assert not (tmp_path / "out").exists()
