"""The source of a bundle: model, adapters and provenance; and its options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from fusery.storage.digest import Digest, digest_bytes, digest_json
from fusery.storage.failures import opened
from fusery.storage.manifest import Manifest, manifest_of

from ..errors import BadInputError
from ..models.architecture import Architecture

Compression = Literal["zst", "gz"]
GgufType = Literal["f32", "f16", "bf16", "q8_0"]
OnnxType = Literal["f16", "f32"]

MAX_CARD = 1 << 20  # bytes of a template for the model card


@dataclass(frozen=True, slots=True)
class Choices:
    """Options; each target uses those that apply to it.

    Attributes:
        link: hard-link the model's read-only files instead of copying them; editing a link would damage the cache.
        models: additional names of served adapters, `NAME=REF:WEIGHT,REF:WEIGHT`.
        base_name: the base model's name on servers that load it themselves; None for its own name.
        gguf_type: format of matrices in GGUF files; None to keep theirs.
        onnx_type: number format of ONNX files; None for `f16`.
        base_image: base of a bundle's image, or the image of vLLM in a cluster; None for the default.
        location: URL of the bundle for a cluster; None for its destination, if that is a bucket.
        card: a team's own template for the model card; None for the built-in one.
    """

    link: bool = False
    compression: Compression = "zst"
    models: tuple[str, ...] = ()
    base_name: str | None = None
    gguf_type: GgufType | None = None
    onnx_type: OnnxType | None = None
    base_image: str | None = None
    location: str | None = None
    card: Path | None = None

    def of(self, name: str) -> Choices:
        """Return the options for one of many adapters, with its name for `{name}` in the location."""
        location = self.location and self.location.replace("{name}", name)
        return replace(self, location=location)

    def digest(self) -> Digest:
        """Return the digest of all options that change a bundle's bytes, with the content of the template."""
        values = {name: value for name, value in asdict(self).items() if name != "link"}
        for name in ("location", "onnx_type"):
            if values[name] is None:
                del values[name]  # digests are stable
        if self.card is not None:
            with opened(self.card) as file:
                values["card"] = digest_bytes(file.read(MAX_CARD))
        return digest_json({**values, "models": list(self.models)})


_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,198}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Files:
    """Files on this machine with their expected manifest."""

    paths: Mapping[str, Path]
    manifest: Manifest

    @classmethod
    def of(cls, paths: Mapping[str, Path]) -> Self:
        """Return files with computed digests."""
        return cls(paths, manifest_of(paths))

    @classmethod
    def within(cls, folder: Path, manifest: Manifest) -> Self:
        """Return the files of a folder that a manifest lists."""
        return cls({entry.path: folder / entry.path for entry in manifest}, manifest)

    def only(self, paths: Iterable[str]) -> Self:
        """Return some of the files."""
        wanted = set(paths)
        manifest = Manifest.of(entry for entry in self.manifest if entry.path in wanted)
        return type(self)({path: self.paths[path] for path in wanted}, manifest)


@dataclass(frozen=True, slots=True)
class BundledAdapter:
    """An unfused adapter in a bundle."""

    name: str
    names: tuple[str, ...]  # its routes, such as `course_rec#prod`
    files: Files  # weights and `adapter_config.json` in the target's form
    facts: Mapping[str, Any]  # `adapter` of a provenance, as plain JSON values
    tokenizer: Files = field(default_factory=lambda: Files.of({}))


@dataclass(frozen=True, slots=True)
class BundleSource:
    """A fused model, or adapters and their base model, with their provenance."""

    name: str  # of the bundle and the served model: `[a-z0-9._-]`
    provenance: Mapping[str, Any]  # that of `fusery.json`: plain JSON values with any text, each key optional
    model: Files | None  # the fused model or the base model; None if the target only names the base model
    adapters: tuple[BundledAdapter, ...] = ()
    routes: Mapping[str, str | Mapping[str, float]] = field(default_factory=dict)
    base: Architecture | None = None  # of unfused adapters
    tokenizer: Files | None = None  # of unfused adapters; None if they use the base model's

    @property
    def fused(self) -> Files:
        """The fused model's files."""
        if self.model is None or self.adapters:
            raise BadInputError(f"{self.name} is not a fused model")
        return self.model

    def check(self) -> None:
        """Check the names and files that templates rely on."""
        for name in (self.name, *(adapter.name for adapter in self.adapters)):
            if not _NAME.fullmatch(name) or ".." in name:
                raise BadInputError(f"{name[:60]!r} is not a name for a bundle")
        if self.model is None:
            return
        paths = {entry.path.casefold(): entry.path for entry in self.model.manifest}
        if "config.json" not in paths or not any(path.endswith(".safetensors") for path in paths):
            raise BadInputError(f"{self.name} is not a model: it has no config.json or no safetensors file")
        if self.adapters:
            return  # the base model is in a folder of its own
        for own in ("readme.md", "fusery.json", "curve.svg"):
            if own in paths:
                raise BadInputError(f"{self.name} has a file {paths[own]!r}, which is the bundle's own")
