"""The target `oci`, and tags in a registry as places."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from bundle_cases import make_bundle
from jsonschema import Draft4Validator, Draft202012Validator
from referencing import Registry as Schemas
from referencing.jsonschema import DRAFT4

from fusery.integrations import oci as target
from fusery.registry.bundles import BundleSource
from fusery.storage.digest import digest_file

SCHEMAS = Path(__file__).parents[1] / "data" / "oci"
"""opencontainers/image-spec at 13cff54, schema/, and modelpack/model-spec at d78bf32, schema/config-schema.json."""


def schema(name: str) -> dict[str, Any]:
    return dict(json.loads((SCHEMAS / f"{name}.json").read_text()))


def oci_errors(name: str, value: object) -> list[str]:
    # The ids in these files are of no use to a resolver: they name places below the one that they are at.
    def retrieve(uri: str) -> Any:
        return DRAFT4.create_resource(schema(uri.removesuffix(".json").rpartition("/")[2]))

    found = schema(name)
    validator = Draft4Validator(found, registry=Schemas(retrieve=retrieve))  # type: ignore[call-arg]
    return [error.message for error in validator.iter_errors(value)]


def written(source: BundleSource, folder: Path) -> Path:
    folder.mkdir()
    make_bundle(source, "oci", folder)
    return folder


def documents(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return index, manifest and configuration."""
    index = json.loads((folder / "index.json").read_bytes())
    manifest = json.loads(blob(folder, index["manifests"][0]["digest"]).read_bytes())
    return index, manifest, json.loads(blob(folder, manifest["config"]["digest"]).read_bytes())


def blob(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / digest.removeprefix("sha256:")


def test_the_layout_is_what_oci_and_modelpack_say(source: BundleSource, tmp_path: Path) -> None:
    folder = written(source, tmp_path / "bundle")
    index, manifest, config = documents(folder)
    layout = json.loads((folder / "oci-layout").read_bytes())
    assert oci_errors("image-layout-schema", layout) == []
    assert oci_errors("image-index-schema", index) == []
    assert oci_errors("image-manifest-schema", manifest) == []
    modelpack = Draft202012Validator(schema("modelpack-config-schema"))
    assert [error.message for error in modelpack.iter_errors(config)] == []
    # The specification of model-spec: what the manifest must and its layers should be.
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert {each["mediaType"] for each in manifest["layers"]} == {
        "application/vnd.cncf.model.weight.v1.raw",
        "application/vnd.cncf.model.weight.config.v1.raw",
        "application/vnd.cncf.model.doc.v1.raw",
    }
    assert config["config"]["format"] == "safetensors"
    assert config["modelfs"]["diffIds"] == [each["digest"] for each in manifest["layers"]]
    for path in (folder / "blobs" / "sha256").iterdir():
        assert digest_file(path)[0] == path.name
    # The schemas are not toothless.
    assert oci_errors("image-manifest-schema", {**manifest, "mediaType": 7})
    assert oci_errors("image-manifest-schema", {**manifest, "layers": [{"digest": "x"}]})
    assert list(modelpack.iter_errors({**config, "more": 1}))


def test_a_size_in_modelpack_s_words() -> None:
    sizes = {999: "1k", 134_515_008: "134.5m", 1_000_000: "1m", 7_241_732_096: "7.2b", 50_300: "50.3k"}
    assert {count: target.parameter_size(count) for count in sizes} == sizes


def test_hostile_texts_stay_texts(source: BundleSource, evil_in_bundles: list[str], tmp_path: Path) -> None:
    plain_bundle = written(source, tmp_path / "plain")
    plain = documents(plain_bundle)
    for number, evil in enumerate(evil_in_bundles):
        provenance = deepcopy(source.provenance) | {"key": evil, "quantization": evil}
        for key in ("name", "task", "dataset", "version", "digest", "note", "licence"):
            provenance["adapter"][key] = evil
        provenance["base"] |= {"name": evil, "digest": evil, "licence": evil, "hub_id": evil}
        provenance["fidelity"]["verdict"] = evil
        folder = written(replace(source, provenance=provenance), tmp_path / str(number))
        index, manifest, config = documents(folder)
        assert manifest["annotations"]["fusery.base.name"] == evil
        assert manifest["annotations"]["fusery.dataset"] == evil
        assert oci_errors("image-manifest-schema", manifest) == []
        assert list(Draft202012Validator(schema("modelpack-config-schema")).iter_errors(config)) == []
        assert index["manifests"][0]["annotations"] == plain[0]["manifests"][0]["annotations"]
        layers = [
            [each["annotations"] for each in found["layers"] if each["mediaType"] != target.DOC]
            for found in (manifest, plain[1])
        ]
        assert layers[0] == layers[1]
        assert (folder / "README.md").read_bytes() == (plain_bundle / "README.md").read_bytes()


def test_common_licence_is_said(source: BundleSource, provenance: dict[str, Any], tmp_path: Path) -> None:
    provenance["base"]["licence"] = provenance["adapter"]["licence"] = "apache-2.0"
    provenance["with"] = []
    _, manifest, config = documents(written(source, tmp_path / "bundle"))
    assert config["descriptor"]["licenses"] == ["Apache-2.0"]
    assert manifest["annotations"]["org.opencontainers.image.licenses"] == "Apache-2.0"
