"""The target `oci`: a fused model as an OCI image layout after the ModelPack specification.

Formats: opencontainers/image-spec 1.1, image-layout.md and manifest.md; modelpack/model-spec at commit d78bf32, spec.md,
config.md and annotations.md.  Each file of the model is a layer of its own, uncompressed, so that models can be mounted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from fusery.storage.digest import canonical_json, digest_bytes
from fusery.storage.jsonfile import read_object
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.safetensors import read_header

from .common import finish

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

Document = Mapping[str, object]


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write the blobs, `index.json` and `oci-layout`; beside those, README.md and fusery.json of the bundle itself."""
    own = own_files(source, choices)
    entries = [FileEntry(path, len(content), digest_bytes(content)) for path, content in own.items()]
    layers = [layer(entry) for entry in [*source.fused.manifest, *entries]]
    # Two files of the same content are one blob.
    blobs = {str(entry.sha256): entry for entry in source.fused.manifest}
    paths = {name: source.fused.paths[entry.path] for name, entry in blobs.items()}
    named = Manifest.of(FileEntry(name, entry.size, entry.sha256) for name, entry in blobs.items())
    bundle.copy(Files(paths, named), under=BLOBS, link=choices.link)
    written = set(blobs)
    record = bundle_record(source, "oci", None)
    config = canonical_json(model_config(record, read_architecture(source.fused.paths), layers))
    manifest = canonical_json(image_manifest(record, config, layers))
    for content in (*own.values(), config, manifest):
        digest = digest_bytes(content)
        if digest not in written:
            bundle.write(f"{BLOBS}{digest}", content)
        written.add(digest)
    tag = image_tag(source.name)
    entry = {**_descriptor(MANIFEST_TYPE, manifest), "artifactType": ARTIFACT_TYPE}
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}
    bundle.write("index.json", canonical_json(index))
    bundle.write("oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"}))
    record["manifest"] = str(digest_bytes(manifest))
    finish(bundle, record, "oci_readme.md.j2", name=source.name, tag=tag)


def layer(entry: FileEntry) -> Document:
    """Return the descriptor of one file; `org.opencontainers.image.title` is what oras calls it when it pulls."""
    name, upper = entry.path.rpartition("/")[2], entry.path.upper()
    is_document = entry.path in _DOCUMENTS or upper.startswith(("LICENSE", "LICENCE", "NOTICE"))
    kind = WEIGHT if entry.path.endswith(".safetensors") else DOC if is_document else WEIGHT_CONFIG
    metadata = {"name": name, "mode": FILE_MODE, "uid": 0, "gid": 0, "size": entry.size}
    # A regular file is 0 in tar's terms ('0'), and no time is the same everywhere.
    metadata |= {"mtime": "1970-01-01T00:00:00Z", "typeflag": ord("0")}
    return {
        "mediaType": kind,
        "digest": f"sha256:{entry.sha256}",
        "size": entry.size,
        "annotations": {
            "org.cncf.model.filepath": entry.path,
            "org.cncf.model.file.metadata+json": json.dumps(metadata, separators=(",", ":")),
            "org.cncf.model.file.mediatype.untested": "false",
            "org.opencontainers.image.title": entry.path,
        },
    }


def model_config(
    record: Mapping[str, Any], architecture: Architecture, layers: Sequence[Document]
) -> Document:
    """Return the configuration of a model artifact."""
    provenance = record["provenance"]
    adapter = provenance_part(provenance, "adapter")
    values = card_values(record)
    licence = spdx(values["licence"]["id"])
    described = {
        "name": record["name"],
        "title": record["name"],
        "family": architecture.model_type,
        "version": _text(adapter.get("version")),
        "description": _text(adapter.get("note")),
        "licenses": [licence] if licence else None,
        "datasetsURL": [f"hf://datasets/{name}" for name in values["datasets"]] or None,
    }
    technical: Document = {
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
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
    }


def parameter_size(count: int) -> str:
    """Return a number of parameters as `<count><scale-prefix>`, with at most one digit after the point."""
    for scale, prefix in ((10**15, "q"), (10**12, "t"), (10**9, "b"), (10**6, "m")):
        if count >= scale:
            return f"{count / scale:.1f}".removesuffix(".0") + prefix
    return f"{count / 1000:.1f}".removesuffix(".0") + "k"


def image_manifest(record: Mapping[str, Any], config: bytes, layers: Sequence[Document]) -> Document:
    """Return the manifest, with the lineage, for which ModelPack has no field, as annotations."""
    provenance = record["provenance"]
    base, adapter = provenance_part(provenance, "base"), provenance_part(provenance, "adapter")
    fidelity = provenance_part(provenance, "fidelity")
    raw_annotations = {
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
    texts = {key: _text(value) for key, value in raw_annotations.items()}
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": _descriptor(CONFIG_TYPE, config),
        "layers": layers,
        "annotations": {key: text for key, text in texts.items() if text is not None},
    }


def _descriptor(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": f"sha256:{digest_bytes(content)}", "size": len(content)}


def _text(value: object) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def check(folder: Path) -> Layout:
    """Follow the layout from its index to the weights, and read their headers."""
    (top,) = read_object(folder / "index.json")["manifests"]
    layers = read_object(_blob(folder, top))["layers"]
    weights = [_blob(folder, descriptor) for descriptor in layers if descriptor["mediaType"] == WEIGHT]
    return Layout(tensors=sum(len(read_header(path).tensors) for path in weights))


def _blob(folder: Path, descriptor: Mapping[str, Any]) -> Path:
    return folder / BLOBS / str(descriptor["digest"]).removeprefix("sha256:")
