"""Calibrating a base: what is kept, what is recorded, and what is found when it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from sqlalchemy import select

pytest.importorskip("mlx_lm")

from fusery.registry import Registry, Reporter, tables
from fusery.registry.audit.anchored import NOT_ANCHORED
from fusery.registry.bases.calibrate import calibrate
from fusery.registry.behaviour.prompts import built_in, for_calibration
from fusery.registry.database import events
from fusery.registry.engine.calibration import Calibration, read_calibration
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.records.calibrations import CALIBRATION, fetch_calibration
from fusery.registry.records.current_calibrations import current_calibration
from fusery.registry.records.references import resolve_base
from fusery.storage.digest import Digest
from fusery.storage.errors import BlobCorruptError, FuseryError


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A few short ones."""
    path = tmp_path / "prompts.jsonl"
    rows: list[dict[str, Any]] = [
        {"prompt": "Which course?", "completion": "KITE-120, of course."},
        {"text": "The ferry leaves at seven, and when the sea is calm it reaches the island before noon."},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def based(registry: Registry, tiny_base: Path) -> Registry:
    """A registry with the base `tiny`."""
    registry.bases.add(tiny_base, name="tiny")
    return registry


def fetched(registry: Registry, digest: str, target: Path) -> Calibration:
    return read_calibration(fetch_calibration(registry.workspace, digest, target))


def damage(registry: Registry, digest: str) -> None:
    with registry.workspace.database.read() as session:
        row = session.scalars(select(tables.Calibration).where(tables.Calibration.digest == digest)).one()
        blob = Digest(row.manifest.files[0].sha256)
    path = registry.workspace.store.local_path(blob, generation=0)
    assert path is not None
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_base_is_calibrated_once(based: Registry, prompts: Path, tmp_path: Path) -> None:
    said: list[str] = []
    done: list[tuple[int, int]] = []
    made = based.bases.calibrate(
        "tiny", prompts=prompts, reporter=Reporter(said.append, lambda *at: done.append(at))
    )
    assert (made.base, made.prompts, made.rank, made.created) == ("tiny", "prompts.jsonl", 32, True)
    assert said == [
        "tiny is not quantised in affine codes: no fuse on it takes a calibration",
        f"the base reads {made.tokens:,} tokens, 2 times",
        "that is little: from some 1,000 tokens on, rounding is shaped by the base and not by the texts",
        "storing",
    ]
    said.clear()
    assert done[-1] == (2 * made.tokens, 2 * made.tokens)
    again = based.bases.calibrate("tiny", prompts=prompts, reporter=Reporter(said.append))
    assert again.to_dict() == {**made.to_dict(), "created": False, "seconds": 0.0}
    assert len(said) == 1, "nothing was read"
    view = based.bases.show("tiny")
    assert view["calibrations"] == [
        {
            "digest": made.digest,
            "prompts": "prompts.jsonl",
            "tokens": made.tokens,
            "adapter": None,
            "created_at": view["calibrations"][0]["created_at"],
        }
    ]
    with based.workspace.database.read() as session:
        base = resolve_base(session, "tiny")
        row = current_calibration(session, base)
        assert row is not None
        assert (row.digest, row.engine, row.created_by) == (made.digest, made.engine, "tester")
        told = [event for event in session.scalars(select(tables.Event)) if event.action == "base.calibrated"]
        assert [event.subject for event in told] == [base.digest]
        assert json.loads(told[0].detail)["calibration"] == made.digest
        assert not list(events.verify_chain(session))


def test_what_is_kept(based: Registry, prompts: Path, tmp_path: Path, tiny_base: Path) -> None:
    made = based.bases.calibrate("tiny", prompts=prompts)
    found = fetched(based, made.digest, tmp_path / "c")
    assert (tmp_path / "c").stat().st_size == made.bytes
    assert (found.base, found.tokens) == (based.bases.show("tiny")["digest"], made.tokens)
    blocks = [f"model.layers.{layer}.{name}" for layer in range(4) for name in tiny_models.LINEAR]
    assert set(found.modules) == {*blocks, "lm_head"}
    assert len(set(found.modules.values())) == 4 * 4 + 1
    whole = second_moment(tiny_base, prompts, "model.layers.2.mlp.down_proj")
    given = found.of("model.layers.2.mlp.down_proj")
    assert given is not None
    assert given.directions.shape == (32, 256)
    assert given.mean == pytest.approx(np.diag(whole).mean(), rel=1e-4)
    diagonal = np.square(given.directions).sum(axis=0) + given.rest
    assert np.allclose(diagonal, np.diag(whole), rtol=0.01, atol=1e-3 * given.mean)
    largest = np.linalg.eigvalsh(whole)[-1]
    assert np.square(given.directions[0]).sum() == pytest.approx(largest, rel=0.02)


def second_moment(folder: Path, prompts: Path, module: str) -> Any:
    from fusery.registry.behaviour.activation_capture import second_moments
    from fusery.registry.behaviour.models import Model, load_tokenizer
    from fusery.registry.behaviour.prompts import read_prompts, tokenise

    samples = tokenise(read_prompts(prompts), load_tokenizer(folder))
    return second_moments(Model.load(folder, numpy=True), samples)[module].mean.astype(np.float64)


def test_other_prompts_and_other_ranks_are_other_calibrations(
    based: Registry, prompts: Path, tmp_path: Path
) -> None:
    one = based.bases.calibrate("tiny", prompts=prompts)
    plain = tmp_path / "plain.txt"
    plain.write_text("Something else.\n", encoding="utf-8")
    other = based.bases.calibrate("tiny", prompts=plain)
    fewer = calibrate(based.workspace, "tiny", prompts=prompts, rank=4)
    assert len({one.digest, other.digest, fewer.digest}) == 3
    assert fetched(based, fewer.digest, tmp_path / "c").of("lm_head").directions.shape == (4, 128)  # type: ignore[union-attr]
    assert len(based.bases.show("tiny")["calibrations"]) == 3
    with based.workspace.database.read() as session:
        newest = current_calibration(session, resolve_base(session, "tiny"))
        assert newest is not None
        assert newest.digest == fewer.digest
    renamed = prompts.rename(tmp_path / "renamed.jsonl")
    assert not based.bases.calibrate("tiny", prompts=renamed).created


def test_the_one_that_was_asked_for_last_is_taken(registry: Registry, prompts: Path, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "four", bits=4, group_size=32, layers=1)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.05, num_layers=1)
    registry.bases.add(base, name="four")
    registry.adapters.register(adapter, base="four", task="lessons")
    plain = tmp_path / "plain.txt"
    plain.write_text("Something else.\n", encoding="utf-8")

    def taken() -> object:
        return registry.fused.fuse("lessons@1", FuseRequest("dither", accept_loss=True)).recipe["calibration"]

    one = registry.bases.calibrate("four", prompts=prompts)
    other = registry.bases.calibrate("four", prompts=plain)
    assert taken() == other.digest
    for asked, file, before in ((one, prompts, other), (other, plain, one), (one, prompts, other)):
        said: list[str] = []
        again = registry.bases.calibrate("four", prompts=file, reporter=Reporter(said.append))
        assert (again.digest, again.created) == (asked.digest, False)
        assert said == [
            f"a fuse takes it from now on, and no longer {before.digest[:12]} on {before.prompts}"
        ]
        assert taken() == asked.digest
    # Asked for once more it is taken already, and nothing is said or recorded.
    entries = len(registry.upkeep.log())
    said = []
    registry.bases.calibrate("four", prompts=prompts, reporter=Reporter(said.append))
    assert (said, len(registry.upkeep.log())) == ([], entries)
    third = tmp_path / "third.txt"
    third.write_text("Something new.\n", encoding="utf-8")
    assert registry.bases.calibrate("four", prompts=third).digest == taken()
    # One that was lost in the store is made anew, and is then the one that was asked for last.
    damage(registry, one.digest)
    assert registry.bases.calibrate("four", prompts=prompts).digest == one.digest == taken()
    assert registry.upkeep.audit().ok


def test_a_base_without_a_calibration(based: Registry, tmp_path: Path) -> None:
    with based.workspace.database.read() as session:
        assert current_calibration(session, resolve_base(session, "tiny")) is None
    with pytest.raises(UnknownReferenceError) as caught:
        fetch_calibration(based.workspace, "0" * 64, tmp_path / "c")
    assert caught.value.hint


def test_a_quantised_base_and_one_kept_by_reference(
    registry: Registry, prompts: Path, tmp_path: Path
) -> None:
    folder = tiny_models.make_base(tmp_path / "tiny4", bits=4, layers=2)
    registry.bases.add(folder, name="tiny4", reference=True)
    said: list[str] = []
    made = registry.bases.calibrate("tiny4", prompts=prompts, reporter=Reporter(said.append))
    assert not [line for line in said if "no fuse" in line]
    found = fetched(registry, made.digest, tmp_path / "c")
    assert found.of("model.layers.1.mlp.up_proj") is not None


def test_audit_finds_a_damaged_calibration(based: Registry, prompts: Path, tmp_path: Path) -> None:
    made = based.bases.calibrate("tiny", prompts=prompts)
    before = based.upkeep.audit()
    assert (before.ok, before.checked["calibration"]) == (True, 1)
    assert before.notes == [NOT_ANCHORED]
    damage(based, made.digest)
    for report in (based.upkeep.audit(), based.upkeep.audit(("tiny",))):
        assert [problem.code for problem in report.problems] == ["blob_corrupt"]
        assert (
            report.problems[0].subject
            == f"tiny calibrated (prompts.jsonl, {made.digest[:12]}): {CALIBRATION}"
        )
    with pytest.raises(BlobCorruptError):
        fetch_calibration(based.workspace, made.digest, tmp_path / "c")


def test_a_damaged_calibration_is_made_anew(based: Registry, prompts: Path) -> None:
    made = based.bases.calibrate("tiny", prompts=prompts)
    damage(based, made.digest)
    again = based.bases.calibrate("tiny", prompts=prompts)
    assert again.digest == made.digest
    assert based.upkeep.audit().ok
    assert len(based.bases.show("tiny")["calibrations"]) == 1


@pytest.mark.parametrize("options", [{"limit": 0}, {"rank": 0}, {"rank": 257}])
def test_what_has_no_meaning_is_refused(options: dict[str, int], based: Registry, prompts: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        calibrate(based.workspace, "tiny", prompts=prompts, **options)
    assert caught.value.hint


def test_what_is_not_there(based: Registry, tmp_path: Path) -> None:
    with pytest.raises(UnknownReferenceError):
        based.bases.calibrate("nothing")
    with pytest.raises(FuseryError):
        based.bases.calibrate("tiny", prompts=tmp_path / "absent.jsonl")


def test_a_prompt_file_with_a_name_that_is_no_text(based: Registry, tmp_path: Path) -> None:
    path = tmp_path / "odd\udcff.txt"
    path.write_text("Some text.\n", encoding="utf-8")
    assert based.bases.calibrate("tiny", prompts=path).prompts == "odd?.txt"


def test_without_mlx_it_says_what_to_install(based: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mlx_lm", None)
    with pytest.raises(FuseryError) as caught:
        based.bases.calibrate("tiny")
    assert caught.value.hint == "pip install 'fusery[mlx]'"


def test_the_built_in_texts_are_not_what_probe_asks() -> None:
    texts = for_calibration()
    asked = {prompt.label for prompt in built_in()}
    assert len(texts) > 10
    assert not asked & {prompt.label for prompt in texts}
    dialogues = sum(len(message["content"]) for prompt in texts for message in prompt.messages)
    running = sum(len(prompt.text) for prompt in texts)
    assert 0.5 < dialogues / running < 2
    assert 8_000 < dialogues + running < 12_000


def test_what_is_fused_with_it_has_fitted_scales_and_an_older_recipe_has_not(
    registry: Registry, prompts: Path, tmp_path: Path
) -> None:
    base = tiny_models.make_base(tmp_path / "four", bits=4, group_size=32)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, update=0.02)
    registry.bases.add(base, name="four")
    registry.adapters.register(adapter, base="four", task="lessons")
    random = registry.fused.fuse("lessons@1", FuseRequest("dither", seed=1, accept_loss=True))
    assert "fitted" not in random.recipe and "calibration" not in random.recipe
    made = registry.bases.calibrate("four", prompts=prompts)
    fitted = registry.fused.fuse("lessons@1", FuseRequest("dither", seed=1, accept_loss=True))
    assert (fitted.recipe["calibration"], fitted.recipe["fitted"]) == (made.digest, True)
    older = {name: value for name, value in fitted.recipe.items() if name != "fitted"}
    (tmp_path / "older.json").write_text(json.dumps(older), encoding="utf-8")
    before = registry.fused.fuse(
        "lessons@1", FuseRequest(recipe=str(tmp_path / "older.json"), accept_loss=True)
    )
    assert "fitted" not in before.recipe
    scales = [
        {
            name: data
            for name, data in tiny_models.read_tensors(Path(one.path)).items()
            if name.endswith(".scales")
        }
        for one in (random, before, fitted)
    ]
    assert scales[0] == scales[1] != scales[2]
