"""One thing that is not as it was signed or recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that differs.

    Attributes:
        code: its kind.
        path: the file it is about, within what is verified.
        message: what is the case, in one sentence.
    """

    code: str
    path: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"code": self.code, "path": self.path, "message": self.message}
