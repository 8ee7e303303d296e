"""A declared, filterable, amendable column of an adapter takes an edit of five files at most, and is then everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from page_server import ask
from programs import running
from source_copy import MAIN, ChangedCopy, changed_copy, insert

from fusery.cli.main import run
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

'''
FIELD = """    customer: str | None = column(
        "who it was trained for",
        usual=True,
        declared=Declaration(help="Who it was trained for", metavar="NAME", most=200),
        amendable="with a reason",
    )
"""


def change(root: Path) -> None:
    insert(
        root / "registry/tables/adapters.py",
        ('    "trainable_parameters", ', '    "customer",\n'),
        ("    note: Mapped[str | None]", "    customer: Mapped[str | None] = mapped_column(String(200))\n"),
    )
    (root / f"migrations/versions/{NEXT}_customer.py").write_text(MIGRATION, encoding="utf-8")
    schema = root / "registry/database/schema.py"
    schema.write_text(
        schema.read_text(encoding="utf-8").replace(f'"{HEAD}"', f'"{NEXT}"', 1), encoding="utf-8"
    )
    insert(root / "registry/records/adapter.py", ("    parent: str | None", FIELD))
    insert(
        root / "registry/admission/submission.py",
        ("    examples: int | None\n", "    customer: str | None\n"),
        ("    examples: int | None = None\n", "    customer: str | None = None\n"),
    )


def table(text: str) -> list[list[str]]:
    titles, _, *rows = text.splitlines()
    return [line.split() for line in (titles, *rows)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return changed_copy(tmp_path_factory.mktemp("changed") / "tree", change, MOST)


@pytest.fixture
def fusery(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    monkeypatch.setenv("FUSERY_USER", "tester")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    with ChangedCopy(root, tmp_path) as copy:
        yield copy.fusery


@pytest.mark.slow
def test_a_database_and_a_backup_of_before_get_the_column(
    fusery: Callable[..., list[str]], tmp_path: Path
) -> None:
    before = ["--registry", str(tmp_path / "home")]
    base = tiny_models.make_base(tmp_path / "tiny")
    tiny_models.make_adapter(tmp_path / "first", base, seed=1)
    for words in (
        "admin init",
        "base add tiny",
        "register first --base tiny --task t --val-loss 0.5",
        "admin backup backup",
    ):
        assert run([*before, *words.split()]) == 0
    assert run([*before, "edit", "t@1", "--val-loss", "0.4", "--reason", "typo"]) == 0

    refused, *_ = fusery("admin db current --json")
    assert json.loads(refused) == {"current": HEAD, "head": NEXT, "status": "older"}
    upgraded, compared, shown, audited = fusery(
        "admin db upgrade",
        "admin db check",
        "show t@1 --json",
        "audit --json",
        "edit t@1 --customer Acme --reason late",
    )[:4]
    assert upgraded == f"Upgraded from {HEAD} to {NEXT}\n"
    assert "as it should be" in compared
    assert (json.loads(shown)["customer"], json.loads(shown)["val_loss"]) == (None, 0.4)
    assert json.loads(audited)["ok"]  # the seals of before hold
    [again] = fusery("audit --json")
    assert json.loads(again)["ok"]
    assert run([*before, "list"]) == 2  # this version knows no such database

    fusery("admin restore backup --own", home="restored")
    shown, compared, audited = fusery("show t@1 --json", "admin db check", "audit --json", home="restored")
    assert (json.loads(shown)["customer"], json.loads(shown)["val_loss"]) == (None, 0.5)
    assert "as it should be" in compared
    assert json.loads(audited)["ok"]


@pytest.mark.slow
def test_one_declared_column(fusery: Callable[..., list[str]], tmp_path: Path) -> None:
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
        "admin schema show",
        "list --help",
    )
    assert "customer" in usual.splitlines()[0]
    assert table(columns) == [["name", "customer"], [one, "Acme"], [two, "Bolt"]]
    assert (where.split(), by.split()) == ([one], [two, one])
    described = json.loads(schema)["$defs"]["AdapterDetails"]["properties"]["customer"]
    assert described["description"] == "who it was trained for."
    assert "customer" in help_

    amended, shown, document, history, compared = fusery(
        f"edit {one} --customer Acme-Ltd --reason renamed",
        f"show {one}",
        f"show {one} --json",
        "list --columns customer",
        f"diff {one} {two} --json",
    )
    assert '"Acme"' in amended or "Acme -> Acme-Ltd" in amended
    assert [line.split() for line in shown.splitlines() if line.startswith("customer ")] == [
        ["customer", "Acme-Ltd*"]
    ]
    assert json.loads(document)["customer"] == "Acme-Ltd"
    assert "Acme-Ltd*" in history
    assert json.loads(compared)["differs"]["customer"] == ["Acme-Ltd", "Bolt"]
    assert json.loads(compared)["amended"]["customer"] == [one]

    [before, again] = fusery(
        f"show {one} --at 2100-01-01 --json",
        "register first --base tiny --task course_rec --date 20260115 --customer Acme --json",
    )
    assert json.loads(before)["customer"] == "Acme-Ltd"
    assert json.loads(again)["created"] is False

    fusery("admin init", home="other")
    fusery(f"push {one} --to other")
    there, log = fusery(f"show {one} --json", "audit --json", home="other")
    assert json.loads(there)["customer"] == "Acme-Ltd"
    assert json.loads(there)["amendments"][0]["from"] == "Acme"
    assert json.loads(log)["ok"]
    fusery(f"edit {one} --clear customer --reason unknown", home="other")

    fusery(f"get {one} folder")
    folder = tmp_path / "folder" / f"adapters_{one}"
    exported = json.loads((folder / "adapter_metadata.json").read_text(encoding="utf-8"))
    assert exported["fusery"]["facts"]["customer"] == "Acme-Ltd"
    fusery("admin init", "base add tiny --name tiny", f"register {folder}", home="imported")
    [imported] = fusery(f"show {one} --json", home="imported")
    assert json.loads(imported)["customer"] == "Acme-Ltd"

    lineage, slsa, bill = fusery(
        f"lineage {one} --json", f"lineage --format slsa {one}", f"lineage {one} --format cyclonedx"
    )
    assert f"adapter:{one}" in [node["id"] for node in json.loads(lineage)["nodes"]]
    assert "Acme-Ltd" in bill
    internal = json.loads(slsa)["predicate"]["buildDefinition"]["internalParameters"]
    assert internal["customer"] == "Acme-Ltd"

    fusery(f"materialize {two} bundle --target model --accept-loss")
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "| customer | Bolt |" in card

    with running(tmp_path / "home", "ui", "--json", main=MAIN) as (_, printed):
        url = json.loads(printed)["url"]
        page = ask(url, f"/adapters/{one}", accept="text/html").text
        task = ask(url, "/tasks/course_rec?where=customer%3DBolt", accept="text/html").text
        answer: Any = ask(url, f"/api/v1/adapters/show?reference={one}").json
    assert "<dt>Customer</dt><dd>Acme-Ltd" in page
    assert "Customer</th>" in task
    assert "Bolt" in task
    assert "Acme" not in task
    assert answer["customer"] == "Acme-Ltd"
