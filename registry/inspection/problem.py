"""One thing that is not as it was signed or recorded."""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record


@dataclass(frozen=True, slots=True)
class Problem(Record):
    """Something that differs.

    Attributes:
        code: its kind.
        path: the file it is about, within what is verified.
        message: what is the case, in one sentence.
    """

    code: str
    path: str
    message: str
