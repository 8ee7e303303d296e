"""A declared, filterable, amendable column of an adapter takes an edit of five files at most, and is then everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from page_process import running
from page_server import ask
from source_copy import copy_sources

from fusery.registry.database.schema import HEAD

MOST = 5
"""Product files that it may take: table, migration, number of the schema, record, and what is declared."""

NEXT = f"{int(HEAD) + 1:04}"
MIGRATION = f'''"""The customer that an adapter was trained for.

Revision: {NEXT}
Revises: {HEAD}
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{NEXT}", "{HEAD}", None, None


def upgrade() -> None:
    op.add_column("adapter", sa.Column("customer", sa.String(200), nullable=True))
    op.create_index("ix_adapter_customer_id", "adapter", ["customer", "id"])


def downgrade() -> None:
    op.drop_index("ix_adapter_customer_id", "adapter")
    op.drop_column("adapter", "customer")
'''
FIELD = """    customer: str | None = column(
        "who it was trained for",
        usual=True,
        declared=Declaration(help="Who it was trained for", metavar="NAME", most=200),
        amendable="with a reason",
    )
"""
RUN = """
import contextlib, io, json, sys
from fusery.cli.main import run
printed = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    printed.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(printed))
"""
FUSERY = "from fusery.cli.start import start; start()"

Run = Callable[..., list[str]]


def edit(path: Path, *changes: tuple[str, str]) -> None:
    """Put a text before the first place of another one."""
    source = path.read_text(encoding="utf-8")
    for before, text in changes:
        assert before in source, f"{path}: {before!r}"
        source = source.replace(before, text + before, 1)
    path.write_text(source, encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with the column."""
    root = copy_sources(tmp_path_factory.mktemp("copy") / "tree")
    for kernel in Path(__file__).parents[1].glob("registry/engine/*.so"):
        shutil.copy(kernel, root / "registry" / "engine")
    before = snapshot(root)
    edit(
        root / "registry/tables/adapters.py",
        ('    "created_at",\n', '    "customer",\n'),
        ("    note: Mapped[str | None]", "    customer: Mapped[str | None] = mapped_column(String(200))\n"),
    )
    (root / f"migrations/versions/{NEXT}_customer.py").write_text(MIGRATION, encoding="utf-8")
    schema = root / "registry/database/schema.py"
    schema.write_text(
        schema.read_text(encoding="utf-8").replace(f'"{HEAD}"', f'"{NEXT}"', 1), encoding="utf-8"
    )
    edit(root / "registry/records/adapter.py", ("    parent: str | None", FIELD))
    edit(
        root / "registry/admission/submission.py",
        ("    examples: int | None\n", "    customer: str | None\n"),
        ("    examples: int | None = None\n", "    customer: str | None = None\n"),
    )
    after = snapshot(root)
    assert len({path for path in after if after[path] != before.get(path)}) <= MOST
    return root


def snapshot(root: Path) -> dict[str, bytes]:
    """Return the files of a tree."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def fusery(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run commands of the copy in one process; return what each prints."""
    monkeypatch.setenv("PYTHONPATH", str(tree))
    monkeypatch.setenv("FUSERY_USER", "tester")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)

    def call(*commands: str, home: str = "home") -> list[str]:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", RUN],
            cwd=tmp_path,
            env=os.environ | {"FUSERY_REGISTRY": str(tmp_path / home)},
            input=json.dumps([command.split() for command in commands]),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        printed: list[tuple[int, str, str]] = json.loads(ran.stdout)
        for command, (code, out, err) in zip(commands, printed, strict=True):
            assert code == 0, (command, out, err)
        return [out for _, out, _ in printed]

    return call


def table(text: str) -> list[list[str]]:
    """Return the rows of a printed table, with its titles."""
    titles, _, *rows = text.splitlines()
    return [line.split() for line in (titles, *rows)]


@pytest.mark.slow
def test_one_declared_column(fusery: Run, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "tiny")
    tiny_models.make_adapter(tmp_path / "first", base, seed=1)
    tiny_models.make_adapter(tmp_path / "second", base, seed=2, rank=4)
    fusery(
        "base add tiny --name tiny",
        "register first --base tiny --task course_rec --date 20260115 --customer Acme",
        "register second --base tiny --task course_rec --date 20260201 --customer Bolt --alpha 8",
    )
    one, two = "course_rec_v1_20260115", "course_rec_v2_20260201"
    usual, columns, where, by, schema, help_ = fusery(
        "list",
        "list --columns name,customer",
        "list --where customer=Acme -q",
        "list --sort customer:desc -q",
        "schema show",
        "list --help",
    )
    assert "customer" in usual.splitlines()[0]
    assert table(columns) == [["name", "customer"], [one, "Acme"], [two, "Bolt"]]
    assert (where.split(), by.split()) == ([one], [two, one])
    described = json.loads(schema)["properties"]["customer"]
    assert described["description"] == "who it was trained for."
    assert "customer" in help_

    amended, shown, document, history, differs, compared = fusery(
        f"amend {one} --customer Acme-Ltd --reason renamed",
        f"show {one}",
        f"show {one} --json",
        "list --columns customer",
        f"diff {one} {two} --json",
        f"compare {one} {two} --json",
    )
    assert '"Acme"' in amended or "Acme -> Acme-Ltd" in amended
    assert [line.split() for line in shown.splitlines() if line.startswith("customer ")] == [
        ["customer", "Acme-Ltd*"]
    ]
    assert json.loads(document)["customer"] == "Acme-Ltd"
    assert "Acme-Ltd*" in history
    assert json.loads(differs)["changed"]["customer"] == ["Acme-Ltd", "Bolt"]
    assert json.loads(compared)["amended"]["customer"] == [one]

    [before, again] = fusery(
        f"show {one} --at 2100-01-01 --json",
        "register first --base tiny --task course_rec --date 20260115 --customer Acme --json",
    )
    assert json.loads(before)["customer"] == "Acme-Ltd"
    assert json.loads(again)["created"] is False

    fusery("init", home="other")
    fusery(f"push {one} --to other")
    there, log = fusery(f"show {one} --json", "audit --json", home="other")
    assert json.loads(there)["customer"] == "Acme-Ltd"
    assert json.loads(there)["amendments"][0]["from"] == "Acme"
    assert json.loads(log)["ok"]
    fusery(f"amend {one} --clear customer --reason unknown", home="other")

    fusery(f"materialize {two} bundle --target model --accept-loss")
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "| customer | Bolt |" in card

    with running(tmp_path / "home", "ui", "--json", main=FUSERY) as (_, printed):
        url = json.loads(printed)["url"]
        page = ask(url, f"/adapters/{one}", accept="text/html").text
        task = ask(url, "/tasks/course_rec?where=customer%3DBolt", accept="text/html").text
        answer: Any = ask(url, f"/api/v1/adapters/show?reference={one}").json
    assert "<dt>Customer</dt><dd>Acme-Ltd" in page
    assert "Customer</th>" in task
    assert "Bolt" in task
    assert "Acme" not in task
    assert answer["customer"] == "Acme-Ltd"
