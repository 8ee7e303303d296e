"""Probing through the registry: which two models are compared, and what is said of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.evaluation.probe_report import ProbeReport, Row, Side
from fusery.registry.fusion.request import FuseRequest


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows: list[dict[str, Any]] = [
        {"prompt": "Which course?", "completion": "KITE-120, of course."},
        {"text": "The ferry leaves at seven."},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


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


def test_an_adapter_against_its_base(stocked: Registry, prompts: Path) -> None:
    found = stocked.evaluations.probe("course_rec@1", against="base", prompts=prompts)
    assert (found.b.kind, found.b.name) == ("base", "tiny")
    assert found.kl > 1e-4
    assert found.loss_base == found.loss_b
    by_name = stocked.evaluations.probe("course_rec@1", against="tiny", prompts=prompts)
    assert replace(by_name, seconds=0) == replace(found, seconds=0)


def test_a_sum_of_adapters(stocked: Registry, prompts: Path) -> None:
    request = FuseRequest(extras=(("course_rec@2", 0.5),))
    before = stocked.evaluations.list("course_rec@1")
    found = stocked.evaluations.probe("course_rec@1", request=request, prompts=prompts)
    name = "course_rec_v1_20260115 + 0.5 x course_rec_v2_20260201"
    assert (found.a.kind, found.a.name, found.b.kind, found.b.name) == ("adapter", name, "fused", name)
    assert 0 < found.kl < 1e-3, "the fused sum answers as the sum on its base"
    alone = stocked.evaluations.probe("course_rec@1", prompts=prompts, record=False)
    assert abs(found.loss_a - alone.loss_a) > 1e-4, "which is another model than the adapter alone"
    assert found.loss_base == alone.loss_base
    assert stocked.evaluations.list("course_rec@1") == before, "a sum is on record of none of its adapters"


def test_two_versions(stocked: Registry, prompts: Path) -> None:
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
    assert caught.value.hint == "fusery fuse course_rec_v1_20260115 --precision keep"


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
        ("course_rec@1", {"against": "base", "request": summed}),
        ("course_rec@1", {"limit": 0}),
    ]
    for reference, options in wrong:
        with pytest.raises(BadInputError) as caught:
            stocked.evaluations.probe(reference, prompts=prompts, **options)
        assert caught.value.hint
    for words in ({"reference": "course_rec@9"}, {"reference": "course_rec@1", "against": "nothing@1"}):
        with pytest.raises(UnknownReferenceError):
            stocked.evaluations.probe(**words)


ADAPTER, BASE = Side("adapter", "t_v1", "0" * 64), Side("base", "b", "1" * 64)
FUSED = Side("fused", "t_v1", "2" * 64, "keep")


SAID: list[tuple[tuple[Any, ...], list[str], list[str]]] = [
    # a, b, KL, agreement, losses of a, b and base, gain kept; what is said, and what is not.
    ((ADAPTER, FUSED, 0.003, 0.991, 0.219, 0.22, 3.8, 0.99), ["answers as", "99.1 %", "99.0 %"], ["nearly"]),
    ((ADAPTER, FUSED, 0.094, 0.93, 2.0, 2.1, None, None), ["nearly", "0.094", "2.100"], ["'s gain"]),
    ((ADAPTER, FUSED, 0.49, 0.71, 0.2, 1.7, 3.8, 0.58), ["does not answer", "58.0 %", "3.800"], ["nearly"]),
    ((ADAPTER, BASE, 0.0, 1.0, 3.8, 3.8, 3.8, None), ["changed nothing", "0.000"], ["'s gain"]),
    ((ADAPTER, BASE, 0.0005, 0.99, 3.7, 3.8, 3.8, None), ["changed little", "5.0e-04"], ["nothing"]),
]


@pytest.mark.parametrize(("facts", "said", "unsaid"), SAID)
def test_what_is_said(facts: tuple[Any, ...], said: list[str], unsaid: list[str]) -> None:
    a, b, kl, same, *losses, gain = facts
    row = Row("x", 1, kl, same, *losses[:2])
    conclusion = ProbeReport(a, b, 1, 1, kl, kl, same, *losses, gain, 1.0, (row,)).conclusion
    assert [each for each in said if each not in conclusion] == []
    assert [each for each in unsaid if each in conclusion] == []
