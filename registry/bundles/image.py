"""Container images of bundles with our server: their names, and the files that build one, for the CPU or NVIDIA."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..documents import provenance_part
from ..errors import BadInputError
from .card import card_values, licences, sources
from .rendering import render, resource, server_files
from .source import Choices
from .target import LayoutError
from .writing import BundleFolder

_IMAGE = re.compile(
    r"(?:[A-Za-z0-9.-]{1,120}(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
"""A reference to an image: the grammar of distribution/reference/reference.go, a little narrower."""


def is_image(reference: str) -> bool:
    """Return whether a text is a reference to an image."""
    return _IMAGE.fullmatch(reference) is not None


def checked_image(reference: str, example: str) -> str:
    """Return a reference to an image; refuse other texts."""
    if not is_image(reference):
        hint = f"for example: -o base_image={example}"
        raise BadInputError(f"{reference[:60]!r} is not the name of an image", hint=hint)
    return reference


BASE_IMAGE = "docker.io/library/python:3.12-slim-bookworm"
"""The default base image; any with Python 3.11 to 3.13 on glibc will do."""

REPOSITORIES = {"docker": "fused", "adapters": "adapters"}
"""Targets whose bundles build an image, and the image's repository."""

_HARMLESS = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,198}[a-z0-9])?")
_SPDX = (
    "Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC0-1.0", "MPL-2.0", "Unlicense",
)  # fmt: skip
"""SPDX identifiers of the hub's licences; others become a LicenseRef (SPDX 2.3, annex D)."""


def write_image_files(
    record: Mapping[str, Any], bundle: BundleFolder, choices: Choices, *, folders: Sequence[str], served: str
) -> None:
    """Write the server, its pinned requirements, and the files that build an image."""
    base_image = checked_image(choices.base_image or BASE_IMAGE, BASE_IMAGE)
    for name, content in server_files().items():
        bundle.write(name, content)
    bundle.write("requirements-nvidia.txt", resource("requirements_nvidia.txt"))
    values: Mapping[str, Any] = {"served": served, "folders": folders, "base_image": base_image}
    bundle.write("Dockerfile", render("Dockerfile.j2", labels=labels(record, served), **values))
    bundle.write("compose.yaml", render("compose.yaml.j2", **image_names(record)))
    bundle.write(".dockerignore", render("dockerignore.j2", folders=folders))


def check_image_files(folder: Path) -> None:
    """Check that the bundle has the files that the Dockerfile copies."""
    copied = re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", (folder / "Dockerfile").read_text(), re.MULTILINE)
    missing = [name for line in copied for name in line.split() if not (folder / name).exists()]
    if missing or not copied:
        raise LayoutError(f"the Dockerfile copies {missing or 'nothing'}, which is not in the bundle")


def image_names(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of a bundle's images for templates."""
    repository, name = REPOSITORIES[record["target"]], record["name"]
    suffixes = {"image": "", "nvidia_image": "-nvidia"}
    return {key: f"{repository}:{image_tag(name, suffix)}" for key, suffix in suffixes.items()}


def image_tag(name: str, suffix: str = "") -> str:
    """Return a bundle's name as the tag of an image, which has at most 128 characters."""
    return f"{name[: 128 - len(suffix)]}{suffix}"


def labels(record: Mapping[str, Any], served: str) -> list[tuple[str, str]]:
    """Return the image's labels: names and digests that need no quoting."""
    provenance, adapters = record["provenance"], _adapters(record)
    one = adapters[0] if len(adapters) == 1 else {}
    version = one.get("version")
    values = {
        "fusery.adapter.digest": one.get("digest"),
        "fusery.adapter.name": one.get("name"),
        "fusery.base.digest": provenance_part(provenance, "base").get("digest"),
        "fusery.key": provenance.get("key"),
        "fusery.model.digest": None if record["adapters"] else record["digest"],
        "org.opencontainers.image.title": record["name"],
        "org.opencontainers.image.version": str(version) if type(version) is int else None,
    }
    plain = [
        (key, text) for key, text in values.items() if isinstance(text, str) and _HARMLESS.fullmatch(text)
    ]
    for key in ("digest", "name") if len(adapters) > 1 else ():
        texts = [adapter.get(key) for adapter in adapters]
        if all(isinstance(text, str) and _HARMLESS.fullmatch(text) for text in texts):
            plain.append((f"fusery.adapters.{key}s", " ".join(map(str, texts))))
    licence = spdx(_licence(record))
    plain.append(("org.opencontainers.image.description", f"An OpenAI-compatible server for {served}"))
    plain += [("org.opencontainers.image.licenses", licence)] if licence else []
    return sorted(plain)


def _adapters(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the facts of the unfused adapters, or of the fused one."""
    if not record["adapters"]:
        return [provenance_part(record["provenance"], "adapter")]
    return [{**adapter["facts"], "name": adapter["name"]} for adapter in record["adapters"]]


def _licence(record: Mapping[str, Any]) -> Any:
    if not record["adapters"]:
        return card_values(record)["licence"]["id"]
    adapters = ((adapter["name"], adapter) for adapter in _adapters(record))
    named = [part for adapter in adapters for part in (adapter, *sources(adapter[1]))]
    return licences(provenance_part(record["provenance"], "base"), named)["id"]


def spdx(licence: str | None) -> str | None:
    """Return the SPDX expression of a hub's licence; None for an unknown one."""
    if licence in (None, "other", "unknown"):
        return None
    return next((name for name in _SPDX if name.lower() == licence), f"LicenseRef-{licence}")
