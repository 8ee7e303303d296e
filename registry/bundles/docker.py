"""The target `docker`: a folder that builds an image with an OpenAI-compatible server for the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .choices import Choices
from .layout import Layout, model_layout
from .model import write_model
from .record import bundle_record, provenance_part, record_bytes
from .rendering import render, resource, server_files
from .source import BundleSource
from .writing import BundleFolder

_HARMLESS = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,198}[a-z0-9])?")


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `model/`, the server, its pinned requirements, a Dockerfile and how to use them."""
    record = bundle_record(source, "docker", "model")
    write_model(source, bundle, choices, under="model/")
    for name, content in server_files().items():
        bundle.write(f"serving/{name}", content)
    bundle.write("server.py", resource("server.py.txt"))
    bundle.write("requirements.txt", resource("requirements.txt"))
    bundle.write("Dockerfile", render("Dockerfile.j2", name=source.name, labels=labels(record)))
    bundle.write(".dockerignore", resource("dockerignore.txt"))
    bundle.write("README.md", render("docker_readme.md.j2", name=source.name))
    bundle.write("fusery.json", record_bytes(record))


def check(folder: Path) -> Layout:
    """Read the model that the server will load."""
    return model_layout(folder / "model")


def labels(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the image's labels: names and digests, and of those only what can be nothing but a name or a digest.

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
    }
    return [(key, text) for key, text in found.items() if isinstance(text, str) and _HARMLESS.fullmatch(text)]
