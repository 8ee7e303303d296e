"""What a base, a dataset or an adapter has reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.fusion.fuse import FuseRequest

FIRST, SECOND = "course_rec_v1_20260115", "course_rec_v2_20260201"


@pytest.fixture
def family(stocked: Registry, make_adapter: Callable[..., Path], tmp_path: Path) -> Registry:
    """v1 <- v2 (continued), `other` of its own, a sum of `other` and v1, a bundle of the sum, aliases."""
    other = make_adapter("other", seed=5)
    stocked.adapters.register(other, base="tiny", task="other", date="20260301", dataset="songs")
    stocked.aliases.set("prod", "course_rec@2")
    stocked.aliases.set("prod", "other@1")
    request = FuseRequest(precision="keep", accept_loss=True, extras=(("course_rec@1", 0.5),))
    stocked.bundles.materialize("other@1", tmp_path / "out", request=request)
    return stocked


def test_an_adapter_reaches_what_was_continued_from_it_and_sums_with_it(
    family: Registry, tmp_path: Path
) -> None:
    found = family.provenance.impact("adapter:course_rec@1")
    assert (found.kind, found.name, list(found.adapters)) == ("adapter", FIRST, [FIRST, SECOND])
    assert [row["adapter"] for row in found.fused] == ["other_v1_20260301"]
    assert [row["path"] for row in found.bundles] == [str((tmp_path / "out").resolve())]
    assert found["aliases"] == [
        {"alias": "course_rec#prod", "adapter": SECOND, "yanked": None, "withdrawals": []}
    ]

    last = family.provenance.impact("adapter:course_rec@2")
    assert (list(last.adapters), last.fused, last.bundles) == ([SECOND], (), ())


def test_a_dataset_and_a_base(family: Registry) -> None:
    assert list(family.provenance.impact("dataset:courses").adapters) == [FIRST, SECOND]
    assert list(family.provenance.impact("dataset:songs").adapters) == ["other_v1_20260301"]
    base = family.provenance.impact("base:tiny")
    assert len(base.adapters) == 3
    assert [row["alias"] for row in base.aliases] == ["course_rec#prod", "other#prod"]
    assert len(base.fused) == len(base.bundles) == 1


def test_the_newest_of_each_kind_and_how_many_there_are(family: Registry) -> None:
    family.deployments.record("other@1", "eu/ranker")
    family.deployments.record("course_rec@2", "asia/ranker")
    family.adapters.yank("course_rec@1", reason="bad data")
    for subject in ("base:tiny", "dataset:courses", "adapter:course_rec@2", "adapter:other@1"):
        found, everything = (family.provenance.impact(subject, limit=limit) for limit in (100, None))
        assert found.to_dict() == everything.to_dict() and not found.cut
    few = family.provenance.impact("base:tiny", limit=1)
    kinds = {"adapters": 3, "fused": 1, "bundles": 1, "aliases": 2, "deployments": 2}
    assert (few.cut, few.totals) == (True, kinds)
    assert [len(few[kind]) for kind in kinds] == [1] * 5
    assert few.adapters == ("other_v1_20260301",) and few.yanked == {}
    assert [row["place"] for row in few.deployments] == ["asia/ranker"]


def test_invalid_and_unknown_subjects_are_refused(stocked: Registry) -> None:
    for subject in ("tiny", "model:tiny", "base:", ":x", ""):
        with pytest.raises(BadInputError):
            stocked.provenance.impact(subject)
    for subject in ("base:nope", "dataset:nope", "adapter:nope@1"):
        with pytest.raises(UnknownReferenceError):
            stocked.provenance.impact(subject)
