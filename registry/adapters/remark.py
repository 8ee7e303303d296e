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
        tensors: the tensors that it is about, if they are why; they may turn out to be copies of the base's.
        field: the field of the configuration that it is about.
    """

    code: str
    severity: Literal["error", "warning", "info"]
    subject: str
    message: str
    hint: str = ""
    tensors: tuple[str, ...] = ()
    field: str = ""
