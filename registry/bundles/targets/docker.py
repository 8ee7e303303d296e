"""The target `docker`: a folder that builds an image with an OpenAI-compatible server for the model, for the CPU or NVIDIA."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...documents import provenance_part
from ...server.document import read_document
from ...server.errors import DocumentError
from ..cards.card import card_values
from ..choices import Choices
from ..image_names import checked_image
from ..layout import Layout, LayoutError, model_layout
from ..record import bundle_record, sealed_bytes
from ..rendering import render, resource, server_files
from ..source import BundleSource
from ..writing import BundleFolder
from .model import write_model

MODEL = "model"

BASE_IMAGE = "docker.io/library/python:3.12-slim-bookworm"
"""The default base image; any with Python 3.11 to 3.13 on glibc will do."""

_HARMLESS = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,198}[a-z0-9])?")
_SPDX = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc0-1.0": "CC0-1.0",
    "mpl-2.0": "MPL-2.0",
    "unlicense": "Unlicense",
}
"""Identifiers of SPDX for those of the hub; what has none becomes a LicenseRef (SPDX 2.3, annex D)."""


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `model/`, the server, its pinned requirements and `serving.json`, a Dockerfile, a file for compose and how to use them."""
    record = bundle_record(source, "docker", MODEL)
    base_image = checked_image(choices.base_image or BASE_IMAGE, BASE_IMAGE)
    write_model(source, bundle, choices, under=f"{MODEL}/")
    for name, content in server_files().items():
        bundle.write(name, content)
    served = {"name": source.name, "folder": MODEL, "digest": record["digest"]}
    bundle.write("serving.json", json.dumps({"format": 1, "base": served}, indent=2).encode() + b"\n")
    bundle.write("requirements-nvidia.txt", resource("requirements_nvidia.txt"))
    bundle.write(
        "Dockerfile",
        render("Dockerfile.j2", name=source.name, labels=labels(record), base_image=base_image),
    )
    bundle.write("compose.yaml", render("compose.yaml.j2", tag=image_tag(source.name)))
    bundle.write(".dockerignore", resource("dockerignore.txt"))
    bundle.write("README.md", render("docker_readme.md.j2", name=source.name, tag=image_tag(source.name)))
    bundle.write("fusery.json", sealed_bytes(record, bundle.manifest()))


def check(folder: Path) -> Layout:
    """Read the model as the server will find it, and look for what the Dockerfile copies."""
    copied = re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", (folder / "Dockerfile").read_text(), re.MULTILINE)
    missing = [name for line in copied for name in line.split() if not (folder / name).exists()]
    if missing or not copied:
        raise LayoutError(
            f"the bundle's Dockerfile copies {missing or 'nothing'}, which is not in the bundle"
        )
    try:
        return model_layout(folder / read_document(folder / "serving.json").base.folder)
    except DocumentError as error:
        raise LayoutError(f"the bundle cannot be served: {error}") from error


def image_tag(name: str) -> str:
    """Return a bundle's name as the tag of an image, which has at most 128 characters."""
    return name[:128]


def labels(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the image's labels: names and digests, and of those only what can be nothing but a name or a digest.

    The keys `org.opencontainers.image.*` are those of the OCI image specification 1.1, annotations.md; `created` is not among
    them, since it would make two images of one bundle differ, and `base.name` is set where the base is known.
    Everything else about the model is in `fusery.json`, which is in the image as well.
    """
    provenance = record["provenance"]
    base, adapter = provenance_part(provenance, "base"), provenance_part(provenance, "adapter")
    found = {
        "fusery.adapter.digest": adapter.get("digest"),
        "fusery.adapter.name": adapter.get("name"),
        "fusery.base.digest": base.get("digest"),
        "fusery.key": provenance.get("key"),
        "fusery.model.digest": record["digest"],
        "org.opencontainers.image.title": record["name"],
        "org.opencontainers.image.version": _version(adapter.get("version")),
    }
    plain = [
        (key, text) for key, text in found.items() if isinstance(text, str) and _HARMLESS.fullmatch(text)
    ]
    licence = spdx(card_values(record)["licence"]["id"])
    # The description is a text of ours, and says no more than that.
    described = "An OpenAI-compatible server for one fused language model"
    plain += [("org.opencontainers.image.description", described)]
    plain += [("org.opencontainers.image.licenses", licence)] if licence else []
    return sorted(plain)


def spdx(licence: str | None) -> str | None:
    """Return an SPDX expression for a licence that the hub knows; None for one that is not known."""
    if licence in (None, "other", "unknown"):
        return None
    return _SPDX.get(licence, f"LicenseRef-{licence}")


def _version(version: Any) -> str | None:
    return str(version) if isinstance(version, int) and not isinstance(version, bool) else None
