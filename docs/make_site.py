"""Make the documentation site from the pages in the repository.

`python docs/make_site.py` writes it into site/dev, with `--release` into a folder named as the version, beside those of
other versions; `--into` names another folder than site.  It needs what requirements/site.txt lists: `make site` has it.

The pages are written to be read in the repository, so links are led anew: the README is the site's start, and a file
that is not a page is shown as one.  A link that leads nowhere, or a page that the navigation lacks, ends the build.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = "docs/zensical.toml"
DECISIONS = "docs/decisions"
BESIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    DECISIONS: "decisions/index.md",
}
"""Where on the site stands what is not simply in docs/."""
DEV = "dev"
_CODE = re.compile(r"(^[ ]*```.*?^[ ]*```[ ]*$|`+[^`]+`+)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()([^()\s#]+)(?=(?:#[^()\s]*)?\))")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OUTSIDE = re.compile(r"[a-z]+:", re.IGNORECASE)


class SiteError(Exception):
    """The pages make no site."""


class Pages:
    """The pages of the site, gathered into a folder."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.folder = folder
        self.places = dict(BESIDE)
        for path in sorted((root / "docs").rglob("*")):
            name = path.relative_to(root).as_posix()
            self._file(name)
            if path.suffix in (".md", ".png", ".svg"):
                self.places[name] = re.sub(r"\bREADME\.md$", "index.md", name.removeprefix("docs/"))
        self.shown: set[str] = set()
        self.wrong: list[str] = []

    def gather(self) -> list[str]:
        """Write all pages, and return their names; raise `SiteError` for links that lead nowhere."""
        for name, place in self.places.items():
            if name.endswith(".md"):
                self._write(place, self._led_anew(name, self._file(name).read_text(encoding="utf-8")))
            elif name == DECISIONS:
                self._write(place, _index_of(self.root / name))
            else:
                self._write(place, (self.root / name).read_bytes())
        for name in sorted(self.shown):
            self._write(f"{name}.md", _shown(name, self._file(name).read_text(encoding="utf-8")))
        if self.wrong:
            raise SiteError("\n".join(self.wrong))
        return sorted(place for place in self.places.values() if place.endswith(".md"))

    def _file(self, name: str) -> Path:
        """Return a file of the repository; raise `SiteError` for a link that would publish what is beside it."""
        path = self.root / name
        real, root = path.resolve(), self.root.resolve()
        if not real.is_relative_to(root) or real.is_relative_to(root / ".git"):
            raise SiteError(f"{name} leads out of the repository: put a copy of the file in its place")
        return path

    def _write(self, place: str, content: str | bytes) -> None:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def _led_anew(self, name: str, text: str) -> str:
        """Return a page whose links lead to where things are on the site."""
        parts = _CODE.split(text)
        parts[::2] = [_LINK.sub(lambda found: self._target(name, found[1]), part) for part in parts[::2]]
        return "".join(parts)

    def _target(self, name: str, target: str) -> str:
        if _OUTSIDE.match(target):
            return target
        there = normpath(join(dirname(name), target))
        place = self.places.get(there)
        if place is None and not there.startswith(("..", "/")) and (self.root / there).is_file():
            self.shown.add(there)
            place = f"{there}.md"
        if place is None:
            self.wrong.append(f"{name} links to {target}: there is no such page or file in the repository")
            return target
        return relpath(place, dirname(self.places[name]) or ".")


def _index_of(folder: Path) -> str:
    """Return a page that lists the decisions."""
    titles = {
        path.name: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        for path in sorted(folder.glob("*.md"))
    }
    lines = [f"- [{title}]({name})" for name, title in titles.items()]
    return "\n".join(["# Decisions", "", "Why a way was chosen among others, newest last.", "", *lines, ""])


def _shown(name: str, text: str) -> str:
    """Return a page that shows a file."""
    fence = "`" * (max((len(found) for found in re.findall(r"`+", text)), default=2) + 1)
    return f"# {name}\n\n{fence}{Path(name).suffix[1:]}\n{text.rstrip()}\n{fence}\n"


def configure(text: str, pages: list[str]) -> str:
    """Return the configuration with all pages in its navigation; raise `SiteError` where one is not."""
    named = set(re.findall(r'"([^"*]+\.md)"', text))
    starred: list[str] = []

    def listed(found: re.Match[str]) -> str:
        names = [page for page in pages if fnmatch(page, found[1]) and page not in named]
        starred.extend(names)
        return ", ".join(f'"{page}"' for page in names)

    text = re.sub(r'"([^"\n]+\*\.md)"', listed, text)
    if missing := [page for page in pages if page not in named and page not in starred]:
        raise SiteError(f"The navigation lacks {', '.join(missing)}: name it in {CONFIGURATION}")
    if gone := sorted(named - set(pages)):
        raise SiteError(f"The navigation names {', '.join(gone)}, which is not there: mend {CONFIGURATION}")
    return text


def build(root: Path, into: Path, version: str) -> Path:
    """Build the site of a version into a folder, and return where it lies."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary).resolve()
        pages = Pages(root, work / "pages").gather()
        text = (root / CONFIGURATION).read_text(encoding="utf-8")
        (work / "zensical.toml").write_text(configure(text, pages), encoding="utf-8")
        shutil.copytree(root / "docs" / "theme", work / "theme")
        built = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict"],
            check=False,
            cwd=work,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        if built.returncode:
            raise SiteError(_COLOUR.sub("", built.stdout).partition("Traceback ")[0])
        into.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(into / version, ignore_errors=True)
        # A server shows one page of its own for what is not there; this one would look for its parts at the top.
        shutil.copytree(work / "site", into / version, ignore=shutil.ignore_patterns("404.html"))
    _list_versions(into)
    return into / version


def _list_versions(into: Path) -> None:
    """Write what the pages offer as versions, and a start that leads to the latest."""
    releases = sorted(_releases(into), reverse=True)
    names = [".".join(map(str, release)) for release in releases]
    versions = [
        {"version": name, "title": name, "aliases": [] if count else ["latest"]}
        for count, name in enumerate(names)
    ]
    if (into / DEV).is_dir():
        versions.append({"version": DEV, "title": DEV, "aliases": [] if names else ["latest"]})
    (into / "versions.json").write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")
    if not versions:
        raise SiteError(
            f"{into} has no release and no {DEV}: a version that is tried before a release is no version of the site"
        )
    start = versions[0]["version"]
    (into / "index.html").write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>fusery</title>'
        f'<meta http-equiv="refresh" content="0; url={start}/"><a href="{start}/">fusery {start}</a></html>\n',
        encoding="utf-8",
    )


def _releases(into: Path) -> Iterator[tuple[int, ...]]:
    for path in into.iterdir():
        if re.fullmatch(r"\d+(\.\d+)+", path.name) and (path / "index.html").is_file():
            yield tuple(map(int, path.name.split(".")))


def main() -> int:
    """Build, and say where."""
    parser = argparse.ArgumentParser(description="Make the documentation site.")
    parser.add_argument("--into", type=Path, default=ROOT / "site", help="where the versions lie")
    parser.add_argument("--release", action="store_true", help="name it by the version of the package")
    arguments = parser.parse_args()
    version = DEV
    if arguments.release:
        version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    try:
        place = build(ROOT, arguments.into, version)
    except SiteError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"The site is in {place}; read it with: python3 -m http.server -d {arguments.into}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
