"""What is fused first and asked then: a bar for either half of the work."""

from __future__ import annotations

from collections.abc import Callable

from fusery.storage.progress import Reporter

from .session import Session

_Bar = Callable[[int, int], None] | None


class Halves(Reporter):
    """Hears of both halves of the work, each with a bar of its own; fusing comes first."""

    def __init__(self, session: Session, fusing: _Bar, answering: _Bar) -> None:
        super().__init__(session.say)
        self._fusing, self._answering = fusing, answering
        self._bar = fusing

    def begin(self, what: str) -> None:
        """Go over to the bar of answers, or back."""
        self._bar = self._answering if what == "tokens" else self._fusing

    def progress(self, done: int, total: int) -> None:
        """Move the bar of what is being counted."""
        if self._bar is not None:
            self._bar(done, total)
