"""The forms of an adapter, mlx-lm's and PEFT's: one is registered, and the other computed from it, recorded and not stored.

This module has the names of an adapter's files, and the findings that admission rules return.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from ..record import Record, described

# Names of an adapter's files, as mlx-lm and PEFT write them, and limits on their size.
WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"
METADATA = "adapter_metadata.json"
PEFT_WEIGHTS = "adapter_model.safetensors"

RUN_RECORD = "fusery_run.json"  # the record of a run, beside its weights
STATE = "trainer_state.json"  # transformers' record of a run, beside a checkpoint's weights
# Key of `adapter_config.json` that says how an adapter was computed from others; mlx-lm ignores unknown keys.
RECIPE = "fusery_recipe"
# Bytes of a JSON file that is read; the largest honest ones name every expert of a large mixture.
JSON_LIMIT = 4 << 20
JSON_VALUES = 200_000  # The most values in such a file, since its values are part of the adapter's record
# The files that may be the log of a run.
LOG_NAME = re.compile(r"(?:[^/]+\.(?:log|txt|out)|typescript|nohup\.out)")
# The folders of checkpoints that transformers' trainer writes.
CHECKPOINT = re.compile(r"checkpoint-(?P<step>0|[1-9][0-9]{0,9})")

Severity = Literal["error", "warning", "info"]
Verdict = Literal["pass", "warn", "fail"]
_SHOWN = 4
WHOLE = "peft_whole_tensors"  # The code by which a record tells that an adapter replaces tensors of its base
ORDER = {"error": 0, "warning": 1, "info": 2}


class Finding(Record, kw_only=False):
    """One result of an admission rule."""

    code: str = described("stable name of the rule's outcome")
    severity: Severity = described("`error` keeps the adapter out, `warning` and `info` are recorded with it")
    subject: str = described("the file, tensor, module or field that it is about")
    message: str = described("one sentence")
    hint: str = described("what to do about it", default="")


def verdict(findings: Iterable[Finding]) -> Verdict:
    """Return `fail` if any finding is an error, `warn` if any is a warning, else `pass`."""
    severities = {finding.severity for finding in findings}
    if "error" in severities:
        return "fail"
    return "warn" if "warning" in severities else "pass"


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with errors first, otherwise in the order they were found."""
    return sorted(findings, key=lambda finding: ORDER[finding.severity])


def some(items: Iterable[str]) -> str:
    """Return the first few of many names, for a message."""
    ordered = sorted(items)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
