"""The source of a bundle: its model, adapters and provenance; and the options of a bundle."""

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

MAX_CARD = 1 << 20
"""Bytes of a template for the model card, at most."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Options; each target uses those that apply to it.

    Attributes:
        link: hard links to the model's read-only files instead of copies, where the file system can; an edit of such a
            file would damage the cache.
        models: further names of served adapters, `NAME=REF:WEIGHT,REF:WEIGHT`.
        base_name: name of the base for servers that bring it themselves; None for its own name.
        gguf_type: format of the matrices in GGUF files, `f32`, `f16`, `bf16` or `q8_0`; None to keep theirs.
        onnx_type: number format of ONNX files, `f16` or `f32`; None for `f16`.
        base_image: that a bundle's own image is built on, and the image of vLLM in a cluster; None for the default.
        location: where a cluster will find the bundle, a URL; None for its destination, if that is a bucket.
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
        """Return the options for one of many adapters, whose name takes the place of `{name}` in the location."""
        return (
            self if self.location is None else replace(self, location=self.location.replace("{name}", name))
        )

    def digest(self) -> Digest:
        """Return one value for all options that change a bundle's bytes: the template by its content, `link` not at all."""
        values = {name: value for name, value in asdict(self).items() if name != "link"}
        for name in ("location", "onnx_type"):
            if values[name] is None:
                del values[name]  # bundles recorded before the option existed keep their digest
        if self.card is not None:
            with opened(self.card) as file:
                values["card"] = digest_bytes(file.read(MAX_CARD))
        return digest_json({**values, "models": list(self.models)})


_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,198}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Files:
    """Files on this machine, with expected sizes and digests."""

    paths: Mapping[str, Path]
    manifest: Manifest

    @classmethod
    def of(cls, paths: Mapping[str, Path]) -> Self:
        """Return files with newly computed digests."""
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
    """An unfused adapter in a bundle.

    Attributes:
        names: other references that it was requested by, such as `course_rec#prod`.
        files: weights and `adapter_config.json`, in the form that the target takes.
        facts: plain JSON values: those of `adapter` in a provenance.
    """

    name: str
    names: tuple[str, ...]
    files: Files
    facts: Mapping[str, Any]
    tokenizer: Files = field(default_factory=lambda: Files.of({}))


@dataclass(frozen=True, slots=True)
class BundleSource:
    """A model with adapters in it or beside it, and their provenance.

    Attributes:
        name: of the bundle and the served model: `[a-z0-9._-]`.
        provenance: plain JSON values with any text, each key optional, as in the `provenance` of `fusery.json`.
        model: the fused model's files: safetensors, config.json, the tokenizer's files; or the base's, that the adapters
            stand on; None where the target only names the base.
        routes: further names of unfused adapters, each with the full name it leads to, or several with weights.
        base: of unfused adapters, whether or not its files are there.
        tokenizer: files of the tokenizer that unfused adapters need instead of the base's; None if they use the base's.
    """

    name: str
    provenance: Mapping[str, Any]
    model: Files | None
    adapters: tuple[BundledAdapter, ...] = ()
    routes: Mapping[str, str | Mapping[str, float]] = field(default_factory=dict)
    base: Architecture | None = None
    tokenizer: Files | None = None

    @property
    def fused(self) -> Files:
        """The fused model's files."""
        if self.model is None or self.adapters:
            raise BadInputError(f"{self.name} is not a fused model")
        return self.model

    def check(self) -> None:
        """Check what templates rely on."""
        for name in (self.name, *(adapter.name for adapter in self.adapters)):
            if not _NAME.fullmatch(name) or ".." in name:
                raise BadInputError(f"{name[:60]!r} is not a name for a bundle")
        if self.model is not None:
            self._check_model(self.model.manifest)

    def _check_model(self, manifest: Manifest) -> None:
        paths = {entry.path.casefold(): entry.path for entry in manifest}
        if "config.json" not in paths or not any(path.endswith(".safetensors") for path in paths):
            raise BadInputError(f"{self.name} is not a model: it has no config.json or no safetensors file")
        if self.adapters:
            return  # the base's own README and record stay its own, in a folder of their own
        for own in ("readme.md", "fusery.json", "curve.svg"):
            if own in paths:
                raise BadInputError(f"{self.name} has a file {paths[own]!r}, which is the bundle's own")
