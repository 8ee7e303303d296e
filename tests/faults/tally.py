"""Counting: which faults were made, how the commands ended, and what did not hold."""

from __future__ import annotations

from collections import Counter

from faults.judging import ENDS
from faults.points import CTRL_C, KILL, Result

COLUMNS = (
    "kill -9",
    "EIO",
    "ENOSPC",
    "ECONNRESET",
    KILL,
    CTRL_C,
    "points",
    *dict.fromkeys(ENDS.values()),
    "violations",
)


class Tally:
    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Counter[str]] = {}

    def add(self, stack: str, result: Result) -> None:
        row = self._rows.setdefault((result.point.command, stack), Counter())
        row.update(["points", ENDS.get(result.code, "other")])
        row["violations"] += bool(result.complaints)
        row[result.point.fault] += result.hit

    def of(self, *columns: str) -> int:
        return sum(row[column] for row in self._rows.values() for column in columns)

    def table(self) -> str:
        total: Counter[str] = sum(self._rows.values(), Counter())
        lines = [["command", "on", *COLUMNS], ["---"] * 2 + ["---:"] * len(COLUMNS)]
        for (command, stack), row in [*self._rows.items(), (("all", ""), total)]:
            lines.append([command, stack, *(f"{row[column]:,}" for column in COLUMNS)])
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
