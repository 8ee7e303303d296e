"""The target `docker`: files that build an image with an OpenAI-compatible server for the model, for the CPU or NVIDIA."""

from __future__ import annotations

import json
from pathlib import Path

from ...engine.architectures import has_tensor_scales
from ...errors import BadInputError
from ...models.architecture import read_architecture
from ...runtime.document import read_document
from ...runtime.errors import DocumentError
from ..card import card_values
from ..image import check_image_files, image_names, write_image_files
from ..rendering import render
from ..source import BundleSource, Choices
from ..target import Layout, LayoutError, model_layout
from ..writing import BundleFolder, bundle_record, sealed_bytes
from .model import write as write_model

MODEL = "model"


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `model/`, the server with its requirements and `serving.json`, the Dockerfile, compose.yaml and README.md."""
    record = bundle_record(source, "docker", MODEL)
    if not accepts(source):
        message = f"{source.name} is in NVFP4 with a scale per tensor, which mlx-lm does not read"
        raise BadInputError(message, hint="--as 16bit")
    write_image_files(record, bundle, choices, folders=(MODEL,), served="one fused language model")
    write_model(source, bundle, choices, under=f"{MODEL}/")
    served = {"name": source.name, "folder": MODEL, "digest": record["digest"]}
    bundle.write("serving.json", json.dumps({"format": 1, "base": served}, indent=2).encode() + b"\n")
    card = card_values(record)
    values = {"name": source.name, "first": source.name}
    values |= {key: card[key] for key in ("quantized", "merge_aware")}
    values |= image_names(record)
    bundle.write("README.md", render("docker_readme.md.j2", **values))
    bundle.write("fusery.json", sealed_bytes(record, bundle.manifest()))


def accepts(source: BundleSource) -> bool:
    """Tell whether mlx-lm, the server of the image, loads a fused model."""
    return not has_tensor_scales(read_architecture(source.fused.paths).config)


def check(folder: Path) -> Layout:
    """Read the files as the server and the Dockerfile do."""
    check_image_files(folder)
    try:
        return model_layout(folder / read_document(folder / "serving.json").base.folder)
    except DocumentError as error:
        raise LayoutError(f"the bundle cannot be served: {error}") from error
