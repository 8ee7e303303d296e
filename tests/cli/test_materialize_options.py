"""`materialize` with a card of one's own and with an image built at once: options and settings arrive, errors are one sentence."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from fixture_types import Fusery

from fusery.cli.materialize import TARGETS
from fusery.registry import bundles


def test_the_targets_are_those_of_the_package() -> None:
    assert tuple(bundles.TARGETS) == TARGETS


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
    done = stocked("materialize", "course_rec@1", "c", "--card", "missing.j2")
    assert (done.code, done.out) == (2, "")
    assert "Error: " in done.err
    assert not (tmp_path / "c").exists()
    (tmp_path / "wrong.j2").write_text("{% if %}")
    done = stocked("materialize", "course_rec@1", "c", "--card", "wrong.j2")
    assert done.code == 2
    assert "Error: the template wrong.j2 makes no model card: line 1: " in done.err
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


def test_an_image_is_built_by_the_engine_that_is_there(
    stocked: Fusery, engines: Path, tmp_path: Path
) -> None:
    (engines / "buildah").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (engines / "buildah").chmod(0o755)
    words = (
        "materialize",
        "course_rec@1",
        "out",
        "--target",
        "docker",
        "--base-image",
        "localhost/python:3.12",
    )
    done = stocked(*words, "--build", "cpu", "--json")
    assert done.code == 0, done.err
    assert done.json["image"] == {"engine": "buildah", "name": "fused:course_rec_v1_20260115"}
    asked = (tmp_path / "asked").read_text().splitlines()
    expected = f"build --format docker --tag fused:course_rec_v1_20260115 {tmp_path / 'out'}"
    assert asked == ["info", expected]
    assert "ARG BASE_IMAGE=localhost/python:3.12\n" in (tmp_path / "out" / "Dockerfile").read_text()


def test_the_image_of_several_adapters_has_the_bundle_s_name(
    stocked: Fusery, engines: Path, tmp_path: Path
) -> None:
    (engines / "podman").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (engines / "podman").chmod(0o755)
    words = ("--target", "adapters", "--base-image", "localhost/python:3.12", "--build", "nvidia", "--json")
    done = stocked("materialize", "course_rec@1", "course_rec@2", "out", *words)
    assert done.code == 0, done.err
    assert done.json["image"] == {"engine": "podman", "name": "adapters:tiny-adapters-nvidia"}
    chosen = "--tag adapters:tiny-adapters-nvidia --build-arg REQUIREMENTS=requirements-nvidia.txt"
    expected = f"build --format docker {chosen} {tmp_path / 'out'}"
    assert (tmp_path / "asked").read_text().splitlines() == ["info", expected]
    assert "ARG BASE_IMAGE=localhost/python:3.12\n" in (tmp_path / "out" / "Dockerfile").read_text()


def test_what_cannot_be_built_is_said_before_anything_is_written(
    stocked: Fusery, engines: Path, tmp_path: Path
) -> None:
    for words, said in (
        (("out", "--target", "docker", "--build", "cpu"), "none of docker, podman and buildah is installed"),
        (("out", "--build", "nvidia"), "only an image of one bundle for docker or adapters"),
        (
            ("memory://x/out", "--target", "docker", "--build", "cpu"),
            "only an image of one bundle for docker or adapters",
        ),
        (("out", "--target", "docker", "--base-image", "x\nRUN y"), "not the name of an image"),
        (("oci://host/x:y",), "takes bundles of the target oci"),
        (("hf://a/b",), "takes bundles of the target hub"),
    ):
        done = stocked("materialize", "course_rec@1", *words)
        assert (done.code, done.out) == (2, ""), words
        assert said in done.err
        assert "Traceback" not in done.err
        assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is not None, reason="the packages are installed here"
)
def test_onnx_without_its_packages_is_one_sentence(
    stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUSERY_ONNX_PYTHON", raising=False)
    before = set(tmp_path.iterdir())
    words = ("--target", "onnx", "--precision", "keep", "--accept-loss", "--onnx-type", "f32")
    done = stocked("materialize", "course_rec@1", "out", *words)
    assert (done.code, done.out) == (2, "")
    assert "Error: writing ONNX needs packages that are not installed\n" in done.err
    assert "[onnx]" in done.err
    assert set(tmp_path.iterdir()) == before
