"""`fuse --all`, `materialize --all` and `audit --jobs` through the command line."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import tiny_models
from dask_cluster import cluster
from fixture_types import Fusery
from programs import interrupts
from waiting import wait_until

from .conftest import require_refusals, started

FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"
ALL = ("fuse", "--all", "--jobs", "1")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FUSERY_CLUSTER", raising=False)


def test_one_failure_does_not_stop_the_others(stocked: Fusery) -> None:
    assert stocked(*ALL, "--with", f"{FIRST}:nan").code == 2
    files = stocked("show", FIRST, "--json").json["files"]
    digest = next(file["sha256"] for file in files if file["path"] == "adapters.safetensors")
    blob = next(Path("home/store/blobs").rglob(digest))
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1])
    ran = stocked(*ALL, "--json")
    assert (ran.code, ran.json[0].keys()) == (1, {"adapter", "error"})
    assert ran.json[0]["error"].keys() == {"code", "message", "hint"}
    assert ran.json[1]["adapter"] == SECOND
    human = stocked(*ALL)
    assert (human.code, "1 fused, 1 failed." in human.out) == (1, True)
    quiet = stocked(*ALL, "-q")
    assert (len(quiet.out.splitlines()), FIRST in quiet.err) == (1, True)


def test_refusals(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    require_refusals(
        stocked,
        ("fuse", "--all"),
        (f"fuse {FIRST} --all", "no REF"),
        (("fuse", FIRST, "--where", "rank > 1"), "--all"),
        (f"fuse {FIRST} --jobs 2", "--all"),
        ("fuse --all --jobs 0", "--jobs"),
        (("fuse", "--all", "--where", "rnk > 1"), "rnk"),
        ("fuse --all --task nobody", "nobody"),
        ("materialize --all out", "{name}"),
        (f"materialize {FIRST}", "usage"),
        ("materialize --all", "usage"),
        (f"audit {FIRST} --jobs 2", "--jobs"),
    )
    monkeypatch.setenv("FUSERY_CLUSTER", "http://somewhere")
    require_refusals(stocked, ("fuse --all", "tcp://"))
    monkeypatch.setenv("FUSERY_CLUSTER", "tcp://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "distributed", None)
    require_refusals(stocked, ("fuse --all", "[dask]"))


@pytest.fixture
def eight(stocked: Fusery, tmp_path: Path, tiny_base: Path) -> Fusery:
    """The command line on a registry with six more adapters."""
    for number in range(6):
        adapter = tiny_models.make_adapter(tmp_path / f"more{number}", tiny_base, seed=10 + number)
        assert stocked("register", adapter, "--base", "tiny", "--task", "more").code == 0
    return stocked


@pytest.mark.slow
@pytest.mark.timing
def test_the_next_run_goes_on_after_an_interrupt(eight: Fusery) -> None:
    with interrupts():
        process = started("fuse", "--all", "--jobs", "2")
    assert process.stderr is not None
    process.stderr.readline()  # one is done
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert (process.returncode, "Traceback" in err) == (128 + signal.SIGINT, False)
    ran = eight(*ALL, "--json")
    cached = [document["cached"] for document in ran.json]
    assert (ran.code, len(cached), any(cached)) == (0, 8, True)
    assert eight("audit", "--json").json["ok"]


@pytest.mark.slow
@pytest.mark.timing
def test_a_cluster_does_it_and_survives_a_killed_worker(
    eight: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cluster(tmp_path / "cluster", FUSERY_REGISTRY=str(tmp_path / "home")) as running:
        running.add_worker()
        process = started("fuse", "--all", "--json", FUSERY_CLUSTER=running.address)
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
        assert eight("audit", "--json").json["ok"]
        assert all(document["cached"] for document in eight("fuse", "--all", "--json").json)
        wrong = running.add_worker(FUSERY_REGISTRY=str(tmp_path / "elsewhere"))
        running.kill(1)
        ran = eight("fuse", "--all", "--json")
        assert ran.code == 1
        assert {document["error"]["code"] for document in ran.json} <= {"schema", "bad_input"}
        assert wrong.poll() is None
    events = eight("log", "--json").json
    assert sum(event["action"] == "fused.made" for event in events) in (0, 8)
