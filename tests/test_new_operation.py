"""An operation takes an edit of three files at most, and is then everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models
from page_server import ask, post_json
from programs import running
from source_copy import MAIN, ChangedCopy, changed_copy, insert

MOST = 3
"""Product files that it may take: the resource with the use case, the command, and what its parameters mean."""

METHOD = '''    @operation("publisher", writes=True)
    def swap(
        self, first: str, second: str, *, holding: str | None = None, reason: str = ""
    ) -> builtins.list[Moved]:
        """Let two aliases hold what the other one held, and return the moves."""
        one, two = self.show(first).adapter, self.show(second).adapter
        if one is None or two is None or holding not in (None, one, two):
            return []
        return [self.set(first, two, reason=reason), self.set(second, one, reason=reason)]

'''
COMMAND = '''@prints("alias swap", Aliases.swap, names="to")
def swap(session: Session, moves: list[Moved]) -> None:
    """Let two aliases hold what the other one held."""
    for move in moves:
        _print_move(session, move)


'''
TEXT = "Only if one of them holds this adapter."
PYTHON = """
import json, sys
from fusery import Registry
with Registry.open() as registry:
    moves = registry.aliases.swap("course_rec#prod", "course_rec#next", reason="from Python")
    print(json.dumps([move.to for move in moves]))
"""


def change(root: Path) -> None:
    insert(
        root / "registry/api/aliases.py",
        ('    @operation("publisher", writes=True)\n    @runs("releases.promote:', METHOD),
    )
    insert(root / "cli/alias.py", ('listing(\n    "alias list"', COMMAND))
    insert(
        root / "registry/api/parameters.py",
        ('    "bases.add.name"', f'    "aliases.swap.holding": "{TEXT}",\n'),
    )


@pytest.mark.slow
def test_one_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = changed_copy(tmp_path / "tree", change, MOST)
    for name, value in (("PYTHONPATH", str(root)), ("FUSERY_USER", "tester"), ("COLUMNS", "400")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ChangedCopy(root, tmp_path) as copy:
        _try_everywhere(copy, tmp_path, monkeypatch)


def _try_everywhere(copy: ChangedCopy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_models.make_base(tmp_path / "tiny")
    for seed in (1, 2):
        tiny_models.make_adapter(tmp_path / f"adapter{seed}", base, seed=seed)
    one, two = "course_rec_v1_20260115", "course_rec_v2_20260115"
    *_, help_, schema, swapped, secret = copy.fusery(
        "base add tiny --name tiny",
        "register adapter1 --base tiny --task course_rec --date 20260115",
        "register adapter2 --base tiny --task course_rec --date 20260115",
        f"alias set {one} prod",
        f"alias set {two} next",
        "alias swap --help",
        "admin schema alias swap",
        "alias swap course_rec#prod course_rec#next --reason tried",
        "admin token create ci --role publisher -q",
    )
    assert TEXT in help_
    assert json.loads(schema)["items"]["$ref"].endswith("/Moved")
    assert swapped.splitlines() == [
        f"course_rec#prod holds {two}, before that {one}.",
        f"course_rec#next holds {one}, before that {two}.",
    ]
    assert copy.python(PYTHON, FUSERY_REGISTRY=str(tmp_path / "home")) == [one, two]

    words = ("server", "--port", "0", "--json")
    with running(tmp_path / "home", *words, main=MAIN) as (_, printed):
        url, token = json.loads(printed)["url"], secret.strip()
        monkeypatch.setenv("FUSERY_TOKEN", token)
        assert copy.python(PYTHON, FUSERY_REGISTRY=url) == [two, one]
        [there] = copy.fusery("alias swap course_rec#prod course_rec#next -q", home=url)
        assert there.split() == [one, two]
        borne = {"authorization": f"Bearer {token}"}
        given = {"first": "course_rec#prod", "second": "course_rec#next", "holding": two}
        answer = post_json(url, "/api/v1/aliases/swap", given, **borne)
        assert [move["to"] for move in answer.json] == [two, one]
        described = ask(url, "/api/v1/openapi.json", **borne).json["paths"]["/api/v1/aliases/swap"]["post"]
        assert described["summary"] == "Let two aliases hold what the other one held, and return the moves"
