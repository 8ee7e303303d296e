"""Trying the chat templates of a base that comes in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.failures import os_failures

if TYPE_CHECKING:
    from .admission import Finding
    from .workspace import Workspace


def try_templates(workspace: Workspace, name: str, files: Mapping[str, Path]) -> tuple[Finding, ...]:
    """Render a base's chat templates once, and return what is wrong with them.

    Args:
        workspace: says how severe findings are here.
        name: what the base is called.
        files: its files by path.

    Raises:
        AdmissionError: what is wrong is set to be an error here.
        ModelUnusableError: nothing can be rendered on this machine.
        StorageError: a file cannot be read.
    """
    from .admission import AdmissionError, Policy, verdict
    from .admission.template_rules import template_findings

    def read(file: str) -> bytes | None:
        if file not in files:
            return None
        with os_failures(f"read {file}", near=files[file].parent):
            return files[file].read_bytes()

    findings = Policy(workspace.settings.severities).apply(template_findings(read))
    if verdict(findings) == "fail":
        first = findings[0]
        message = f"{name} was refused: {first.code}: {first.message}"
        raise AdmissionError(message, findings, hint=first.hint)
    return tuple(findings)
