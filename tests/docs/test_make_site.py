"""The documentation site: it says what the pages say, every link leads somewhere, and nothing comes from elsewhere."""

from __future__ import annotations

import json
import posixpath
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import built_site
import make_site
import pytest
from markdown_it import MarkdownIt

pytestmark = pytest.mark.skipif(not built_site.PYTHON.exists(), reason=built_site.MISSING)
ROOT = built_site.ROOT
INLINE = {"code", "em", "strong", "span", "del"}
VOID = {"img", "br", "hr", "input", "meta", "link"}
MEND = "leave an empty line before a list or a table, and indent what belongs to an item by four spaces"


class Page(HTMLParser):
    def __init__(self, text: str, *, whole: bool) -> None:
        super().__init__()
        self.whole = self.inside = whole
        self.skipped = 0
        self.parts: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "src" in given or tag == "link":
            self.loaded.append(given.get("src") or given.get("href", ""))
        if tag == "article" and not self.whole:
            self.inside = True
        elif self.inside and (self.skipped or "headerlink" in given.get("class", "")):
            self.skipped += tag not in VOID
        elif self.inside and given.get("id") != "__skip":
            self.parts.append("" if tag in INLINE else " ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "article" and not self.whole:
            self.inside = False
        elif self.inside and self.skipped:
            self.skipped -= tag not in VOID

    def handle_data(self, data: str) -> None:
        if self.inside and not self.skipped:
            self.parts.append(data)

    @property
    def words(self) -> list[str]:
        return "".join(self.parts).split()


@pytest.fixture(scope="module")
def site() -> Path:
    return built_site.whole()


@cache
def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"), whole=False)


def test_the_site_says_what_the_pages_say(site: Path) -> None:
    """Each is read by the rules of CommonMark, as a repository shows it, and compared with what the site made of it."""
    pages = make_site.Pages(ROOT, site).places
    reader = MarkdownIt("commonmark").enable("table")
    for name, place in pages.items():
        if name.endswith(".md"):
            there = posixpath.dirname(place) if place.endswith("index.md") else place.removesuffix(".md")
            made = read(site / "dev" / there / "index.html")
            meant = Page(reader.render((ROOT / name).read_text(encoding="utf-8")), whole=True)
            assert made.words == meant.words, f"{name}: {MEND}"
    assert len(pages) > 90


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 90
    wrong = []
    for path in pages:
        for target in [*read(path).links, *read(path).loaded]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = path.parent / unquote(parts.path) if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            if not there.is_file():
                wrong.append(f"{path.relative_to(site)}: {target}")
            elif parts.fragment and there.suffix == ".html":
                anchors = read(there.resolve()).anchors
                wrong += [] if unquote(parts.fragment) in anchors else [f"{path.relative_to(site)}: {target}"]
        wrong += [f"{path}: {each}" for each in read(path).loaded if urlsplit(each).netloc]
    assert wrong == []


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_site.versions(tmp_path_factory.mktemp("versions"))


def test_a_file_is_shown_as_a_page_and_decisions_are_listed(versions: Path) -> None:
    assert read(versions / "dev/examples/receiver.py/index.html").words == [
        "examples/receiver.py",
        'print("```")',
    ]
    assert read(versions / "dev/decisions/index.html").words[-4:] == ["1.", "First", "of", "all"]
    assert "../../examples/receiver.py/" in read(versions / "dev/guides/fuse/index.html").links


def test_versions_stand_beside_each_other_and_the_start_leads_to_the_latest(versions: Path) -> None:
    listed = json.loads((versions / "versions.json").read_text(encoding="utf-8"))
    assert [(each["version"], each["aliases"]) for each in listed] == [
        ("0.10.0", ["latest"]),
        ("0.9.0", []),
        ("dev", []),
    ]
    assert read(versions / "index.html").links == ["0.10.0/"]
    assert (versions / "0.9.0/guides/fuse/index.html").is_file()
    assert not (versions / "0.10.0/gone").exists()


def test_an_anchor_that_is_not_there_ends_the_build(tmp_path: Path) -> None:
    changed = {"CHANGELOG.md": "# Changes\n\n[x](docs/guides/fuse.md#no)\n"}
    project = built_site.small_project(tmp_path / "project", {**built_site.SMALL, **changed})
    built = built_site.build(project, tmp_path / "site")
    assert (built.returncode, "anchor does not exist" in built.stderr) == (1, True), built.stderr
    assert "Traceback" not in built.stderr
    assert not (tmp_path / "site").exists()


def test_what_leads_nowhere_makes_no_site(tmp_path: Path) -> None:
    project = built_site.small_project(tmp_path / "project")
    for name, text, problem in (
        ("README.md", "# start\n\n[x](docs/no.png)\n", "README.md links to docs/no.png"),
        ("docs/guides/fuse.md", "# One\n\n[x](../../../etc/passwd)\n", "fuse.md links to ../../../etc/"),
        ("docs/precision.md", "# New\n", "The navigation lacks precision.md"),
    ):
        (project / name).write_text(text, encoding="utf-8")
        with pytest.raises(make_site.SiteError, match=problem):
            make_site.build(project, tmp_path / "site", "dev")
        (project / name).write_text(built_site.SMALL.get(name, ""), encoding="utf-8")
    (project / "docs/precision.md").unlink()
    (project / "examples/receiver.py").unlink()
    (project / "examples/receiver.py").symlink_to(tmp_path / "beside")
    (tmp_path / "beside").write_text("of this machine")
    with pytest.raises(make_site.SiteError, match="receiver.py leads out of the repository"):
        make_site.build(project, tmp_path / "site", "dev")
    assert not (tmp_path / "site").exists()


def test_links_in_code_stay_as_they_are(tmp_path: Path) -> None:
    text = "# One\n\n`[x](no.md)`, [`--to`](track.md#a)\n\n```text\n[x](no.md)\n```\n"
    pages = {**built_site.SMALL, "docs/guides/fuse.md": text, "docs/guides/track.md": "# a\n"}
    project = built_site.small_project(tmp_path / "project", pages)
    make_site.Pages(project, tmp_path / "pages").gather()
    assert (tmp_path / "pages/guides/fuse.md").read_text(encoding="utf-8") == text
