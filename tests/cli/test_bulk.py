"""`fuse --all`, `materialize --all` and `audit --jobs` through the command line."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from dask_cluster import RunningCluster, cluster
from interrupts import interrupts
from waiting import wait_until

from fusery.registry.database.leases import TTL
from fusery.registry.workers.cluster import ALONE, ANSWER, GOODBYE, LOOK

Fusery = Callable[..., Any]
FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"
MAIN = (sys.executable, "-P", "-c", "from fusery.cli.main import main; main()")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSERY_CLUSTER", raising=False)


def test_all_are_fused_and_found_done_the_second_time(stocked: Fusery) -> None:
    first = stocked("fuse", "--all", "--jobs", "1", "--json")
    second = stocked("fuse", "--all", "--jobs", "1", "--json")

    assert (first.code, second.code) == (0, 0)
    assert [document["adapter"] for document in first.json] == [FIRST, SECOND]
    assert [document["cached"] for document in first.json + second.json] == [False, False, True, True]
    one = stocked("fuse", FIRST, "--json").json
    assert one.keys() == second.json[0].keys()
    assert one["digest"] == second.json[0]["digest"]


def test_where_and_task_choose(stocked: Fusery) -> None:
    def chosen(*words: str) -> list[str]:
        ran = stocked("fuse", "--all", "--jobs", "1", "--json", *words)
        assert ran.code == 0
        return [document["adapter"] for document in ran.json]

    assert chosen("--where", "val_loss < 0.5") == [SECOND]
    assert chosen("--where", "rank > 4000") == []
    assert chosen("--task", "course_rec", "--where", "version = 1") == [FIRST]


def test_a_failure_is_told_of_and_the_others_go_on(stocked: Fusery) -> None:
    ran = stocked("fuse", "--all", "--with", f"{FIRST}:nan", "--jobs", "1", "--json")
    assert ran.code == 2  # nothing of it can work

    blob = next(Path("home/store/blobs").rglob(_weights(stocked, FIRST)))
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1])
    ran = stocked("fuse", "--all", "--jobs", "1", "--json")

    assert ran.code == 1
    assert ran.json[0].keys() == {"adapter", "error"}
    assert ran.json[0]["error"].keys() == {"code", "message", "hint"}
    assert ran.json[1]["adapter"] == SECOND
    human = stocked("fuse", "--all", "--jobs", "1")
    assert human.code == 1
    assert "1 fused, 1 failed." in human.out
    quiet = stocked("fuse", "--all", "--jobs", "1", "-q")
    assert len(quiet.out.splitlines()) == 1
    assert FIRST in quiet.err


def _weights(fusery: Fusery, name: str) -> str:
    files = fusery("show", name, "--json").json["files"]
    return str(next(file["sha256"] for file in files if file["path"] == "adapters.safetensors"))


def test_yanked_adapters_are_left_out(stocked: Fusery) -> None:
    stocked("yank", FIRST, "--reason", "bad")
    ran = stocked("fuse", "--all", "--jobs", "1", "--json")

    assert (ran.code, [document["adapter"] for document in ran.json]) == (0, [SECOND])


def test_bundles_of_all_and_only_what_is_missing_the_second_time(stocked: Fusery, tmp_path: Path) -> None:
    words = ("materialize", "--all", "--jobs", "1", "--json", "out/{name}")
    first = stocked(*words)
    before = (tmp_path / "out" / SECOND / "config.json").stat().st_mtime_ns
    for path in (tmp_path / "out" / FIRST).iterdir():
        path.unlink()
    second = stocked(*words)

    assert (first.code, second.code) == (0, 0)
    assert [document["adapters"] for document in first.json] == [[FIRST], [SECOND]]
    assert [document["existed"] for document in first.json + second.json] == [False, False, False, True]
    assert (tmp_path / "out" / SECOND / "config.json").stat().st_mtime_ns == before
    assert first.json[1]["digest"] == second.json[1]["digest"]


def test_a_bundle_by_other_choices_does_not_count_as_done(stocked: Fusery, tmp_path: Path) -> None:
    card = tmp_path / "card.md.j2"
    words = ("materialize", "--all", "--jobs", "1", "--json", "out/{name}", "--force")
    stocked(*words)
    card.write_text("Ours: {{ name }}")
    other = stocked(*words, "--card", card)
    assert (other.code, [document["existed"] for document in other.json]) == (0, [False, False])
    assert (tmp_path / "out" / FIRST / "README.md").read_text() == f"Ours: {FIRST}"
    card.write_text("Theirs: {{ name }}")
    changed = stocked(*words, "--card", card)
    again = stocked(*words, "--card", card)
    assert [document["existed"] for document in changed.json + again.json] == [False, False, True, True]


def test_unfused_is_not_what_was_fused(stocked: Fusery, tmp_path: Path) -> None:
    words = ("materialize", "--all", "--jobs", "1", "--json", "out/{name}", "--target", "vllm", "--force")
    fused = stocked(*words, "--fused")
    adapters = stocked(*words, "--unfused")
    assert (fused.code, adapters.code) == (0, 0)
    assert [document["fused"] for document in adapters.json] == [None, None]
    assert (tmp_path / "out" / FIRST / "adapters" / FIRST / "adapter_model.safetensors").is_file()


def test_a_bundle_of_another_precision_does_not_count_as_done(stocked: Fusery) -> None:
    stocked("materialize", SECOND, f"out/{SECOND}")
    ran = stocked(
        "materialize", "--all", "--quantize", "8", "--accept-loss", "--jobs", "1", "--json", "out/{name}"
    )

    assert ran.code == 1
    assert ran.json[1]["error"]["code"] == "already_exists"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fuse",), "--all"),
        (("fuse", FIRST, "--all"), "no REF"),
        (("fuse", FIRST, "--where", "rank > 1"), "--all"),
        (("fuse", FIRST, "--jobs", "2"), "--all"),
        (("fuse", "--all", "--jobs", "0"), "--jobs"),
        (("fuse", "--all", "--where", "rnk > 1"), "rnk"),
        (("fuse", "--all", "--task", "nobody"), "nobody"),
        (("materialize", "--all", "out"), "{name}"),
        (("materialize", FIRST), "DEST"),
        (("materialize", "--all"), "DEST"),
        (("audit", FIRST, "--jobs", "2"), "without REF"),
    ],
)
def test_what_cannot_be_meant_is_refused(stocked: Fusery, words: tuple[str, ...], message: str) -> None:
    ran = stocked(*words)

    assert ran.code == 2
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_audit_of_everything(stocked: Fusery) -> None:
    for words in (("audit",), ("audit", "--all", "--jobs", "2")):
        ran = stocked(*words, "--json")
        assert ran.code == 0
        assert (ran.json["ok"], ran.json["checked"]["adapter"]) == (True, 2)


def test_a_cluster_that_is_not_there(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_CLUSTER", "http://somewhere")
    ran = stocked("fuse", "--all")
    assert (ran.code, "tcp://" in ran.err) == (2, True)

    monkeypatch.setenv("FUSERY_CLUSTER", "tcp://127.0.0.1:9")
    monkeypatch.setattr("fusery.registry.workers.cluster.PATIENCE", 1)
    ran = stocked("fuse", "--all")
    assert (ran.code, "no scheduler answers" in ran.err) == (2, True)
    assert "Traceback" not in ran.err


def test_a_cluster_without_dask(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSERY_CLUSTER", "tcp://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "distributed", None)
    ran = stocked("fuse", "--all")

    assert ran.code == 2
    assert "pip install " in ran.err and "[dask]" in ran.err


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_a_state_to_go_on_from(
    stocked: Fusery, tmp_path: Path, tiny_base: Path, how: signal.Signals
) -> None:
    for number in range(6):
        adapter = tiny_models.make_adapter(tmp_path / f"more{number}", tiny_base, seed=10 + number)
        assert stocked("register", adapter, "--base", "tiny", "--task", "more").code == 0
    with interrupts():
        process = subprocess.Popen(
            [*MAIN, "fuse", "--all", "--jobs", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    assert process.stderr is not None
    process.stderr.readline()  # one is done
    process.send_signal(how)
    _, err = process.communicate(timeout=240)

    assert process.returncode == 128 + how
    assert "Traceback" not in err
    started = time.monotonic()
    ran = stocked("fuse", "--all", "--jobs", "1", "--json")
    assert ran.code == 0
    assert time.monotonic() - started < TTL, "it waited for leases of processes that are gone"
    cached = [document["cached"] for document in ran.json]
    assert len(cached) == 8
    assert any(cached)
    assert stocked("audit", "--json").json["ok"]


@pytest.mark.slow
def test_a_cluster_does_it_and_survives_a_killed_worker(
    stocked: Fusery, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        adapter = tiny_models.make_adapter(tmp_path / f"more{number}", tiny_base, seed=10 + number)
        assert stocked("register", adapter, "--base", "tiny", "--task", "more").code == 0
    with cluster(tmp_path / "cluster", FUSERY_HOME=str(tmp_path / "home")) as running:
        running.add_worker()
        environment = {**os.environ, "FUSERY_CLUSTER": running.address}
        process = subprocess.Popen(
            [*MAIN, "fuse", "--all", "--json"], env=environment, stdout=subprocess.PIPE, text=True
        )
        fused = tmp_path / "home" / "cache" / "fused"
        wait_until(lambda: fused.is_dir() and any(fused.iterdir()))
        running.kill(0)
        running.add_worker()
        out, _ = process.communicate(timeout=180)

        assert process.returncode == 0, out
        documents = json.loads(out)
        assert len({document["key"] for document in documents}) == 8
        assert not any("error" in document for document in documents)
        monkeypatch.setenv("FUSERY_CLUSTER", running.address)
        assert stocked("audit", "--json").json["ok"]
        again = stocked("fuse", "--all", "--json").json
        assert all(document["cached"] for document in again)
        wrong = running.add_worker(FUSERY_HOME=str(tmp_path / "elsewhere"))
        running.kill(1)
        ran = stocked("fuse", "--all", "--json")
        assert ran.code == 1
        assert {document["error"]["code"] for document in ran.json} <= {"schema", "bad_input"}
        assert wrong.poll() is None
    events = stocked("events", "--json").json
    assert sum(event["action"] == "fused.made" for event in events) in (0, 8)


# The scheduler is asked all the time, so that it is asked in the moment in which it goes, too.
HASTY = MAIN[-1].replace(
    "from", "import fusery.registry.workers.cluster as c; c.ALONE = 4; c.LOOK = 0.01; from", 1
)


def on_record(home: Path) -> int:
    """Return how many fused models are on record."""
    with closing(sqlite3.connect(f"file:{home / 'fusery.db'}?mode=ro", uri=True)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM fused").fetchone()
    return int(count)


def _kill_scheduler(running: RunningCluster) -> None:
    running.scheduler.kill()


def _stop_scheduler(running: RunningCluster) -> None:
    running.scheduler.send_signal(signal.SIGSTOP)


def _kill_workers(running: RunningCluster) -> None:
    running.kill(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (_kill_scheduler, "went away"),
        (_stop_scheduler, "does not answer any more"),
        (_kill_workers, "all of its workers went away"),
    ],
)
def test_a_cluster_that_is_lost_is_said_so_within_a_minute_and_the_next_run_goes_on(
    stocked: Fusery, tmp_path: Path, tiny_base: Path, trouble: Callable[[RunningCluster], None], reason: str
) -> None:
    for number in range(6):
        adapter = tiny_models.make_adapter(tmp_path / f"more{number}", tiny_base, seed=10 + number)
        assert stocked("register", adapter, "--base", "tiny", "--task", "more").code == 0
    with cluster(tmp_path / "cluster", FUSERY_HOME=str(tmp_path / "home")) as running:
        running.add_worker()
        environment = {**os.environ, "FUSERY_CLUSTER": running.address}
        process = subprocess.Popen(
            [*MAIN[:-1], HASTY, "fuse", "--all"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # In the cache it is before it is on record.
        wait_until(lambda: process.poll() is not None or on_record(tmp_path / "home") > 0)
        trouble(running)
        _, err = process.communicate(timeout=240)
    assert (process.returncode, reason in err, "Traceback" in err) == (2, True, False), err
    # With the patience that it has otherwise, too.
    assert 2 * LOOK + max(ALONE, ANSWER) + GOODBYE < 60
    again = stocked("fuse", "--all", "--jobs", "1", "--json")
    assert again.code == 0
    assert len(again.json) == 8 and any(document["cached"] for document in again.json)
    assert stocked("audit", "--json").json["ok"]
