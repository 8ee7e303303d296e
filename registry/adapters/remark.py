"""What reading one form of an adapter has to say, before admission makes a finding of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that cannot be carried over (`error`), or was carried over in a way worth knowing (`info`).

    Attributes:
        code: stable name.
        severity: `error` refuses the adapter.
        subject: the file, field or module.
        message: one sentence.
        hint: what to do about it, or empty.
    """

    code: str
    severity: Literal["error", "warning", "info"]
    subject: str
    message: str
    hint: str = ""
