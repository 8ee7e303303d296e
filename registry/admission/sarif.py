"""Findings as SARIF 2.1.0, the format in which CI systems take what checkers find.

Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/sarif-v2.1.0-os.html
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fusery.storage.errors import UnsafePathError
from fusery.storage.manifest import safe_relative_path

from ..adapters.files import CONFIG, PEFT_WEIGHTS, WEIGHTS
from ..adapters.finding import Finding
from .checked import CheckedFolder
from .code import Code
from .plugged import plugged_rules
from .rules import CODES

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS: Mapping[str, str] = {"error": "error", "warning": "warning", "info": "note"}


def sarif_log(checked: Iterable[CheckedFolder]) -> dict[str, Any]:
    """Return findings as a SARIF log of one run, with every code as a rule: those of plugins as the format's extensions.

    Args:
        checked: what was found, by folder as the user gave it: places are relative to where the check runs.

    Raises:
        PluginError: a plugin with rules cannot be used.
    """
    listed = [(each.folder, finding) for each in checked for finding in each.findings]
    extensions = _extensions()
    rules = [_rule(code) for code in CODES.values()]
    places: dict[str, dict[str, Any]] = {rule["id"]: {"ruleIndex": index} for index, rule in enumerate(rules)}
    for number, extension in enumerate(extensions):
        for index, rule in enumerate(extension["rules"]):
            reference = {"id": rule["id"], "index": index, "toolComponent": {"index": number}}
            places[rule["id"]] = {"rule": reference}
    for name in dict.fromkeys(finding.code for _, finding in listed if finding.code not in places):
        places[name] = {"ruleIndex": len(rules)}
        rules.append({"id": name})
    tool: dict[str, Any] = {
        "driver": {"name": "fusery", "semanticVersion": _version(), "rules": rules},
        **({"extensions": extensions} if extensions else {}),
    }
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": tool,
                "columnKind": "unicodeCodePoints",
                "results": [_result(finding, folder, places[finding.code]) for folder, finding in listed],
            }
        ],
    }


def _extensions() -> list[dict[str, Any]]:
    """Return the plugins that have rules, one of the format's tool components for each distribution."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in plugged_rules():
        of = found.setdefault((each.plugin.package, each.plugin.version), [])
        of += [_rule(code) for code in each.codes]
    return [
        {"name": name, "version": version, "rules": rules} for (name, version), rules in sorted(found.items())
    ]


def _rule(code: Code) -> dict[str, Any]:
    help_text = f"{_sentence(code.why)}  {_sentence(code.hint)}".strip()
    return {
        "id": code.name,
        "name": "".join(part.capitalize() for part in re.split("[_-]", code.name)),
        "shortDescription": {"text": _sentence(code.what)},
        "fullDescription": {"text": f"{_sentence(code.what)}  {_sentence(code.why)}"},
        "help": {"text": help_text},
        "defaultConfiguration": {"level": _LEVELS[code.severity]},
    }


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _result(finding: Finding, folder: Path, place: Mapping[str, Any]) -> dict[str, Any]:
    hint = f"  Hint: {finding.hint}" if finding.hint else ""
    # What stays the same when the wording changes: CI systems tell old findings from new ones by it.
    print_ = hashlib.sha256(f"{finding.code}\0{finding.subject}".encode("utf-8", "replace")).hexdigest()
    return {
        "ruleId": finding.code,
        **place,
        "level": _LEVELS[finding.severity],
        "message": {"text": _plain(finding.message + hint)},
        "locations": [_location(finding.subject, folder)],
        "partialFingerprints": {"finding/v1": print_},
    }


def _location(subject: str, folder: Path) -> dict[str, Any]:
    file, within = place_of(subject, folder)
    # Of a relative path, a colon would make all before it a scheme.
    uri = quote(os.fsencode(file.as_posix()), safe="/")
    # Hosts of code show nothing that has no line, though a file of weights has none.
    physical = {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}
    place: dict[str, Any] = {"physicalLocation": physical}
    if within:
        place["logicalLocations"] = [{"fullyQualifiedName": readable(within)}]
    return place


def _plain(text: str) -> str:
    """Return a message that shows what it says: what names have in them makes neither links nor placeholders of it (3.11)."""
    return re.sub(r"\{(\d+)\}", r"{{\1}}", re.sub(r"\[(?=[^\]]*\]\()", r"\\[", readable(text)))


def readable(text: str) -> str:
    """Return text without what stands for bytes that are no UTF-8, which no reader of JSON has to take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def place_of(subject: str, folder: Path) -> tuple[Path, str]:
    """Return the file that a finding is about, or else the folder, and the module or field within it, or nothing."""
    if subject and _is_file_of(folder, subject):
        return folder / subject, ""
    names = (WEIGHTS, PEFT_WEIGHTS) if "." in subject else (CONFIG,)
    file = next((folder / name for name in names if (folder / name).is_file()), folder)
    return file, ("" if subject == "." else subject)


def _is_file_of(folder: Path, subject: str) -> bool:
    try:
        return (folder / safe_relative_path(subject)).is_file()
    except (UnsafePathError, OSError):  # a tensor may be called like a file elsewhere, or longer than any
        return False


def _version() -> str:
    try:
        return version("fusery")
    except PackageNotFoundError:
        return "0"
