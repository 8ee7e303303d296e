"""Many processes on two simulated hosts, and a collector: every version once, every fuse once, nothing lost.

`FUSERY_SOAK=1` does two thousand operations of sixteen on each pair of database and store; otherwise there are fewer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import concurrent_team
import pytest
import s3_server

pytestmark = pytest.mark.timing

PROCESSES, OPERATIONS = (16, 2_000) if os.environ.get("FUSERY_SOAK") else (8, 48)

DOCUMENTED = ("alias: bad_input: ",)
"""What may be refused: an alias for an adapter that another process has just yanked."""


@pytest.fixture(params=["sqlite and disk", "postgresql and s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[concurrent_team.Place]:
    """A database and a store that two hosts share."""
    (tmp_path / "shared").mkdir()
    if request.param == "sqlite and disk":
        shared = f"{tmp_path}/shared"
        yield concurrent_team.Place(tmp_path, f"sqlite:///{shared}/fusery.db", f"file://{shared}/store", {})
        return
    binary = s3_server.find_server()
    if binary is None:
        pytest.skip("there is no SeaweedFS here")
    databases: Any = request.getfixturevalue("postgres_databases")
    url = databases.create()
    with s3_server.running_server(binary, tmp_path / "shared") as server:
        yield concurrent_team.Place(tmp_path, url, f"s3://{s3_server.BUCKET}/team", server.options())
    databases.drop(url)


@pytest.mark.slow
def test_a_team_at_work(place: concurrent_team.Place) -> None:
    concurrent_team.prepare(place)
    results, collected = concurrent_team.at_work(place, PROCESSES, OPERATIONS)
    assert sum(sum(result["done"].values()) for result in results) == OPERATIONS
    refused = {line for result in results for line in result["refused"]}
    assert {line for line in refused if not line.startswith(DOCUMENTED)} == set()
    assert collected["turns"] > 1
    assert collected["removed"] > 0
    assert concurrent_team.inconsistencies(place, results) == []
