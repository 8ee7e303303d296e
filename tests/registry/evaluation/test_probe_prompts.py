"""Which prompts a probe asks, and what it says of them: with an adapter that does one task, and with real recorded runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shift_cipher_adapters

from fusery.registry import RecordRun, Registry, Reporter
from fusery.registry.errors import UnknownReferenceError
from fusery.registry.evaluation.probe_prompts import Prompts
from fusery.registry.fusion.request import FuseRequest
from fusery.storage.errors import FuseryError

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
    """The data folder of a run."""
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", OF_TASK[:4])
    write(folder / "valid.jsonl", OF_TASK[4:6])
    write(folder / "test.jsonl", OF_TASK[6:])
    return folder


def register(
    registry: Registry, made: tuple[Path, Path], folder: Path, *, data: Path | str | None = None, **facts: Any
) -> None:
    """Add the base, and the adapter as a run left it that was recorded."""
    base, adapter = made
    run = folder / "run"
    run.mkdir()
    for path in adapter.iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    if data is not None:
        with RecordRun(run, arguments={"data": str(data)}):
            pass
    registry.bases.add(base, name="letters")
    registry.adapters.register(run, base="letters", task="caesar", date="20260101", **facts)


def test_prompts_of_the_task_need_no_word(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    register(registry, made, tmp_path)
    for against in (None, "base"):
        found = registry.adapters.probe(
            "caesar@1", against=against, prompts=write(tmp_path / "a.jsonl", OF_TASK)
        )
        assert (found.about.of_task, found.about.note, found.about.file) == (True, None, "a.jsonl")
        assert found.about.gain is not None
        assert found.about.gain > 0.5
        assert "unlike" not in found.conclusion


@pytest.mark.parametrize("against", [None, "base", "letters", "caesar@1"])
def test_prompts_of_something_else_are_told_of(
    against: str | None, registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    register(registry, made, tmp_path)
    found = registry.adapters.probe("caesar@1", against=against, prompts=write(tmp_path / "b.jsonl", OTHER))
    assert found.about.of_task is False
    assert found.conclusion.endswith("They do not tell how it does its task.")
    assert "These prompts are unlike what the adapter was trained on" in found.conclusion
    document = found.to_dict()["about_prompts"]
    assert document == {
        "origin": "file",
        "file": "b.jsonl",
        "gain": found.about.gain,
        "val_loss": None,
        "of_task": False,
        "note": found.about.note,
    }
    json.dumps(document, allow_nan=False)


def test_a_loss_far_above_the_recorded_one_is_told_of(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    register(registry, made, tmp_path, val_loss=0.01)
    # Nearly all of it is of the task: the loss falls, and stays far from what is on record, for the end of a text is none.
    mixed = [text[: 20 + at] for at, text in enumerate(OF_TASK)]
    found = registry.adapters.probe("caesar@1", against="base", prompts=write(tmp_path / "c.jsonl", mixed))
    assert found.about.gain is not None
    assert found.about.gain > 0.02
    assert found.about.of_task is False
    assert "These prompts are unlike the adapter's validation data" in found.conclusion
    assert "0.010 is on record for those" in found.conclusion


def test_where_no_base_was_measured_nothing_is_claimed(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    register(registry, made, tmp_path)
    first, second = (
        registry.fused.fuse("caesar@1", FuseRequest(scale=scale))["digest"] for scale in (None, 1.0)
    )
    found = registry.adapters.probe(first, against=second, prompts=write(tmp_path / "b.jsonl", OTHER))
    assert (found.about.of_task, found.about.note, found.about.gain) == (None, None, None)
    base = registry.adapters.probe(first, against="base", prompts=tmp_path / "b.jsonl")
    assert base.about.of_task is False
    turned = registry.adapters.probe("letters", against="caesar@1", prompts=tmp_path / "b.jsonl")
    assert turned.about.gain == pytest.approx(base.about.gain, abs=1e-4)


def test_held_out_data_of_the_run_is_asked_by_default(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, data: Path
) -> None:
    register(registry, made, tmp_path, data=data)
    said: list[str] = []
    found = registry.adapters.probe("caesar@1", against="base", reporter=Reporter(said.append))
    assert (found.about.origin, found.about.file, found.prompts) == ("held-out", "test.jsonl", 2)
    assert (found.about.of_task, found.about.note) == (True, None)
    assert found.rows[0].prompt == OF_TASK[6]
    assert "asking what test.jsonl of its run has" in said
    assert registry.adapters.probe("caesar@1", against="base", limit=1).prompts == 1
    # The digests were recorded: what was written over since is not what was held out.
    write(data / "test.jsonl", OF_TASK[:2])
    assert registry.adapters.probe("caesar@1", against="base").about.file == "valid.jsonl"
    (data / "valid.jsonl").unlink()
    said.clear()
    before = registry.evaluations.list("caesar@1")
    found = registry.adapters.probe("caesar@1", against="base", reporter=Reporter(said.append), limit=2)
    assert (found.about.origin, found.about.file) == ("built-in", None)
    assert before and registry.evaluations.list("caesar@1") == before
    assert any("test.jsonl of its run is not in" in line for line in said)


def test_a_folder_is_looked_for_below_the_working_folder(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    register(registry, made, tmp_path, data="data")
    assert registry.adapters.probe("caesar@1", against="base").about.file == "test.jsonl"
    assert registry.adapters.probe("caesar@1", against="caesar@1").about.file == "test.jsonl"
    fused = registry.fused.fuse("caesar@1")["digest"]
    assert registry.adapters.probe(fused, against="base").about.file == "test.jsonl"
    monkeypatch.chdir("/")
    assert registry.adapters.probe("caesar@1", against="base", limit=1).about.origin == "built-in"


def test_prompts_that_are_given_win(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path, data: Path
) -> None:
    register(registry, made, tmp_path, data=data)
    found = registry.adapters.probe("caesar@1", against="base", prompts=write(tmp_path / "b.jsonl", OTHER))
    assert (found.about.origin, found.about.file, found.about.of_task) == ("file", "b.jsonl", False)


def test_bad_prompts_are_told_before_anything_is_fused(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    register(registry, made, tmp_path)
    with pytest.raises(FuseryError, match="there is no file"):
        registry.adapters.probe("caesar@1", prompts=tmp_path / "absent.jsonl")
    with pytest.raises(UnknownReferenceError):
        registry.fused.fidelity("caesar@1")


def test_progress_is_told_in_tokens_of_every_model(
    registry: Registry, made: tuple[Path, Path], tmp_path: Path
) -> None:
    register(registry, made, tmp_path)
    path = write(tmp_path / "a.jsonl", OF_TASK)
    for against, passes in ((None, 3), ("base", 2)):
        told: list[tuple[int, int]] = []

        class Answering(Reporter):
            heard, counts = told, False

            def begin(self, what: str) -> None:
                self.counts = what == "tokens"

            def progress(self, done: int, total: int) -> None:
                if self.counts:
                    self.heard.append((done, total))

        registry.adapters.probe("caesar@1", against=against, prompts=path, reporter=Answering())
        (total,) = {total for _, total in told}
        assert told[-1] == (total, total)
        assert len(told) == passes * len(OF_TASK)
        assert total % passes == 0
        assert [done for done, _ in told] == sorted({done for done, _ in told})


TOLD = Prompts("file", "a.jsonl", gain=1.0, clear=True, loss=0.5)


@pytest.mark.parametrize(
    ("about", "of_task", "note"),
    [
        (Prompts(), None, None),
        (TOLD, True, None),
        (replace(TOLD, val_loss=0.4), True, None),
        (replace(TOLD, gain=0.019), False, "hardly lower than the base's"),
        (replace(TOLD, gain=-0.5), False, "not lower than the base's"),
        (replace(TOLD, clear=False), False, "hardly lower than the base's"),
        (replace(TOLD, loss=1.39, val_loss=0.4), True, None),
        (replace(TOLD, loss=1.4, val_loss=0.4), False, "1.400, and 0.400 is on record"),
        (replace(TOLD, loss=5.0, val_loss=2.6), True, None),
        (replace(TOLD, origin="held-out", loss=1.4, val_loss=0.1), True, None),
        (replace(TOLD, origin="held-out", gain=0.0), True, "learned nothing that its own held-out data show"),
    ],
)
def test_what_is_said_of_prompts(about: Prompts, of_task: bool | None, note: str | None) -> None:
    assert about.of_task is of_task
    assert (about.note is None) == (note is None)
    assert note is None or note in str(about.note)
