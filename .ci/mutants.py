"""Mutation testing: change one place of the product at random and see whether the room's fast tests notice.

`make mutants ROOM=registry/fusion N=20 SEED=1` draws from one room, without ROOM from all of them.  A room is a folder
with tests of its own: the mutants of `registry/fusion` are run against `tests/registry/fusion`.  No file is changed: the tests run
with `PYTHONPATH` naming this folder's `mutation/`, whose `sitecustomize` gives Python the changed source of one module,
in child processes too.  The tests that reach the changed lines run first, the quickest first; only a mutant that they
miss is run against the whole room.  Exits with 1 if fewer than 19 of 20 mutants were caught.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("cli", "integrations", "migrations", "model_server", "registry", "research", "storage", "web")
FLIPPED = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
SWAPPED = {ast.Add: ast.Sub, ast.Sub: ast.Add}


@dataclass(frozen=True)
class Mutant:
    """One changed place of a module."""

    path: Path
    line: int
    last_line: int
    change: str
    source: str

    @property
    def room(self) -> str:
        """Return the folder whose tests are run."""
        return _room(self.path)


def _room(path: Path) -> str:
    """Return the deepest folder of the module that has tests of its own."""
    folder = path.parent
    while not any((ROOT / "tests" / folder.relative_to(ROOT)).glob("test_*.py")):
        if folder.parent == ROOT:
            break
        folder = folder.parent
    return str(folder.relative_to(ROOT))


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield the changes of one node: what they do and the new node."""
    match node:
        case ast.Compare(left=left, ops=[first, *rest], comparators=right) if type(first) in FLIPPED:
            yield "flip the comparison", ast.Compare(left, [FLIPPED[type(first)](), *rest], right)
        case ast.BoolOp(op=op, values=values):
            other = ast.Or() if isinstance(op, ast.And) else ast.And()
            yield "swap and/or", ast.BoolOp(other, values)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SWAPPED:
            # Text has no minus: every test that runs the line would notice.
            if not any(isinstance(side, ast.JoinedStr) or _is_text(side) for side in (left, right)):
                yield "swap plus and minus", ast.BinOp(left, SWAPPED[type(op)](), right)
        case ast.Expr(value=ast.Call()):
            yield "drop the call", ast.Pass()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def _typing_only(tree: ast.AST) -> set[ast.AST]:
    """Return the nodes under `if TYPE_CHECKING`."""
    blocks = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    )
    return {inner for block in blocks for inner in ast.walk(block)}


def mutants_of(path: Path) -> list[Mutant]:
    """Return every mutant of one module; lines keep their numbers."""
    whole = path.read_bytes()
    tree = ast.parse(whole)
    starts = list(accumulate(map(len, whole.splitlines(keepends=True)), initial=0))
    made, ignored = [], _typing_only(tree)
    for node in ast.walk(tree):
        if node in ignored or not isinstance(node, ast.expr | ast.stmt):
            continue
        first, last = (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
        )
        for change, new in _changes(node):
            breaks = "\n" * (node.end_lineno - node.lineno)
            text = ast.unparse(ast.fix_missing_locations(new))
            text = text + breaks if isinstance(new, ast.Pass) else f"({text}{breaks})"
            changed = (whole[:first] + text.encode() + whole[last:]).decode()
            try:
                ast.parse(changed)
            except SyntaxError:
                continue  # parts of an f-string have no positions of their own before Python 3.12
            made.append(
                Mutant(
                    path,
                    node.lineno,
                    node.end_lineno,
                    f"{change}: {ast.unparse(node).splitlines()[0][:70]}",
                    changed,
                )
            )
    return made


def modules(room: str) -> list[Path]:
    """Return the product's modules, of one room or of all, without the migrations."""
    places = [ROOT / room] if room else [ROOT / folder for folder in FOLDERS]
    found = sorted(path for place in places for path in place.rglob("*.py"))
    return [path for path in found if path.parent.name != "versions" and (not room or _room(path) == room)]


def run(
    limit: float,
    tests: list[str],
    mutant: Mutant | None = None,
    reached: Path | None = None,
    output: int | None = subprocess.DEVNULL,
) -> int | None:
    """Run fast tests; return pytest's exit code, None if they still run after `limit` seconds.

    Args:
        limit: in seconds.
        tests: folders, or IDs of tests.
        mutant: what is changed.
        reached: a file to be written with the lines that each test reaches.
        output: where pytest prints; None for this program's output.
    """
    with tempfile.TemporaryDirectory() as place:
        settings = dict(
            os.environ,
            HYPOTHESIS_STORAGE_DIRECTORY=f"{place}/hypothesis",
            OPENBLAS_NUM_THREADS="1",
            PYTHONPATH=str(ROOT / ".ci" / "mutation"),
        )
        if mutant:
            changed = Path(place, "changed.py")
            changed.write_text(mutant.source, encoding="utf-8")
            settings |= {
                "MUTANTS_CHANGED_MODULE": ".".join(
                    ("fusery", *mutant.path.relative_to(ROOT).with_suffix("").parts)
                ),
                "MUTANTS_CHANGED_SOURCE": str(changed),
            }
        words = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--basetemp", f"{place}/tests"]
        if reached:
            settings |= {"MUTANTS_REACHED_LINES": str(reached)}
            words += ["-p", "reached_lines"]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pytest", *words, *tests],
            cwd=ROOT, env=settings, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:  # servers that the tests started end with them
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.wait()


@dataclass(frozen=True)
class Room:
    """A room's fast tests without a mutant: the seconds of all, and what each test reaches."""

    seconds: float
    tests: dict[str, dict[str, Any]]

    def reaching(self, mutant: Mutant) -> list[str]:
        """Return the IDs of the tests that reach the changed lines, the quickest first."""
        path, changed = str(mutant.path.relative_to(ROOT)), range(mutant.line, mutant.last_line + 1)
        reaching = [
            name
            for name, test in self.tests.items()
            if not set(changed).isdisjoint(test["lines"].get(path, ()))
        ]
        return sorted(reaching, key=lambda name: self.tests[name]["seconds"])


@cache
def unchanged(room: str) -> Room:
    """Run a room's tests without a mutant; exit if they fail."""
    with tempfile.TemporaryDirectory() as place:
        reached, began = Path(place, "reached.json"), time.monotonic()
        code = run(1800, [f"tests/{room}"], reached=reached, output=None)
        if code != 0:
            sys.exit(f"tests/{room} fails without a mutant (pytest's exit code: {code})")
        return Room(time.monotonic() - began, json.loads(reached.read_bytes()))


def main() -> None:
    """Draw mutants and judge them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--room", default="", help="such as registry/fusion; all of them if omitted")
    parser.add_argument("-n", type=int, default=20, help="how many mutants are drawn")
    parser.add_argument("--seed", type=int, default=None, help="the same seed draws the same mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    seed = random.randrange(10**6) if asked.seed is None else asked.seed
    everything = [mutant for path in modules(asked.room) for mutant in mutants_of(path)]
    if not everything:
        sys.exit(f"no place to change in {asked.room!r}")
    drawn = random.Random(seed).sample(everything, min(asked.n, len(everything)))
    print(f"{len(drawn)} of {len(everything)} mutants, seed {seed}", flush=True)
    for room in sorted({mutant.room for mutant in drawn}):
        print(f"{room}: {unchanged(room).seconds:.0f} s without a mutant", flush=True)

    def judge(mutant: Mutant) -> bool:
        room, began = unchanged(mutant.room), time.monotonic()
        limit = 60 + 5 * room.seconds
        tests = room.reaching(mutant)
        code = run(limit, tests, mutant) if tests else 0
        if code == 0:  # what child processes reach, and modules when they are imported, is not on record
            code = run(limit, [f"tests/{mutant.room}"], mutant)
        seconds = time.monotonic() - began
        outcome = "MISSED" if code == 0 else "hung" if code is None else "caught"
        place = f"{mutant.path.relative_to(ROOT)}:{mutant.line}"
        print(f"{outcome:6}  {seconds:4.0f} s  {place:45}  {mutant.change}", flush=True)
        return code != 0

    with ThreadPoolExecutor(asked.jobs) as pool:
        caught = sum(pool.map(judge, drawn))
    print(f"caught {caught} of {len(drawn)}")
    sys.exit(caught < len(drawn) * 19 / 20)


if __name__ == "__main__":
    main()
