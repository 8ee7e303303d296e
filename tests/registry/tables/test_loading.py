"""The modules of tables are imported one by one; the first query may come while one is imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from fusery.registry import tables

CONFIGURED_WITHIN_A_MODULE = """
from sqlalchemy import event
from sqlalchemy.orm import Mapper, configure_mappers
from fusery.registry import tables

seen = []

@event.listens_for(Mapper, "after_mapper_constructed")
def another_thread_s_first_query(mapper, kind):
    if kind.__name__ == "FusedRow":
        configure_mappers()
        seen.append((tables.AdapterRow.__mapper__.configured, mapper.configured))

tables.AdapterRow
tables.FusedRow
assert seen == [(True, False)], seen
configure_mappers()
assert tables.FusedRow.modules.property.mapper.class_ is tables.ModuleFidelityRow
"""

ALL_AFTER_ONE = """
from fusery.registry import tables
tables.YankRow
from fusery.registry.tables import metadata
print(len(metadata.tables), sorted(name for name in vars(tables) if name in tables.__all__))
"""


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.timing
def test_a_query_while_a_module_is_imported_leaves_its_tables_alone() -> None:
    run(CONFIGURED_WITHIN_A_MODULE)


@pytest.mark.timing
def test_whoever_goes_through_all_tables_gets_all() -> None:
    assert run(ALL_AFTER_ONE).strip() == f"{len(tables.metadata.tables)} ['TableRow', 'YankRow', 'metadata']"
    mapped = {kind.class_.__name__ for kind in tables.TableRow.registry.mappers}
    assert mapped | {"TableRow", "metadata"} == set(tables.__all__)
    assert len(mapped) == len(tables.metadata.tables)


def test_the_stub_has_the_names() -> None:
    stub = ast.parse(Path(str(tables.__file__)).with_suffix(".pyi").read_text(encoding="utf-8"))
    froms = [node for node in stub.body if isinstance(node, ast.ImportFrom) and node.level]
    said = {alias.asname for node in froms for alias in node.names} | {"metadata"}
    assert said == set(tables.__all__)
    for node in froms:
        for alias in node.names:
            assert getattr(tables, alias.name) is getattr(
                sys.modules[f"{tables.__name__}.{node.module}"], alias.name
            )
