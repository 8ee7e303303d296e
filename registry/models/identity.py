"""The identity of a base model: a digest over its tensors (name, dtype, shape, bytes) and the values of configuration and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import Digest, digest_bytes, digest_file, digest_json
from fusery.storage.manifest import FileEntry, Manifest
from fusery.storage.safetensors import BASE_HEADER_LIMIT, digest_tensors, read_header

from ..engine.architectures import taken_by_name
from ..engine.config import WEIGHTS

if TYPE_CHECKING:
    from fusery.storage.copying import Progress

FORMAT = "fusery.base.v1"

_CONFIGURATION = ("config.json", "generation_config.json")
# Where it was saved, with which version, and how numbers are to be converted when it is loaded: not what it holds.
_PASSING = frozenset({"_name_or_path", "name_or_path", "transformers_version", "_commit_hash"})
_TOKENIZER_SUFFIXES = (".model", ".tiktoken", ".jinja", ".txt")
_TOKENIZER = frozenset({"special_tokens_map.json", "added_tokens.json", "vocab.json", "chat_template.json"})
_JSON_LIMIT = 128 << 20


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """A base model's files, and the digest that files with the same content share."""

    manifest: Manifest
    content: Digest


def identify_base(
    files: Mapping[str, Path], config: Mapping[str, Any], *, progress: Progress = None
) -> BaseIdentity:
    """Read a model's files once, and return their manifest and the digest of their content."""
    entries: list[FileEntry] = []
    tensors: list[list[Any]] = []
    documents: dict[str, str] = {}
    written_by_mlx = True
    for path, file in sorted(files.items()):
        if WEIGHTS.fullmatch(path):
            header = read_header(file, limit=BASE_HEADER_LIMIT)
            written_by_mlx &= header.metadata.get("format") == "mlx"
            digest, tensor_digests = digest_tensors(file, header, progress=progress)
            entries.append(FileEntry(path, header.size, digest))
            for name, tensor in header.tensors.items():
                tensors.append([name, tensor.dtype, list(tensor.shape), tensor_digests[name]])
        else:
            digest, size = digest_file(file)
            entries.append(FileEntry(path, size, digest))
            if progress:
                progress(size)
            is_model_document = path in _CONFIGURATION or path in _TOKENIZER or path.startswith("tokenizer")
            if is_model_document or (path.endswith(_TOKENIZER_SUFFIXES) and not path.startswith("LICENSE")):
                documents[path] = _document_digest(path, file, digest)
    # For some architectures mlx-lm turns or renames tensors unless it wrote them itself: the same bytes are then two
    # models, distinguished by the metadata of the files alone.
    as_stored = taken_by_name(config, files.keys(), written_by_mlx=False)
    content = {
        "format": FORMAT,
        "tensors": sorted(tensors),
        "documents": documents,
        "rearranged": None if as_stored else not written_by_mlx,
    }
    return BaseIdentity(Manifest.of(entries), digest_json(content))


def lasting(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration without what changes from one place to the next."""
    return {key: value for key, value in config.items() if key not in _PASSING}


def _document_digest(path: str, file: Path, digest: Digest) -> str:
    if not path.endswith(".json") or file.stat().st_size > _JSON_LIMIT:
        return digest
    try:
        value = json.loads(file.read_bytes())
        if isinstance(value, dict):
            return digest_bytes(json.dumps(lasting(value), sort_keys=True, separators=(",", ":")).encode())
    except (ValueError, RecursionError):
        return digest  # what it means is not known: it is the same only where its bytes are
    return digest
