"""Checking a new base: its chat templates are tried, and its configuration is compared with mlx-lm's class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.failures import os_failures

from ..errors import FusionUnsupportedError, MissingExtraError
from ..server.mlx_keys import mlx_keys

if TYPE_CHECKING:
    from ..adapters.finding import Finding
    from ..workspace import Workspace


def look_at_base(
    workspace: Workspace,
    name: str,
    files: Mapping[str, Path],
    config: Mapping[str, Any],
    failures: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """Return the findings about a base; its chat templates are rendered once.

    Args:
        workspace: has the policy for findings.
        name: of the base.
        files: its files by path.
        config: its parsed `config.json`.
        failures: the reasons if mlx-lm's class cannot load it.

    Raises:
        AdmissionError: a finding is configured as an error.
        ModelUnusableError: nothing can be rendered on this machine.
        StorageError: a file cannot be read.
    """
    from ..adapters.finding import verdict
    from ..admission.key_rules import key_findings
    from ..admission.policy import Policy
    from ..admission.refusal import AdmissionError
    from ..admission.template_rules import template_findings

    def read(file: str) -> bytes | None:
        if file not in files:
            return None
        with os_failures(f"read {file}", near=files[file].parent):
            return files[file].read_bytes()

    failure = next(iter(failures), None) or _failure(files, config)
    found = [*key_findings(config, failure), *template_findings(read)]
    findings = Policy.configured(workspace.settings.severities).apply(found)
    if verdict(findings) == "fail":
        raise AdmissionError.of(name, findings)
    return tuple(findings)


def _failure(files: Mapping[str, Path], config: Mapping[str, Any]) -> str | None:
    """Say why mlx-lm's class cannot load a base whose configuration is not as the class knows it; None if it can."""
    from ..engine.model_class import describe_by_class

    if not mlx_keys(config):
        return None
    try:
        describe_by_class(files, config)
    except FusionUnsupportedError as error:
        return error.message
    except MissingExtraError:
        return None
    return None
