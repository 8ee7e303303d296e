"""Counting: how many faults of which kind were made where, how the commands ended, and what did not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from faults.judging import ENDS
from faults.points import CTRL_C, KILL, Result

COLUMNS = ("kill -9", "EIO", "ENOSPC", "ECONNRESET", KILL, CTRL_C)


class Tally:
    """Counts of one sweep or of several."""

    def __init__(self) -> None:
        self.points = 0
        self.hit = 0
        self.violations = 0
        self.calls: Counter[str] = Counter()
        self._made: dict[tuple[str, str], Counter[str]] = {}

    def add(self, stack: str, result: Result) -> None:
        """Count one point."""
        row = self._made.setdefault((result.point.command, stack), Counter())
        self.points += 1
        self.hit += result.hit
        self.violations += bool(result.complaints)
        row["points"] += 1
        row["violations"] += bool(result.complaints)
        row[ENDS.get(result.code, "other")] += 1
        if result.hit:
            row[result.point.fault] += 1
            if result.point.call is not None:
                self.calls[result.point.call.name] += 1

    def of(self, *faults: str) -> int:
        """Return how many faults of these kinds came before the command had ended."""
        return sum(row[fault] for row in self._made.values() for fault in faults)

    def table(self) -> str:
        """Return the counts as a Markdown table: faults that came, by kind; points in all; ends; violations."""
        faults = [fault for fault in COLUMNS if any(row[fault] for row in self._made.values())]
        columns = [*faults, "points", *dict.fromkeys(ENDS.values()), "violations"]
        total: Counter[str] = sum(self._made.values(), Counter())
        rows = [[command, stack, *_cells(row, columns)] for (command, stack), row in self._made.items()]
        lines = [["command", "on", *columns], ["---", "---", *["---:"] * len(columns)], *rows]
        return "\n".join(_line(cells) for cells in [*lines, ["all", "", *_cells(total, columns)]])

    def summary(self) -> str:
        """Return the counts in two sentences."""
        at_calls = self.of("kill -9", "EIO", "ENOSPC", "ECONNRESET")
        calls = ", ".join(f"{name} {number}" for name, number in self.calls.most_common())
        return (
            f"{self.points:,} points, {self.hit:,} of them hit a running command: {at_calls:,} at a system call, "
            f"{self.of(KILL):,} kill -9 and {self.of(CTRL_C):,} Ctrl-C at an instant; "
            f"{self.violations:,} violations.\nSystem calls: {calls or 'none'}."
        )


def _cells(row: Counter[str], columns: Iterable[str]) -> list[str]:
    return [f"{row[column]:,}" for column in columns]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
