"""The ids of a lineage graph."""

from __future__ import annotations

from pathlib import Path

from fusery.registry import Registry


def _ids(registry: Registry, reference: str, kind: str) -> list[str]:
    nodes = registry.provenance.lineage(reference).to_dict()["nodes"]
    return [node["id"] for node in nodes if node["kind"] == kind]


def test_an_id_says_what_a_thing_is_and_not_its_row(
    stocked: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    with Registry.open(tmp_path / "second-home") as other:
        other.init()
        other.bases.add(tiny_base, name="tiny")
        # Another order, so that the same data set has another row.
        for version, folder, dataset in ((1, "second", "first"), (2, "first", "courses")):
            facts = {"base": "tiny", "task": "course_rec", "version": version, "dataset": dataset}
            other.adapters.register(tmp_path / folder, **facts)
        assert _ids(other, "course_rec@2", "dataset") == _ids(stocked, "course_rec@1", "dataset")
        assert _ids(other, "course_rec@1", "dataset") != _ids(stocked, "course_rec@1", "dataset")


def test_a_bundle_is_its_content_and_its_place(stocked: Registry, tmp_path: Path) -> None:
    places = [tmp_path / "out", tmp_path / "copy"]
    for place in places:
        stocked.bundles.materialize("course_rec@2", place)
    first = _ids(stocked, "course_rec@2", "bundle")
    assert len(set(first)) == 2
    assert {len(node_id) for node_id in first} == {len("bundle:") + 16 + 1 + 8}
    # Written once more to the same place: another record, the same thing.
    stocked.bundles.materialize("course_rec@2", places[0], force=True)
    assert _ids(stocked, "course_rec@2", "bundle") == first
