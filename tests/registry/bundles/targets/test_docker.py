"""What builds the image of a bundle: its file for compose, labels and base image."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from bundle_cases import Imaged, make_bundle
from jsonschema import Draft202012Validator

from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.target import LayoutError, find_target
from fusery.registry.errors import BadInputError

COMPOSE = Path(__file__).parents[3] / "data" / "compose" / "compose-spec.json"


def written(source: BundleSource, folder: Path, **choices: Any) -> Path:
    folder.mkdir(exist_ok=True)
    make_bundle(source, "docker", folder, **choices)
    return folder


def labels_of(folder: Path) -> dict[str, str]:
    return dict(re.findall(r'^LABEL ([a-z.]+)="(.*)"$', (folder / "Dockerfile").read_text(), re.MULTILINE))


def test_compose_takes_the_file(imaged: Imaged, tmp_path: Path) -> None:
    found = yaml.safe_load((imaged.write(tmp_path / "a") / "compose.yaml").read_text())
    schema = json.loads(COMPOSE.read_text())
    assert [error.message for error in Draft202012Validator(schema).iter_errors(found)] == []
    assert list(Draft202012Validator(schema).iter_errors({"services": {"x": {"red_only": True}}}))
    assert set(found["services"]) == {"server", "nvidia"}
    for service in found["services"].values():
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["ports"] == ["127.0.0.1:8080:8080"]
    image = f"{'fused' if imaged.target == 'docker' else 'adapters'}:{imaged.source.name}"
    assert [found["services"][name]["image"] for name in ("server", "nvidia")] == [image, f"{image}-nvidia"]
    nvidia = found["services"]["nvidia"]
    assert nvidia["profiles"] == ["nvidia"]
    assert nvidia["build"]["args"] == {"REQUIREMENTS": "requirements-nvidia.txt"}
    (device,) = nvidia["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


@pytest.mark.skipif(shutil.which("useradd") is None, reason="this machine has no useradd")
def test_the_user_of_the_image_is_made_with_options_that_exist(source: BundleSource, tmp_path: Path) -> None:
    [line] = re.findall(r"useradd (.*?) app ", (written(source, tmp_path / "a") / "Dockerfile").read_text())
    known = subprocess.run(["useradd", "--help"], capture_output=True, text=True, check=True).stdout
    options = re.findall(r"--[a-z-]+", line)
    assert len(options) == 5
    assert [option for option in options if f"{option}" not in known] == []


def test_labels_have_oci_s_keys(source: BundleSource, provenance: dict[str, Any], tmp_path: Path) -> None:
    provenance["base"]["licence"] = provenance["adapter"]["licence"] = "apache-2.0"
    provenance["with"] = []
    labels = labels_of(written(source, tmp_path / "a"))
    assert labels["org.opencontainers.image.title"] == source.name
    assert labels["org.opencontainers.image.version"] == "2"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.base.name"] == "${BASE_IMAGE}"
    assert "org.opencontainers.image.description" in labels
    assert "org.opencontainers.image.created" not in labels, "two builds of one bundle would differ"
    provenance["base"]["licence"] = provenance["adapter"]["licence"] = "gemma"
    assert (
        labels_of(written(source, tmp_path / "b"))["org.opencontainers.image.licenses"] == "LicenseRef-gemma"
    )
    provenance["adapter"]["licence"] = None
    assert "org.opencontainers.image.licenses" not in labels_of(written(source, tmp_path / "c"))


def test_labels_of_several_adapters_name_them_all(unfused: BundleSource, tmp_path: Path) -> None:
    labels = labels_of(Imaged("adapters", unfused).write(tmp_path / "a"))
    first, second = unfused.adapters
    assert labels["fusery.adapters.names"] == f"{first.name} {second.name}"
    assert labels["fusery.adapters.digests"] == f"{'c' * 64} {'c' * 64}"
    assert labels["fusery.base.digest"] == "b" * 64
    assert labels["org.opencontainers.image.title"] == "tiny-adapters"
    absent = {"fusery.adapter.name", "fusery.model.digest", "org.opencontainers.image.version"}
    assert not absent & labels.keys(), "there is no such thing as the one of them"
    licensed = tuple(
        replace(each, facts={**each.facts, "licence": licence})
        for each, licence in zip(unfused.adapters, ("apache-2.0", "mit"), strict=True)
    )
    mixed = labels_of(Imaged("adapters", replace(unfused, adapters=licensed)).write(tmp_path / "c"))
    assert "org.opencontainers.image.licenses" not in mixed
    alone = replace(unfused, name=first.name, adapters=(first,), routes={})
    labels = labels_of(Imaged("adapters", alone).write(tmp_path / "b"))
    assert (labels["fusery.adapter.name"], labels["fusery.adapter.digest"]) == (first.name, "c" * 64)
    assert labels["org.opencontainers.image.version"] == "1"
    assert "fusery.adapters.names" not in labels


def test_another_base_image(imaged: Imaged, evil_texts: list[str], tmp_path: Path) -> None:
    for number, image in enumerate(("python:3.13", "localhost:5000/a/b_c:1.0", f"x.io/p@sha256:{'a' * 64}")):
        folder = imaged.write(tmp_path / str(number), base_image=image)
        assert f"ARG BASE_IMAGE={image}\n" in (folder / "Dockerfile").read_text()
    names = {"yes", "null", "012e3", "", "x" * 5000}  # valid names; the empty one asks for the default
    for number, evil in enumerate(set(evil_texts) - names):
        with pytest.raises(BadInputError):
            imaged.write(tmp_path / f"wrong{number}", base_image=evil)


def test_the_self_test_misses_what_the_dockerfile_copies(imaged: Imaged, tmp_path: Path) -> None:
    folder, target = imaged.write(tmp_path / "a"), find_target(imaged.target)
    assert target.check(folder).tensors > 0
    (folder / "requirements-nvidia.txt").unlink()
    with pytest.raises(LayoutError, match="requirements-nvidia"):
        target.check(folder)
