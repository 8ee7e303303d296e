"""The target `oci`: a fused model as an OCI image layout after the ModelPack specification.

Formats: opencontainers/image-spec 1.1, image-layout.md and manifest.md; modelpack/model-spec at commit d78bf32, spec.md,
config.md and annotations.md.  Each file of the model is a layer of its own, uncompressed, so that models can be mounted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusery.registry.bundles.card import card_values
from fusery.registry.bundles.image import image_tag, spdx
from fusery.registry.bundles.source import BundleSource, Choices, Files
from fusery.registry.bundles.target import Layout
from fusery.registry.bundles.targets.model import own_files
from fusery.registry.bundles.writing import FILE_MODE, BundleFolder, bundle_record
from fusery.registry.charts.curves import CURVE
from fusery.registry.documents import provenance_part
from fusery.registry.models.architecture import Architecture, read_architecture
from fusery.storage.digest import digest_bytes
from fusery.storage.jsonfile import read_object
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.safetensors import read_header

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG = "application/vnd.cncf.model.weight.config.v1.raw"
DOC = "application/vnd.cncf.model.doc.v1.raw"

BLOBS = "blobs/sha256/"
_PRECISIONS = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_DOCUMENTS = ("README.md", CURVE, "fusery.json")
from .common import finish


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write the blobs, `index.json` and `oci-layout`; beside those, README.md and fusery.json of the bundle itself."""
    own = own_files(source, choices)
    entries = [FileEntry(path, len(content), digest_bytes(content)) for path, content in own.items()]
    layers = [layer(entry) for entry in [*source.fused.manifest, *entries]]
    _copy_blobs(source.fused, bundle, choices)
    written = {entry.sha256 for entry in source.fused.manifest}
    record = bundle_record(source, "oci", None)
    config = document(model_config(record, read_architecture(source.fused.paths), layers))
    manifest = document(image_manifest(record, config, layers))
    for content in (*own.values(), config, manifest):
        digest = digest_bytes(content)
        if digest not in written:
            bundle.write(f"{BLOBS}{digest}", content)
        written.add(digest)
    tag = image_tag(source.name)
    bundle.write("index.json", document(image_index(manifest, tag)))
    bundle.write("oci-layout", document({"imageLayoutVersion": "1.0.0"}))
    record["manifest"] = str(digest_bytes(manifest))
    finish(bundle, record, "oci_readme.md.j2", name=source.name, tag=tag)


def _copy_blobs(files: Files, bundle: BundleFolder, choices: Choices) -> None:
    """Copy a model's files to the names of their digests; two of the same content are one blob."""
    paths = {str(entry.sha256): files.paths[entry.path] for entry in files.manifest}
    sizes = {str(entry.sha256): entry for entry in files.manifest}
    named = Manifest.of(FileEntry(name, entry.size, entry.sha256) for name, entry in sizes.items())
    bundle.copy(Files(paths, named), under=BLOBS, link=choices.link)


def document(value: Any) -> bytes:
    """Return JSON of which the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def layer(entry: FileEntry) -> dict[str, Any]:
    """Return the descriptor of one file; `org.opencontainers.image.title` is what oras calls it when it pulls."""
    name = entry.path.rpartition("/")[2]
    metadata = {"name": name, "mode": FILE_MODE, "uid": 0, "gid": 0, "size": entry.size}
    # A regular file is 0 in tar's terms ('0'), and no time is the same everywhere.
    metadata |= {"mtime": "1970-01-01T00:00:00Z", "typeflag": ord("0")}
    return {
        "mediaType": _media_type(entry.path),
        "digest": f"sha256:{entry.sha256}",
        "size": entry.size,
        "annotations": {
            "org.cncf.model.filepath": entry.path,
            "org.cncf.model.file.metadata+json": json.dumps(metadata, separators=(",", ":")),
            "org.cncf.model.file.mediatype.untested": "false",
            "org.opencontainers.image.title": entry.path,
        },
    }


def _media_type(path: str) -> str:
    if path.endswith(".safetensors"):
        return WEIGHT
    name = path.upper()
    return DOC if path in _DOCUMENTS or name.startswith(("LICENSE", "LICENCE", "NOTICE")) else WEIGHT_CONFIG


def model_config(
    record: Mapping[str, Any], architecture: Architecture, layers: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the configuration of a model artifact."""
    provenance = record["provenance"]
    adapter = provenance_part(provenance, "adapter")
    values = card_values(record)
    licence = spdx(values["licence"]["id"])
    described: dict[str, Any] = {
        "name": record["name"],
        "title": record["name"],
        "family": architecture.model_type,
        "version": _text(adapter.get("version")),
        "description": _text(adapter.get("note")),
        "licenses": [licence] if licence else None,
        "datasetsURL": [f"hf://datasets/{name}" for name in values["datasets"]] or None,
    }
    technical = {
        "architecture": "transformer",
        "format": "safetensors",
        "paramSize": parameter_size(architecture.parameters),
        "precision": _PRECISIONS.get(architecture.dtype.upper(), architecture.dtype.lower()),
        "quantization": "mlx" if provenance.get("quantization") else None,
        "capabilities": {"inputTypes": ["text"], "outputTypes": ["text"]},
    }
    return {
        "descriptor": {key: value for key, value in described.items() if value},
        "config": {key: value for key, value in technical.items() if value},
        "modelfs": {"type": "layers", "diffIds": [each["digest"] for each in layers]},
    }


def parameter_size(count: int) -> str:
    """Return a number of parameters as `<count><scale-prefix>`, with at most one digit after the point."""
    for scale, prefix in ((10**15, "q"), (10**12, "t"), (10**9, "b"), (10**6, "m")):
        if count >= scale:
            return f"{count / scale:.1f}".removesuffix(".0") + prefix
    return f"{count / 1000:.1f}".removesuffix(".0") + "k"


def image_manifest(record: Mapping[str, Any], config: bytes, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the manifest, with the lineage, for which ModelPack has no field, as annotations."""
    provenance = record["provenance"]
    base, adapter = provenance_part(provenance, "base"), provenance_part(provenance, "adapter")
    fidelity = provenance_part(provenance, "fidelity")
    said = {
        "fusery.adapter.digest": adapter.get("digest"),
        "fusery.adapter.name": adapter.get("name"),
        "fusery.base.digest": base.get("digest"),
        "fusery.base.hub_id": base.get("hub_id"),
        "fusery.base.name": base.get("name"),
        "fusery.dataset": adapter.get("dataset"),
        "fusery.fidelity.verdict": fidelity.get("verdict"),
        "fusery.key": provenance.get("key"),
        "fusery.model.digest": provenance.get("digest"),
        "org.opencontainers.image.title": record["name"],
        "org.opencontainers.image.version": adapter.get("version"),
        "org.opencontainers.image.licenses": spdx(card_values(record)["licence"]["id"]),
    }
    texts = {key: _text(value) for key, value in said.items()}
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": f"sha256:{digest_bytes(config)}", "size": len(config)},
        "layers": layers,
        "annotations": {key: text for key, text in texts.items() if text is not None},
    }


def image_index(manifest: bytes, tag: str) -> dict[str, Any]:
    """Return the layout's entry point: one manifest, under one name."""
    described = {
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "digest": f"sha256:{digest_bytes(manifest)}",
        "size": len(manifest),
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [described]}


def _text(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def check(folder: Path) -> Layout:
    """Follow the layout from its index to the weights, and read their headers."""
    (top,) = read_object(folder / "index.json")["manifests"]
    layers = read_object(_blob(folder, top))["layers"]
    weights = [_blob(folder, each) for each in layers if each["mediaType"] == WEIGHT]
    return Layout(tensors=sum(len(read_header(path).tensors) for path in weights))


def _blob(folder: Path, descriptor: Mapping[str, Any]) -> Path:
    return folder / BLOBS / str(descriptor["digest"]).removeprefix("sha256:")
