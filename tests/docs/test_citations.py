"""What docstrings, comments and pages cite is in the repository."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.adapters.peft_config import FIELDS
from fusery.registry.admission import peft_rules
from fusery.registry.admission.code import Code

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("cli", "migrations", "registry", "storage", "testing", "web")
FOLDERS = (*PRODUCT, "benchmarks", "docs", "examples", "tests")
CODE = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
PAGE = re.compile(r"\bdocs/[\w./-]*\w\.md\b")
DECISION = re.compile(r"\b[Dd]ecision (\d+)\b")
CITING = re.compile(r"docs/|[Dd]ecision")
"""What is in the text of every module whose prose cites anything: to take the prose out of the others takes ten seconds."""
CODE_IN_A_PAGE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def wrong(text: str) -> list[str]:
    pages = [name for name in PAGE.findall(text) if not (ROOT / name).is_file()]
    numbers = {path.name[:4] for path in (ROOT / "docs" / "decisions").glob("*.md")}
    decisions = [
        f"decision {number}" for number in DECISION.findall(text) if f"{int(number):04}" not in numbers
    ]
    return [*pages, *decisions]


@functools.cache
def prose(path: Path) -> str:
    """Return the docstrings and comments of a module, and the texts below its constants; nothing if it cites nothing."""
    source = path.read_text(encoding="utf-8")
    return "\n".join(_prose(source)) if CITING.search(source) else ""


def _prose(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def test_docstrings_and_comments_cite_what_is_here() -> None:
    assert len(CODE) > 400
    found = {
        str(path.relative_to(ROOT)): bad
        for path in CODE
        if path != Path(__file__) and (bad := wrong(prose(path)))
    }
    assert found == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_cite_what_is_here(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = [name for name in PAGE.findall(text) if not (ROOT / name).is_file()]
    assert names + wrong(CODE_IN_A_PAGE.sub("", text)) == []


def test_pages_of_internals_name_files_that_are_there() -> None:
    """A path in backticks is one from the root, or of a folder that the page has named."""
    for page in sorted((ROOT / "docs" / "internals").glob("*.md")):
        for name in re.findall(
            r"`((?:registry|storage|cli|tests|testing|migrations)/[\w./]+)`", page.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
        for name in re.findall(r"`(\w+\.py)`", page.read_text(encoding="utf-8")):
            assert any((ROOT / "registry").rglob(name)), f"{page.name}: {name}"


def test_the_index_of_internals_lists_every_page() -> None:
    folder = ROOT / "docs" / "internals"
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8")))
    assert listed == {path.name for path in folder.glob("*.md")} - {"README.md"}


def test_the_pages_about_python_have_every_resource(tmp_path: Path) -> None:
    names = {f"registry.{name}" for name in vars(Registry.open(tmp_path))} - {
        "registry.workspace",
        "registry.server",
    }
    reference, guide = (
        (ROOT / "docs" / name).read_text(encoding="utf-8")
        for name in ("reference/python.md", "guides/python.md")
    )
    assert len(names) > 10
    assert {
        name for name in names if f"\n## {name}\n" not in reference or f"\n| `{name}` |" not in guide
    } == set()


def test_the_page_of_formats_has_every_field_and_refusal_of_peft() -> None:
    page = (ROOT / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
    assert [name for name in FIELDS if f"`{name}`" not in page] == []
    found = [
        each for each in vars(peft_rules).values() if isinstance(each, Code) and each.severity == "error"
    ]
    assert len(found) > 10
    assert [code.name for code in found if f"`{code.name}" not in page] == []
