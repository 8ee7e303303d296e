"""The field's words in names, messages, help and pages: what a reader would have to decode does not come back.

`BANNED` may not occur in pages, help and messages.  `MOST` bounds what is left of it in docstrings, comments and names: lower
a number whenever it falls.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from fusery.cli.groups import MEANT

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("cli", "integrations", "model_server", "registry", "research", "storage", "testing", "web")
BANNED = {
    "is none": r"\b(?:is|are) none\b",
    "that is one": r"\bthat (?:is|are) one\b",
    "whoever": r"\bwho(?:m)?ever\b",
    "sentence that begins with What": r"(?:^|[.;:]\s+)What (?:\w+ ){0,6}(?:is|are|comes|lies)\b(?![^.]*\?)",
    "told": r"\b(?:is|are|was|were|be) told\b|\btells? of\b|\bsays? of itself\b|\bto be had\b",
    "what it is": r"\bwhat (?:it|they) (?:is|are|says?|has|have)\b",
    "metaphor": r"\b(?:door|desk|shelf|chronicle|voucher|journal)s?\b",
    "lies beside": r"\b(?:lies|lie) (?:in|at|there|here|beside|below)\b",
    "believe": r"\bbeliev(?:e|es|ed|able)\b|\bvouch\w*",
    "the one that": r"\bthe one that (?:was|is)\b",
    "anew": r"\banew\b",
    "nobody": r"\bnobody\b",
}
NAMES = re.compile(
    r"(?:^|_)(told|said|each|found|there|known|whoever|beside|aside|anew|elsewhere|vouch\w*|believ\w*)(?:_|$)"
)
MODULES = re.compile(
    r"^(ground|turns?|halves|doors?|telling|believing|beside|chronicle|journal\w*|desk|shelf|utils?|helpers?)$"
)
MOST = {"docstrings": 0, "comments": 0, "names": 0}
"""What is left: lower a number whenever it falls; the goal is 0."""

GENERATED = {"json.md", "python.md", "operations.md", "fields.md"}
"""Reference pages made of docstrings, which `MOST` bounds."""


Sources = list[tuple[Path, ast.Module, str]]


@pytest.fixture(scope="module")
def sources() -> Sources:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [(path, ast.parse(text), text) for path, text in zip(paths, texts, strict=True)]


def banned_in(text: str) -> list[str]:
    return [
        f"{word}: …{text[max(0, match.start() - 30) : match.end() + 30]}…".replace("\n", " ")
        for word, pattern in BANNED.items()
        for match in re.finditer(pattern, text, re.MULTILINE)
    ]


def docstrings(tree: ast.Module) -> list[ast.Constant]:
    expressions = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return [
        value for value in expressions if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]


def pages() -> list[Path]:
    """The pages that people read, without decisions and the changelog, which are history."""
    found = [path for path in (ROOT / "docs").rglob("*.md") if "decisions" not in path.parts]
    return [
        *sorted(path for path in found if path.name not in GENERATED),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
    ]


def test_pages_use_the_words_of_the_field() -> None:
    found = {path.name: banned_in(path.read_text(encoding="utf-8")) for path in pages()}
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_messages_and_help_use_the_words_of_the_field(sources: Sources) -> None:
    problems = {}
    for path, tree, _ in sources:
        documentation = {id(node) for node in docstrings(tree)}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in documentation
            ):
                for problem in banned_in(node.value) if " " in node.value else ():
                    problems[f"{path.relative_to(ROOT)}:{node.lineno}"] = problem
    assert problems == {}


def test_templates_use_the_words_of_the_field() -> None:
    problems = {}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.j2"):
            plain = re.sub(r"\{[{%#].*?[}%#]\}", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
            problems[str(path.relative_to(ROOT))] = banned_in(plain)
    assert {name: problem for name, problem in problems.items() if problem} == {}


def test_modules_are_named_after_what_is_in_them(sources: Sources) -> None:
    assert [str(path) for path, _, _ in sources if MODULES.match(path.stem)] == []


def test_docstrings_comments_and_names_only_improve(sources: Sources) -> None:
    counts: Counter[str] = Counter()
    for _, tree, text in sources:
        counts["docstrings"] += sum(len(banned_in(str(node.value))) for node in docstrings(tree))
        comments = re.findall(r"^\s*#\s+(.*)", text, re.MULTILINE)
        counts["comments"] += sum(len(banned_in(comment)) for comment in comments)
        for node in ast.walk(tree):
            stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            name = (
                node.id
                if stored
                else getattr(node, "arg", None)
                if isinstance(node, ast.arg)
                else getattr(node, "name", "")
            )
            counts["names"] += bool(isinstance(name, str) and NAMES.search(name.lower()))
    over = {what: (counts[what], most) for what, most in MOST.items() if counts[what] > most}
    assert over == {}, "found and allowed"


def test_words_of_other_tools_are_not_commands_in_pages() -> None:
    words = "|".join(sorted(word for word in MEANT if word not in ("help", "version")))
    problems = {
        path.name: re.findall(
            rf"(?:^|\$ |`)fusery (?:{words})\b", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        for path in pages()
    }
    assert {name: found for name, found in problems.items() if found} == {}
