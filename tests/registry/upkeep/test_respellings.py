"""The same values stored in other ways, as whoever can write to the database file might: an audit finds each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from database_facts import forced
from full_registry import fill

from fusery.registry import Registry
from fusery.storage.errors import FuseryError

RESPELLED = (
    "adapter SET created_at = replace(created_at, ' ', 'T')",
    "adapter SET created_at = created_at || '+00:00'",
    "alias_move SET at = substr(at, 1, 23)",
    "event SET at = substr(at, 1, 19)",
    "adapter SET date = replace(date, '-', '')",
    "adapter SET date = date || ' 00:00:00'",
    "manifest SET size = size + 0.5",
    "base_model SET parameters = CAST(CAST(parameters AS TEXT) AS BLOB)",
    "base_model SET written_by_mlx = 2",
    "adapter SET val_loss = CAST(CAST(val_loss AS TEXT) AS BLOB)",
    "fused SET seconds = seconds || 's'",
    "adapter SET training = ' ' || training",
    "adapter SET training = replace(training, '\": ', '\":')",
    "base_model SET config = CAST(config AS BLOB)",
    "event SET detail = detail || char(10)",
    "base_model SET quantization = 'null'",
    "task SET name = name || ' '",
    "alias SET name = upper(name)",
    "adapter_tag SET value = value || char(8203)",
    "dataset SET name = name || char(0) || 'x'",
    "yank SET reason = CAST(reason AS BLOB)",
)
"""What an UPDATE says of the first row of a table."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A home with rows in every table."""
    folder = tmp_path_factory.mktemp("full")
    with Registry.open(folder / "home") as registry:
        registry.workspace.ensure(explicit=True)
        fill(registry, tiny_base, folder / "files")
    return folder / "home"


def found(home: Path) -> set[tuple[str, str]]:
    try:
        with Registry.open(home) as registry:
            return {(problem.code, problem.subject) for problem in registry.upkeep.audit().problems}
    except FuseryError as error:
        return {(error.code, "")}


def test_respelled_values_are_found(template: Path, tmp_path: Path) -> None:
    before, missed = found(template), []
    for number, change in enumerate(RESPELLED):
        home = shutil.copytree(template, tmp_path / str(number))
        table = change.partition(" ")[0]
        with forced(home / "fusery.db") as connection:
            where = f"WHERE rowid = (SELECT min(rowid) FROM {table})"
            assert connection.execute(f"UPDATE {change} {where}").rowcount == 1
        if not found(home) - before:
            missed.append(change)
        shutil.rmtree(home)
    assert missed == []
