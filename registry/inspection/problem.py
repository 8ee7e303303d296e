"""One thing that is not as it was signed or recorded."""

from __future__ import annotations

from dataclasses import dataclass

from ..record import Record, described


@dataclass(frozen=True, slots=True)
class Problem(Record):
    """Something that differs."""

    code: str = described("its kind")
    path: str = described("the file it is about, within what is verified")
    message: str = described("the problem, in one sentence")
