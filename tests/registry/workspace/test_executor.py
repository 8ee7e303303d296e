"""The executors: every item once, and failures beside results."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bulk_workers import break_off, die, die_once, double

from fusery.registry.workspace.executor import AHEAD, ProcessPool, Serial, Workers

pytestmark = pytest.mark.timing

KINDS = [Serial(), ProcessPool(2)]


@pytest.mark.parametrize("workers", KINDS)
def test_every_item_has_one_outcome(workers: Workers) -> None:
    items = [*range(20), 7, 8]  # more than are handed out at a time
    outcomes = list(workers.run(double, items))
    assert sorted(outcome.item for outcome in outcomes) == sorted(items)
    for outcome in outcomes:
        if outcome.item % 2:
            assert outcome.failure is not None
            assert (outcome.failure.code, outcome.failure.hint) == ("bad_input", "take another")
        else:
            assert (outcome.result, outcome.failure) == (2 * outcome.item, None)


@pytest.mark.parametrize("workers", KINDS)
def test_what_nobody_expected_is_raised(workers: Workers) -> None:
    with pytest.raises(ZeroDivisionError):
        list(workers.run(break_off, [1, 2]))


def test_processes_of_a_caller_that_stops_are_ended() -> None:
    items = iter([0, *[600] * 40])
    outcomes = iter(ProcessPool(2).run(time.sleep, items))
    assert next(outcomes).item == 0
    assert len(list(items)) >= 41 - 2 * AHEAD - 1, (
        "at most AHEAD items a process are handed out, and one for the outcome"
    )
    outcomes.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_killed_process_costs_nothing_but_time(tmp_path: Path) -> None:
    items = [str(tmp_path / name) for name in ("a", "b", "deadly", "c", "d", "e")]
    outcomes = list(ProcessPool(2).run(die_once, items))
    assert sorted(outcome.result or "" for outcome in outcomes) == ["a", "b", "c", "d", "deadly", "e"]


@pytest.mark.slow
def test_what_kills_again_and_again_is_given_up() -> None:
    outcomes = list(ProcessPool(1).run(die, ["x", "y"]))
    assert [outcome.failure.code for outcome in outcomes if outcome.failure] == ["worker_lost", "worker_lost"]


def test_processes_do_not_run_the_script_of_the_caller_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from fusery.registry.workspace.executor import ProcessPool\n"
        "with open(sys.argv[1], 'a') as log:\n"
        "    log.write('ran\\n')\n"
        "print(sorted(outcome.result for outcome in ProcessPool(2).run(str.upper, ['a', 'b', 'c'])))\n"
    )
    for words in ([str(script)], ["-"]):
        log = tmp_path / "log"
        log.unlink(missing_ok=True)
        command = [sys.executable, "-P", *words, str(log)]
        done = subprocess.run(command, input=script.read_text(), capture_output=True, text=True, check=False)
        assert (done.stdout, log.read_text()) == ("['A', 'B', 'C']\n", "ran\n"), done.stderr


def test_processes_import_nothing_from_the_folder_that_one_is_in(tmp_path: Path) -> None:
    for name in ("socket", "selectors", "multiprocessing", "pickle"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()\n")
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(
        "from fusery.registry.workspace.executor import ProcessPool\n"
        "assert [each.result for each in ProcessPool(1).run(len, ['ab'])] == [2]\n"
    )
    # As the command line is started: not by `-P`, which would go on to its processes.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "ran").exists()
