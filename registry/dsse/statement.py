"""What a signature states: which files a model has, and the SHA-256 of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from fusery.storage.errors import FormatError, StorageError
from fusery.storage.jsonfile import parse_json
from fusery.storage.manifest import Manifest, safe_relative_path

from .envelope import IN_TOTO, BadSignatureError, Envelope

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
LONE = "."
"""How model-signing calls the file where a single one was signed: whatever its name is."""
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Statement:
    """The signed list of files.

    Attributes:
        name: what the signer called the model; it proves nothing.
        files: path to SHA-256.
        ignored: paths that the signer left out; they count as files that were added all the same.
    """

    name: str
    files: Mapping[str, str]
    ignored: tuple[str, ...] = ()

    @property
    def lone(self) -> bool:
        """A single file was signed, whatever its name is."""
        return set(self.files) == {LONE}

    def covers(self, manifest: Manifest) -> bool:
        """Return whether it lists exactly a manifest's files."""
        listed = {entry.path: str(entry.sha256) for entry in manifest}
        if self.lone and len(listed) == 1:
            return set(listed.values()) == set(self.files.values())
        return listed == dict(self.files)


def read_statement(envelope: Envelope) -> Statement:
    """Return what a signature states.

    Raises:
        BadSignatureError: it is no statement of model-signing, or not about whole files by their SHA-256.
    """
    try:
        if envelope.payload_type != IN_TOTO:
            raise ValueError("it is over something else than an in-toto statement")
        return _statement(parse_json(envelope.payload, "the signed statement"))
    except KeyError as error:
        raise BadSignatureError(f"the signature lacks {str(error)[:60]} in its statement") from error
    except (StorageError, TypeError, AttributeError, ValueError) as error:
        why = error.message if isinstance(error, StorageError) else str(error)
        raise BadSignatureError(
            f"the signature does not state which files are signed: {why[:200]}"
        ) from error


def _statement(document: Any) -> Statement:
    if document["_type"] != STATEMENT or document["predicateType"] != PREDICATE:
        raise ValueError("it is not of the kind that model-signing 1.0 makes")
    (subject,) = document["subject"]
    predicate = document["predicate"]
    method = predicate["serialization"]
    if method["method"] != "files" or method["hash_type"] != "sha256":
        raise ValueError("it is not over whole files by their SHA-256")
    running, files = sha256(), {}
    for resource in predicate["resources"]:
        path, digest = resource["name"], resource["digest"]
        if resource["algorithm"] != "sha256" or not _HEX.fullmatch(digest):
            raise ValueError("a digest is no SHA-256")
        if path != LONE:
            safe_relative_path(path)
        if path in files:
            raise FormatError("it names a path twice")
        files[path] = digest
        running.update(bytes.fromhex(digest))
    if not files or (LONE in files and len(files) > 1):
        raise ValueError("it names no files")
    if subject["digest"]["sha256"] != running.hexdigest():
        raise ValueError("its digest is not that of its list")
    ignored = method.get("ignore_paths", [])
    return Statement(
        name=str(subject.get("name", ""))[:300],
        files=files,
        ignored=tuple(str(path)[:300] for path in ignored),
    )
