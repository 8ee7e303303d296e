"""`probe`: what two models answer, and what is said of that and of the prompts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shift_cipher_adapters
import tiny_models

from fusery.registry import RecordRun, Registry, Reporter
from fusery.registry.comparison.reports import ProbeReport
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.fusion.request import FuseRequest


def test_a_fused_model_against_base_and_adapter(stocked: Registry, prompts: Path) -> None:
    found = stocked.evaluations.probe("course_rec@1", prompts=prompts)
    document = found.to_dict()
    assert json.dumps(document, allow_nan=False)
    adapter, fused = stocked.adapters.show("course_rec@1"), stocked.fused.fuse("course_rec@1")
    assert fused.cached
    named = {"kind": "adapter", "name": adapter["name"], "digest": adapter["digest"], "precision": None}
    assert document["a"] == {**named, "format": None}
    kept = {"kind": "fused", "digest": fused["digest"], "precision": "keep", "format": "keep"}
    assert document["b"] == {**named, **kept}
    assert (found.prompts, len(found.rows)) == (2, 2)
    assert found.tokens == sum(row.tokens for row in found.rows)
    assert 0 < found.kl < 1e-3
    assert found.loss_base is not None
    assert found.kl < stocked.evaluations.probe("course_rec@1", against="base", prompts=prompts).kl / 50
    assert found.rows[0].prompt == "Which course?"


def test_an_adapter_against_its_base_and_another_version(stocked: Registry, prompts: Path) -> None:
    found = stocked.evaluations.probe("course_rec@1", against="base", prompts=prompts)
    assert (found.b.kind, found.b.name) == ("base", "tiny")
    assert found.kl > 1e-4
    assert found.loss_base == found.loss_b
    by_name = stocked.evaluations.probe("course_rec@1", against="tiny", prompts=prompts)
    assert replace(by_name, seconds=0) == replace(found, seconds=0)
    found = stocked.evaluations.probe("course_rec@1", against="course_rec@2", prompts=prompts)
    assert [side.name for side in (found.a, found.b)] == ["course_rec_v1_20260115", "course_rec_v2_20260201"]
    assert found.kl > 1e-4
    other = stocked.evaluations.probe("course_rec@2", against="course_rec@1", prompts=prompts)
    assert (other.loss_a, other.loss_b) == (found.loss_b, found.loss_a)
    assert other.loss_base == found.loss_base
    same = stocked.evaluations.probe("course_rec@1", against="course_rec@1", prompts=prompts)
    assert (same.kl, same.top1_agreement) == (0, 1)


def test_a_fused_model_by_its_digest(stocked: Registry, prompts: Path) -> None:
    fused = stocked.fused.fuse("course_rec@1")
    digest = fused["digest"][:12]
    one = stocked.evaluations.probe("course_rec@1", prompts=prompts)
    other = stocked.evaluations.probe("course_rec@1", against=digest, prompts=prompts)
    assert replace(one, seconds=0) == replace(other, seconds=0)
    base = stocked.evaluations.probe(digest, against="base", prompts=prompts)
    assert (base.a.kind, base.b.kind, base.loss_base) == ("fused", "base", base.loss_b)
    assert base.loss_b == one.loss_base
    with pytest.raises(BadInputError):
        stocked.evaluations.probe(digest)
    stocked.workspace.cache.remove(fused["key"])
    with pytest.raises(BadInputError) as caught:
        stocked.evaluations.probe("course_rec@1", against=digest)
    assert caught.value.hint == "fusery fuse course_rec_v1_20260115 --as keep"


def test_a_model_on_another_form_of_the_base_is_compared_on_that_form(
    sqlite_registry: Registry, prompts: Path, tmp_path: Path
) -> None:
    registry, small = sqlite_registry, {"layers": 1, "layout": "mlx"}
    dense = tiny_models.make_base(tmp_path / "dense", **small)  # type: ignore[arg-type]
    four = tiny_models.make_base(tmp_path / "four", bits=4, group_size=32, **small)  # type: ignore[arg-type]
    for folder in (dense, four):
        registry.bases.add(folder, name=folder.name)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", dense, update=0.3, num_layers=1)
    registry.adapters.register(adapter, base="dense", task="mail", date="20260115")
    onto = FuseRequest("dequantize", base="four")
    found = registry.evaluations.probe(
        "mail@1", against=registry.fused.fuse("mail@1", onto).key, prompts=prompts
    )
    own = registry.evaluations.probe("mail@1", against="base", prompts=prompts)
    assert found.kl < 1e-3 and found.loss_base != own.loss_base
    assert found.loss_base == registry.evaluations.probe("four", against="dense", prompts=prompts).loss_a
    losses = [row for row in registry.adapters.show("mail@1").evaluations if row.metric == "probe.loss"]
    assert found.loss_a not in [row.value for row in losses]


def test_other_vocabularies_are_refused(
    stocked: Registry, tiny_base: Path, prompts: Path, tmp_path: Path
) -> None:
    stocked.bases.add(tiny_models.make_base(tmp_path / "same", seed=8, layers=1), name="same", reference=True)
    assert stocked.evaluations.probe("course_rec@1", against="same", prompts=prompts).kl > 1e-3
    folder = tiny_models.make_base(tmp_path / "other", layers=1)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    stocked.bases.add(folder, name="other")
    with pytest.raises(BadInputError):
        stocked.evaluations.probe("course_rec@1", against="other", prompts=prompts)


def test_what_has_no_meaning_is_refused(stocked: Registry, prompts: Path) -> None:
    summed = FuseRequest(extras=(("course_rec@2", 1.0),))
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("tiny", {}),
        ("tiny", {"against": "base"}),
        ("course_rec@1", {"against": "base", "request": FuseRequest("keep")}),
        ("course_rec@1", {"request": FuseRequest(scale=2.0)}),
        ("course_rec@1", {"request": summed}),
        ("course_rec@1", {"limit": 0}),
    ]
    for reference, options in wrong:
        with pytest.raises(BadInputError) as caught:
            stocked.evaluations.probe(reference, prompts=prompts, **options)
        assert caught.value.hint
    for words in ({"reference": "course_rec@9"}, {"reference": "course_rec@1", "against": "nothing@1"}):
        with pytest.raises(UnknownReferenceError):
            stocked.evaluations.probe(**words)


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
        about = caesar.probe(texts=OF_TASK, against=against).about_prompts
        assert (about.of_task, about.note, about.file) == (True, None, "a.jsonl")
        assert about.gain is not None and about.gain > 0.5
    for against in (None, "base", "letters", "caesar@1"):
        found = caesar.probe(texts=OTHER, against=against)
        assert found.about_prompts.of_task is False
        assert found.about_prompts.note and found.conclusion.endswith(found.about_prompts.note)
        document = found.to_dict()["about_prompts"]
        told = {"gain": found.about_prompts.gain, "of_task": False, "note": found.about_prompts.note}
        assert document == {"origin": "file", "file": "a.jsonl", "val_loss": None, **told}
        json.dumps(document, allow_nan=False)


def test_where_no_base_was_measured_nothing_is_claimed(caesar: Caesar) -> None:
    caesar.register()
    first, second = (
        caesar.registry.fused.fuse("caesar@1", FuseRequest(scale=scale))["digest"] for scale in (None, 1.0)
    )
    about = caesar.probe(first, OTHER, against=second).about_prompts
    assert (about.of_task, about.note, about.gain) == (None, None, None)
    base = caesar.probe(first, OTHER).about_prompts
    assert base.of_task is False
    turned = caesar.probe("letters", OTHER, against="caesar@1").about_prompts
    assert turned.gain == pytest.approx(base.gain, abs=1e-4)


def test_held_out_data_of_the_run_is_asked_by_default(caesar: Caesar, data: Path) -> None:
    caesar.register(data=data)
    said: list[str] = []
    reporter = Reporter(said.append)
    found = caesar.probe(reporter=reporter)
    assert (found.about_prompts.origin, found.about_prompts.file, found.prompts) == (
        "held-out",
        "test.jsonl",
        2,
    )
    assert (found.about_prompts.of_task, found.about_prompts.note) == (True, None)
    assert found.rows[0].prompt == OF_TASK[6]
    assert [line for line in said if "test.jsonl" in line]
    assert caesar.probe(limit=1).prompts == 1
    assert caesar.probe(texts=OTHER).about_prompts.origin == "file", "what is given wins"
    # The digests were recorded: what was written over since is not what was held out.
    write(data / "test.jsonl", OF_TASK[:2])
    assert caesar.probe().about_prompts.file == "valid.jsonl"
    (data / "valid.jsonl").unlink()
    said.clear()
    before = caesar.registry.evaluations.list("caesar@1")
    about = caesar.probe(reporter=reporter, limit=2).about_prompts
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
        assert caesar.probe(reference, against=against).about_prompts.file == "test.jsonl"
    monkeypatch.chdir("/")
    assert caesar.probe(limit=1).about_prompts.origin == "built-in"


def test_data_of_a_run_without_digests_are_looked_for_below_the_working_folder(
    caesar: Caesar, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    caesar.register(dataset="./data/")
    assert caesar.registry.adapters.show("caesar@1").dataset == "data"
    about = caesar.probe().about_prompts
    assert (about.origin, about.file) == ("file", "test.jsonl")
    (data / "test.jsonl").unlink()
    done = caesar.registry.evaluations.run("caesar@1")
    assert [value.dataset.partition("@")[0] for value in done.recorded] == ["valid.jsonl"] * 2
    monkeypatch.chdir("/")
    assert caesar.probe(limit=1).about_prompts.origin == "built-in"
    with pytest.raises(BadInputError, match="test.jsonl or valid.jsonl of its run in data"):
        caesar.registry.evaluations.run("caesar@1")
