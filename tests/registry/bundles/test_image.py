"""Building an image hands the engine the bundle and nothing of the user's environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bundle_cases import Imaged

from fusery.registry.bundles.image import build_image, find_engine

CANARY = "canary-5f0e6c1d"
SECRETS = ("HF_TOKEN", "FUSERY_STORE_OPTIONS", "PIP_INDEX_URL", "AWS_SECRET_ACCESS_KEY", "USER")
ENGINE = '#!/bin/sh\nprintf "%s\\n" "$@" >> "$0.words"\n'


def test_no_secret_gets_into_an_image(
    imaged: Imaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    engine = tmp_path / "bin" / "buildah"
    engine.parent.mkdir()
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{engine.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(
        "fusery.registry.bundles.image.shutil.which", lambda name: name if name == "buildah" else None
    )
    folder = imaged.write(tmp_path / "bundle")
    built = build_image(find_engine(), folder, imaged.source.name, target=imaged.target)
    words = engine.with_name("buildah.words").read_text().splitlines()
    assert words == ["info", "build", "--format", "docker", "--tag", built.name, str(folder)]
    # Whatever a build takes in is in this folder: it names no variable of the builder's, and copies nothing else.
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    lines = (folder / "Dockerfile").read_text().splitlines()
    arguments = {line.split()[1].partition("=")[0] for line in lines if line.startswith("ARG ")}
    assert arguments == {"BASE_IMAGE", "REQUIREMENTS"}
    assert "--mount" not in "".join(lines)
    assert "USER 10001:10001" in lines
