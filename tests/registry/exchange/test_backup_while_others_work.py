"""Backups while others work; killed ones are in `tests/faults`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_models
from bulk_workers import work
from programs import CONTEXT
from s3_server import BUCKET, find_server, running_server
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


WEED = find_server()


@pytest.mark.slow
@pytest.mark.skipif(WEED is None, reason="no SeaweedFS here")
def test_from_bucket_to_bucket(tiny_base: Path, tmp_path: Path) -> None:
    assert WEED is not None
    (tmp_path / "s3").mkdir()
    with running_server(WEED, tmp_path / "s3") as server:
        options = server.options()
        store = f"s3://{BUCKET}/live"
        with Registry(open_workspace(tmp_path / "home", "", store, options)) as registry:
            registry.init()
            registry.bases.add(tiny_base, name="tiny")
            registry.upkeep.backup(f"s3://{BUCKET}/saved")
            adapter = tiny_models.make_adapter(tmp_path / "adapter", tiny_base, seed=1)
            registry.adapters.register(adapter, base="tiny", task="course_rec")
            made = registry.upkeep.backup(f"s3://{BUCKET}/saved")
            assert made.copied.count == 2
            restored_store = f"s3://{BUCKET}/restored"
            with Registry(open_workspace(tmp_path / "new", "", restored_store, options)) as restored:
                restored.upkeep.restore(f"s3://{BUCKET}/saved", own=True)
                assert restored.upkeep.audit(jobs=2).ok
                assert restored.adapters.list() == registry.adapters.list()
        secrets = [text for name, text in options.items() if name in ("key", "secret")]
        document = json.dumps(made.to_dict())
        assert not any(secret in document for secret in secrets)
