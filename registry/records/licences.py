"""Under which licences a base model and an adapter are, as far as their files and records say.

Nothing is guessed: a licence is what somebody wrote down.  Of a base that is the key `license` of its configuration, the
front matter of the README in its folder (https://huggingface.co/docs/hub/model-cards), or a LICENSE file that begins
as one of the well-known texts does; of an adapter, its tag `license`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.digest import Digest
from fusery.storage.errors import StorageError

from .. import tables

if TYPE_CHECKING:
    from ..workspace import Workspace

_TAGS = ("license", "licence")
_FILE = re.compile(r"LICEN[CS]E(\.(txt|md))?", re.IGNORECASE)
_FRONT = re.compile(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", re.DOTALL)
_LINE = re.compile(r"^license:[ \t]*[\"']?([A-Za-z0-9][A-Za-z0-9.+-]{0,63})[\"']?[ \t]*(#.*)?$", re.MULTILINE)
_LARGEST = 1 << 20
_BEGINNING = 4096

_TEXTS = (
    ("apache-2.0", r"Apache License\s+Version 2\.0, January 2004"),
    (
        "mit",
        r"(\A\s*(The )?MIT License\b|Permission is hereby granted, free of charge, to any person obtaining a copy)",
    ),
    ("bsd-3-clause", r"\A\s*BSD 3-Clause License"),
    ("llama2", r"LLAMA 2 COMMUNITY LICENSE AGREEMENT"),
    ("llama3", r"META LLAMA 3 COMMUNITY LICENSE AGREEMENT"),
    ("llama3.1", r"LLAMA 3\.1 COMMUNITY LICENSE AGREEMENT"),
    ("llama3.2", r"LLAMA 3\.2 COMMUNITY LICENSE AGREEMENT"),
    ("llama3.3", r"LLAMA 3\.3 COMMUNITY LICENSE AGREEMENT"),
    ("llama4", r"LLAMA 4 COMMUNITY LICENSE AGREEMENT"),
    ("gemma", r"\A\s*Gemma Terms of Use"),
    ("cc-by-4.0", r"\A\s*(Creative Commons )?Attribution 4\.0 International"),
    ("cc-by-sa-4.0", r"\A\s*(Creative Commons )?Attribution-ShareAlike 4\.0 International"),
    ("cc-by-nc-4.0", r"\A\s*(Creative Commons )?Attribution-NonCommercial 4\.0 International"),
)
"""Identifiers as the hub has them (https://huggingface.co/docs/hub/repositories-licenses), and how the text begins."""


def licence_of_text(text: str) -> str | None:
    """Return the identifier of a well-known licence by the beginning of its text."""
    beginning = text[:_BEGINNING]
    return next(
        (name for name, pattern in _TEXTS if re.search(pattern, beginning, re.IGNORECASE)),
        None,
    )


def licence_of_readme(text: str) -> str | None:
    """Return what the front matter of a README says under `license`."""
    front = _FRONT.match(text)
    found = _LINE.search(front[1]) if front else None
    return found[1] if found else None


def base_licence(workspace: Workspace, base: tables.BaseModel) -> str | None:
    """Return a base's licence; None where nobody says one, or its files cannot be read.

    Args:
        workspace: the registry's parts.
        base: with its manifest loaded.
    """
    said = base.config.get("license")
    if isinstance(said, str) and said:
        return said
    if base.location is not None and (
        declared := licence_of_readme(_local(Path(base.location) / "README.md"))
    ):
        return declared
    for file in base.manifest.files:
        if _FILE.fullmatch(file.path) and file.size <= _LARGEST:
            return licence_of_text(_text(workspace, base, file))
    return None


def adapter_licence(tags: Mapping[str, str]) -> str | None:
    """Return what an adapter's tags say of its licence."""
    return next((tags[name] for name in _TAGS if tags.get(name)), None)


def _local(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).decode(errors="replace")
    except OSError:  # a card says what is known, and is no reason to fail
        return ""


def _text(workspace: Workspace, base: tables.BaseModel, file: tables.ManifestFile) -> str:
    from .bases import blob_generations

    if base.location is not None:
        return _local(Path(base.location) / file.path)
    generation = blob_generations(workspace, [file.sha256]).get(file.sha256, 0)
    try:
        data = workspace.store.read_bytes(Digest(file.sha256), generation=generation, limit=_LARGEST)
    except StorageError:  # as above
        return ""
    return data.decode(errors="replace")
