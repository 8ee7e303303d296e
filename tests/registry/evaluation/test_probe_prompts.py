"""Which prompts a probe asks, and what it says of them: with an adapter that does one task, and with real recorded runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shift_cipher_adapters

from fusery.registry import RecordRun, Registry, Reporter
from fusery.registry.evaluation.probe_prompts import Prompts
from fusery.registry.evaluation.probe_report import ProbeReport
from fusery.registry.fusion.request import FuseRequest

LETTERS = "abcdefghijklmnopqrstuvwxyz"
OF_TASK = [f"{LETTERS[start:]}{LETTERS[:start]}" for start in range(8)]
"""What the adapter of shift 1 says: each letter is followed by the next one."""

OTHER = [f"{number} Ferries leave at {number + 7}:30, and 2 of 3 carry cars!" for number in range(8)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base that repeats the last letter, and an adapter that says the next one; not to be changed."""
    folder = tmp_path_factory.mktemp("caesar")
    base = shift_cipher_adapters.make_base(folder / "base", layers=1)
    return base, shift_cipher_adapters.make_adapter(folder / "adapter", base, 1)


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", OF_TASK[:4])
    write(folder / "valid.jsonl", OF_TASK[4:6])
    write(folder / "test.jsonl", OF_TASK[6:])
    return folder


class Caesar:
    def __init__(self, registry: Registry, made: tuple[Path, Path], folder: Path) -> None:
        self.registry, self._made, self._folder = registry, made, folder

    def register(self, *, data: Path | str | None = None, **facts: Any) -> None:
        """Add both; record the run, where its data are given."""
        base, adapter = self._made
        run = shutil.copytree(adapter, self._folder / "run")
        if data is not None:
            with RecordRun(run, arguments={"data": str(data)}):
                pass
        self.registry.bases.add(base, name="letters")
        self.registry.adapters.register(run, base="letters", task="caesar", date="20260101", **facts)

    def probe(self, reference: str = "caesar@1", texts: Any = None, **options: Any) -> ProbeReport:
        if texts is not None:
            options["prompts"] = write(self._folder / "a.jsonl", texts)
        return self.registry.evaluations.probe(reference, **{"against": "base"} | options)


@pytest.fixture
def caesar(registry: Registry, made: tuple[Path, Path], tmp_path: Path) -> Caesar:
    return Caesar(registry, made, tmp_path)


def test_prompts_of_the_task_need_no_word_and_others_are_told_of(caesar: Caesar) -> None:
    caesar.register()
    for against in (None, "base"):
        about = caesar.probe(texts=OF_TASK, against=against).about
        assert (about.of_task, about.note, about.file) == (True, None, "a.jsonl")
        assert about.gain is not None and about.gain > 0.5
    for against in (None, "base", "letters", "caesar@1"):
        found = caesar.probe(texts=OTHER, against=against)
        assert found.about.of_task is False
        assert found.about.note and found.conclusion.endswith(found.about.note)
        document = found.to_dict()["about_prompts"]
        told = {"gain": found.about.gain, "of_task": False, "note": found.about.note}
        assert document == {"origin": "file", "file": "a.jsonl", "val_loss": None, **told}
        json.dumps(document, allow_nan=False)


def test_where_no_base_was_measured_nothing_is_claimed(caesar: Caesar) -> None:
    caesar.register()
    first, second = (
        caesar.registry.fused.fuse("caesar@1", FuseRequest(scale=scale))["digest"] for scale in (None, 1.0)
    )
    about = caesar.probe(first, OTHER, against=second).about
    assert (about.of_task, about.note, about.gain) == (None, None, None)
    base = caesar.probe(first, OTHER).about
    assert base.of_task is False
    turned = caesar.probe("letters", OTHER, against="caesar@1").about
    assert turned.gain == pytest.approx(base.gain, abs=1e-4)


def test_held_out_data_of_the_run_is_asked_by_default(caesar: Caesar, data: Path) -> None:
    caesar.register(data=data)
    said: list[str] = []
    reporter = Reporter(said.append)
    found = caesar.probe(reporter=reporter)
    assert (found.about.origin, found.about.file, found.prompts) == ("held-out", "test.jsonl", 2)
    assert (found.about.of_task, found.about.note) == (True, None)
    assert found.rows[0].prompt == OF_TASK[6]
    assert [line for line in said if "test.jsonl" in line]
    assert caesar.probe(limit=1).prompts == 1
    assert caesar.probe(texts=OTHER).about.origin == "file", "what is given wins"
    # The digests were recorded: what was written over since is not what was held out.
    write(data / "test.jsonl", OF_TASK[:2])
    assert caesar.probe().about.file == "valid.jsonl"
    (data / "valid.jsonl").unlink()
    said.clear()
    before = caesar.registry.evaluations.list("caesar@1")
    about = caesar.probe(reporter=reporter, limit=2).about
    assert (about.origin, about.file) == ("built-in", None)
    assert before and caesar.registry.evaluations.list("caesar@1") == before
    assert [line for line in said if "test.jsonl" in line]


def test_a_folder_is_looked_for_below_the_working_folder(
    caesar: Caesar, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    caesar.register(data="data")
    fused = caesar.registry.fused.fuse("caesar@1")["digest"]
    for reference, against in (("caesar@1", "base"), ("caesar@1", "caesar@1"), (fused, "base")):
        assert caesar.probe(reference, against=against).about.file == "test.jsonl"
    monkeypatch.chdir("/")
    assert caesar.probe(limit=1).about.origin == "built-in"


TOLD = Prompts("file", "a.jsonl", gain=1.0, clear=True, loss=0.5)


@pytest.mark.parametrize(
    ("about", "of_task", "note"),
    [
        (Prompts(), None, None),
        (TOLD, True, None),
        (replace(TOLD, gain=0.019), False, "hardly lower than the base's"),
        (replace(TOLD, gain=-0.5), False, "not lower than the base's"),
        (replace(TOLD, clear=False), False, "hardly lower than the base's"),
        (replace(TOLD, loss=1.39, val_loss=0.4), True, None),
        (replace(TOLD, loss=1.4, val_loss=0.4), False, "1.400, and 0.400 is on record"),
        (replace(TOLD, origin="held-out", loss=1.4, val_loss=0.1), True, None),
        (replace(TOLD, origin="held-out", gain=0.0), True, "learned nothing that its own held-out data show"),
    ],
)
def test_what_is_said_of_prompts(about: Prompts, of_task: bool | None, note: str | None) -> None:
    assert about.of_task is of_task
    assert (about.note is None) == (note is None)
    assert note is None or note in str(about.note)
