"""Manifests as YAML: one form of it, with every text in quotes, that this module also reads.

No library for YAML comes with fusery.  What is written here any of them reads, and the same value gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..layout import LayoutError
from ..quoting import yaml_string

Manifest = dict[str, Any]

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_ENTRY = re.compile(r'("(?:[^"\\]|\\.)*"|[A-Za-z][A-Za-z0-9_./-]*):(?: (.+))?')
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "{}": {}, "[]": []}


def manifest_bytes(documents: Sequence[Manifest], comment: str) -> bytes:
    """Return a file of manifests.

    Args:
        documents: in their order; of texts, whole numbers, booleans, lists and mappings.
        comment: the file's first line.
    """
    texts = ["".join(f"{line}\n" for line in _lines(document)) for document in documents]
    return (f"# {comment}\n" + "---\n".join(texts)).encode("ascii")


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            name = key if _KEY.fullmatch(key) and key.lower() not in _WORDS else yaml_string(key)
            if isinstance(each, Mapping | list) and each:
                yield f"{name}:"
                yield from (f"  {line}" for line in _lines(each))
            else:
                yield f"{name}: {_scalar(each)}"
    else:
        for each in value:
            if isinstance(each, Mapping) and each:
                first, *others = _lines(each)
                yield f"- {first}"
                yield from (f"  {line}" for line in others)
            else:
                yield f"- {_scalar(each)}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return yaml_string(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if value in ({}, []):
        return "{}" if isinstance(value, Mapping) else "[]"
    raise TypeError(f"a manifest has no {type(value).__name__} in this place")


def read_manifests(data: bytes) -> list[Manifest]:
    """Return the documents of a file that `manifest_bytes` wrote.

    Raises:
        LayoutError: it is not in that form.
    """
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise LayoutError("a manifest of the bundle is not as it was written") from error
    documents = []
    for part in re.split(r"^---\n", text, flags=re.MULTILINE):
        lines = _Lines([line for line in part.splitlines() if not line.startswith("#")])
        document = lines.block(0)
        if lines.left or not isinstance(document, dict):
            raise lines.damaged()
        documents.append(document)
    return documents


@dataclass(slots=True)
class _Lines:
    """The lines of a document that are not read yet."""

    left: list[str]

    def block(self, indent: int) -> Any:
        """Read a mapping or a list whose lines begin at a column."""
        if self._at(indent) and self.left[0][indent:].startswith("- "):
            return self._list(indent)
        found: Manifest = {}
        while self._at(indent) and not self.left[0][indent:].startswith("- "):
            match = _ENTRY.fullmatch(self.left.pop(0)[indent:])
            if match is None:
                raise self.damaged()
            key = _text(match[1]) if match[1].startswith('"') else match[1]
            if key in found:
                raise self.damaged()
            found[key] = self.block(indent + 2) if match[2] is None else self._value(match[2])
        if not found:
            raise self.damaged()
        return found

    def _list(self, indent: int) -> list[Any]:
        found = []
        while self._at(indent) and self.left[0][indent:].startswith("- "):
            rest = self.left[0][indent + 2 :]
            if _ENTRY.fullmatch(rest):
                self.left[0] = " " * (indent + 2) + rest
                found.append(self.block(indent + 2))
            else:
                self.left.pop(0)
                found.append(self._value(rest))
        return found

    def _at(self, indent: int) -> bool:
        return bool(self.left) and len(self.left[0]) - len(self.left[0].lstrip(" ")) == indent

    def _value(self, text: str) -> Any:
        if text in _CONSTANTS:
            value = _CONSTANTS[text]
            return value.copy() if isinstance(value, dict | list) else value
        if _NUMBER.fullmatch(text):
            return int(text)
        if not (len(text) > 1 and text[0] == text[-1] == '"'):
            raise self.damaged()
        return _text(text)

    def damaged(self) -> LayoutError:
        """Return what is said of a file in another form."""
        return LayoutError("a manifest of the bundle is not as it was written")


def _text(quoted: str) -> str:
    # YAML's escapes, as far as they are written, are Python's as well.
    return quoted[1:-1].encode("ascii").decode("unicode_escape")
