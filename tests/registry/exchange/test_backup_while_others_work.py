"""Backups while others work; killed ones are in `tests/faults`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from bulk_workers import work
from programs import CONTEXT
from store_shelf import open_workspace

from fusery.registry import Registry

pytestmark = pytest.mark.timing
WORKERS = 4


@pytest.mark.slow
def test_a_backup_while_four_processes_write_is_of_one_moment(
    database_url: str, tiny_base: Path, tmp_path: Path
) -> None:
    home = tmp_path / "team"
    with Registry(open_workspace(home, database_url, str(home / "store"))) as registry:
        registry.init()
        registry.bases.add(tiny_base, name="tiny")
        stop = CONTEXT.Event()
        arguments = (home, database_url, tmp_path, tiny_base)
        workers = [CONTEXT.Process(target=work, args=(*arguments, number, stop)) for number in range(WORKERS)]
        for worker in workers:
            worker.start()
        counts = []
        try:
            end = time.monotonic() + 180
            while len(counts) < 4 or (min(counts[-2:]) < counts[0] + 20 and time.monotonic() < end):
                made = registry.upkeep.backup(tmp_path / f"backup{len(counts) % 2}")
                counts.append(made.last_event.seq)
        finally:
            stop.set()
            for worker in workers:
                worker.join()
    assert [worker.exitcode for worker in workers] == [0] * WORKERS
    assert min(counts[-2:]) >= counts[0] + 20, "nobody wrote meanwhile"
    for number in range(2):
        with Registry(open_workspace(tmp_path / f"restored{number}")) as restored:
            restored.upkeep.restore(tmp_path / f"backup{number}", own=True)
            report = restored.upkeep.audit()
            assert report.ok, report.problems
            versions = [row["version"] for row in restored.adapters.history("course_rec")]
            assert versions == list(range(1, len(versions) + 1))


def test_two_backups_to_one_place_take_turns(tiny_base: Path, tmp_path: Path) -> None:
    with Registry(open_workspace(tmp_path / "home")) as registry:
        registry.init()
        registry.bases.add(tiny_base, name="tiny")
    words = ["--registry", str(tmp_path / "home"), "admin", "backup", str(tmp_path / "backup")]
    both = [
        subprocess.Popen([sys.executable, "-P", "-c", "from fusery.cli.main import main; main()", *words])
        for _ in range(2)
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    with Registry(open_workspace(tmp_path / "restored")) as restored:
        restored.upkeep.restore(tmp_path / "backup", own=True)
        assert restored.upkeep.audit().ok
