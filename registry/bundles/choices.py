"""Options of a bundle, besides the model in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from fusery.storage.digest import Digest, digest_bytes, digest_json
from fusery.storage.opening import opened

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
        compression: of an archive: `zst` or `gz`.
        models: further names of served adapters, `NAME=REF:WEIGHT,REF:WEIGHT`.
        base_name: name of the base for servers that bring it themselves; None for its own name.
        gguf_type: format of the matrices in GGUF files, `f32`, `f16`, `bf16` or `q8_0`; None to keep theirs.
        onnx_type: format of the numbers in an ONNX file, `f16` or `f32`; None for `f16`.
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
        """Return one value for all options that change a bundle's bytes: the template by its content, `link` not at all.

        Raises:
            MissingFileError: the template cannot be read.
        """
        values = {name: value for name, value in asdict(self).items() if name != "link"}
        if self.location is None:
            del values["location"]  # bundles that were recorded before there was the option keep their value
        if self.onnx_type is None:
            del values["onnx_type"]  # as on record from before there was one
        if self.card is not None:
            with opened(self.card) as file:
                values["card"] = digest_bytes(file.read(MAX_CARD))
        return digest_json({**values, "models": list(self.models)})
