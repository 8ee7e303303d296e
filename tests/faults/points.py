"""Points: which faults to make, at system calls and at instants, and counts of what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from faults.looking import ENDS
from faults.tracing import Call, faults_of

CLIENT, SERVER = "client", "server"
KILL, CTRL_C = "kill -9 at an instant", "Ctrl-C at an instant"


@dataclass(frozen=True, slots=True)
class Point:
    command: str
    fault: str
    call: Call | None = None
    share: float = 0.0
    victim: str = CLIENT

    def __str__(self) -> str:
        where = f"{self.call.name} {self.call.number}" if self.call else f"{self.share:.4f} of the time"
        return f"{self.command}, {self.victim}: {self.fault} at {where}"


@dataclass(slots=True)
class Result:
    point: Point
    hit: bool = False
    code: int = 0
    complaints: list[str] = field(default_factory=list)
    place: Path | None = None


def at_calls(
    command: str, calls: Iterable[Call], number: int, random: Random, victim: str = CLIENT
) -> list[Point]:
    """Choose so many faults at system calls, as evenly over the kinds of calls and faults as there are; 0 for all."""
    kinds: dict[tuple[str, str, str], list[Call]] = {}
    for call in calls:
        for fault in faults_of(call):
            kinds.setdefault((call.name, call.about, fault), []).append(call)
    for found in kinds.values():
        random.shuffle(found)
    order = sorted(kinds)
    random.shuffle(order)
    chosen: list[Point] = []
    while any(kinds.values()) and (number == 0 or len(chosen) < number):
        chosen += [Point(command, kind[2], kinds[kind].pop(), victim=victim) for kind in order if kinds[kind]]
    return chosen[:number] if number else chosen


def at_instants(command: str, fault: str, number: int, random: Random, victim: str = CLIENT) -> list[Point]:
    """Choose so many instants, spread over the whole time of a command."""
    shares = [1.02 * (index + random.random()) / number for index in range(number)]
    return [Point(command, fault, share=share, victim=victim) for share in shares]


FAULTS = ("kill -9", "EIO", "ENOSPC", "ECONNRESET")
COLUMNS = (*FAULTS, KILL, CTRL_C, "points", *dict.fromkeys(ENDS.values()), "violations")


class Tally:
    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Counter[str]] = {}

    def add(self, stack: str, result: Result) -> None:
        point = result.point
        name = point.command if point.victim == CLIENT else f"{point.command}, server"
        row = self._rows.setdefault((name, stack), Counter())
        row.update(["points", ENDS.get(result.code, "other")])
        row["violations"] += bool(result.complaints)
        row[point.fault] += result.hit

    def of(self, *columns: str) -> int:
        return sum(row[column] for row in self._rows.values() for column in columns)

    def table(self) -> str:
        total: Counter[str] = sum(self._rows.values(), Counter())
        lines = [["command", "on", *COLUMNS], ["---"] * 2 + ["---:"] * len(COLUMNS)]
        for (command, stack), row in [*self._rows.items(), (("all", ""), total)]:
            lines.append([command, stack, *(f"{row[column]:,}" for column in COLUMNS)])
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
