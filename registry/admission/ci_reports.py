"""Findings in the forms that CI systems take: SARIF 2.1.0, and the Code Quality report of GitLab."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fusery.storage.errors import UnsafePathError
from fusery.storage.manifest import safe_relative_path

from ..adapters import CONFIG, PEFT_WEIGHTS, WEIGHTS, Finding
from .code import CheckedFolder, Code
from .rules import CODES, plugged_rules

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS: Mapping[str, str] = {"error": "error", "warning": "warning", "info": "note"}


def sarif_log(checked: Iterable[CheckedFolder]) -> Mapping[str, Any]:
    """Return findings as a SARIF log of one run, with every code as a rule."""
    plugged = (code for rule in plugged_rules() for code in rule.rule.codes)
    rules = {code.name: _rule(code) for code in (*CODES.values(), *plugged)}
    listed = [(one.folder, finding) for one in checked for finding in one.findings]
    rules |= {finding.code: {"id": finding.code} for _, finding in listed if finding.code not in rules}
    places = {code: index for index, code in enumerate(rules)}
    driver = {"name": "fusery", "semanticVersion": version("fusery"), "rules": [*rules.values()]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, folder, places[finding.code]) for folder, finding in listed],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: Code) -> Mapping[str, Any]:
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


def _result(finding: Finding, folder: Path, index: int) -> Mapping[str, Any]:
    # What stays the same when the wording changes: CI systems tell old findings from new ones by it.
    print_ = hashlib.sha256(f"{finding.code}\0{finding.subject}".encode("utf-8", "replace")).hexdigest()
    # What names have in them makes neither links nor placeholders of the message (3.11).
    links = re.sub(r"\[(?=[^\]]*\]\()", r"\\[", readable(finding.message + _hint(finding)))
    file, within = place_of(finding.subject, folder)
    # Of a relative path, a colon would make all before it a scheme.
    uri = quote(os.fsencode(file.as_posix()), safe="/")
    # Hosts of code show nothing that has no line, though a file of weights has none.
    place = {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}
    location: dict[str, object] = {"physicalLocation": place}
    if within:
        location["logicalLocations"] = [{"fullyQualifiedName": readable(within)}]
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": _LEVELS[finding.severity],
        "message": {"text": re.sub(r"\{(\d+)\}", r"{{\1}}", links)},
        "locations": [location],
        "partialFingerprints": {"finding/v1": print_},
    }


def readable(text: str) -> str:
    """Return text without what stands for bytes that are no UTF-8, which no reader of JSON has to take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def place_of(subject: str, folder: Path) -> tuple[Path, str]:
    """Return the file that a finding is about, or else the folder, and the module or field within it, or nothing."""
    # A tensor may be called like a file elsewhere, or longer than any.
    with suppress(UnsafePathError, OSError):
        if subject and (folder / safe_relative_path(subject)).is_file():
            return folder / subject, ""
    names = (WEIGHTS, PEFT_WEIGHTS) if "." in subject else (CONFIG,)
    file = next((folder / name for name in names if (folder / name).is_file()), folder)
    return file, ("" if subject == "." else subject)


_SEVERITIES: Mapping[str, str] = {"error": "critical", "warning": "minor", "info": "info"}


def code_quality(checked: Iterable[CheckedFolder]) -> list[Mapping[str, Any]]:
    """Return the findings in folders as a report of GitLab's; paths are relative to where the check runs."""
    seen: Counter[str] = Counter()
    issues: list[Mapping[str, Any]] = []
    for checked_folder in checked:
        for finding in checked_folder.findings:
            file, within = place_of(finding.subject, checked_folder.folder)
            subject = f"{within}: " if within else ""
            # A fingerprint differs from all others of a report, and stays the same when the wording changes.
            which = f"{finding.code}\0{finding.subject}\0{checked_folder.folder.as_posix()}"
            seen[which] += 1
            if seen[which] > 1:
                which += f"\0{seen[which] - 1}"
            issues.append(
                {
                    "description": readable(subject + finding.message + _hint(finding)),
                    "check_name": finding.code,
                    "fingerprint": hashlib.sha256(which.encode("utf-8", "replace")).hexdigest(),
                    "severity": _SEVERITIES[finding.severity],
                    "location": {"path": readable(file.as_posix()), "lines": {"begin": 1}},
                }
            )
    return issues


def _hint(finding: Finding) -> str:
    return f"  Hint: {finding.hint}" if finding.hint else ""
