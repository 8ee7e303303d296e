"""Lineages, up and down, from every kind of record, cut and complete."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

import lineage_registry
import pytest
import query_plans
import tiny_models
from sqlalchemy import insert, select, update

from fusery.cli import graphs
from fusery.registry import Registry, tables
from fusery.registry.errors import AmbiguousReferenceError, UnknownReferenceError
from fusery.registry.records.graph import Edge, Graph, Node


@pytest.fixture(scope="module")
def filled(
    module_registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Registry, dict[str, str]]:
    """A registry and its records by what they are called; only to be read."""
    return module_registry, lineage_registry.fill(module_registry, tmp_path_factory.mktemp("filled"))


def relations(graph: Graph) -> set[tuple[str, str, str]]:
    kind = {node.id: node.kind for node in graph.nodes}
    return {(kind[edge.source], edge.relation, kind[edge.target]) for edge in graph.edges}


def names(graph: Graph, kind: str) -> set[str]:
    return {node.name for node in graph.nodes if node.kind == kind}


def test_everything_from_everywhere(filled: tuple[Registry, dict[str, str]]) -> None:
    registry, found = filled
    whole = registry.provenance.lineage("tiny", up=False)
    assert relations(whole) == {
        ("adapter", "trained-on-base", "base"),
        ("adapter", "continued-from", "adapter"),
        ("fused", "fused-from-adapter", "adapter"),
        ("bundle", "packed-from", "fused"),
        ("bundle", "packed-from", "adapter"),
        ("alias", "holds", "adapter"),
        ("deployment", "runs", "bundle"),
        ("deployment", "runs", "fused"),
        ("deployment", "runs", "adapter"),
    }
    assert names(whole, "deployment") == {"eu/ranker", "lab <1>"}
    for reference in ("dataset:nothing", "bundle:nothing", "nothing@1"):
        with pytest.raises(UnknownReferenceError):
            registry.provenance.lineage(reference)
    by_place = registry.provenance.lineage(found["bundle"])
    digest = next(node.digest for node in by_place.nodes if node.kind == "bundle")
    assert registry.provenance.lineage(digest[:12]).to_dict() == by_place.to_dict()
    assert registry.provenance.lineage(f"bundle:{found['bundle']}").root == by_place.root
    assert relations(by_place) == {
        ("bundle", "packed-from", "fused"),
        ("fused", "fused-from-adapter", "adapter"),
        ("fused", "fused-from-base", "base"),
        ("adapter", "trained-on-base", "base"),
        ("adapter", "trained-on-data", "dataset"),
        ("adapter", "continued-from", "adapter"),
        ("deployment", "runs", "bundle"),
    }
    graph = registry.provenance.lineage("dataset:courses")
    assert graph.by_id[graph.root].kind == "dataset"
    assert names(graph, "adapter") == {lineage_registry.DENSE, lineage_registry.CONTINUED}
    assert ("alias", "holds", "adapter") in relations(graph)
    odd = registry.provenance.lineage(f"dataset:{lineage_registry.ODD}")
    assert names(odd, "adapter") == {lineage_registry.CONTINUED}
    by_alias, by_version = map(registry.provenance.lineage, ("course_rec#prod", "course_rec@2"))
    assert by_alias.to_dict() == by_version.to_dict()
    other = "other_v1_20260301"
    graph = registry.provenance.lineage(found["sum"][:16])
    assert names(graph, "adapter") == {other, lineage_registry.DENSE, lineage_registry.CONTINUED}
    # From one part one sees the sum, and not the other parts of it.
    assert other not in names(registry.provenance.lineage("course_rec@1", up=False), "adapter")


def test_a_graph_that_is_not_cut_is_complete(filled: tuple[Registry, dict[str, str]]) -> None:
    registry, found = filled
    for reference in ("tiny", "few", "course_rec@1", found["sum"]):
        for ways in ({}, {"up": False}, {"down": False}):
            graph = registry.provenance.lineage(reference, **ways)
            assert not graph.cut and graph.more == "" and graph.left_out == {}
            whole = registry.provenance.lineage(reference, limit=None, **ways)
            assert (set(graph.by_id), set(graph.edges)) == (set(whole.by_id), set(whole.edges))


def test_what_is_yanked_is_marked_everywhere(withdrawn: tuple[Registry, dict[str, str]]) -> None:
    registry, found = withdrawn
    graph = registry.provenance.lineage("tiny", up=False)
    reason = 'leaked <b> "x"'
    nodes = graph.to_dict()["nodes"]
    assert {node["name"] for node in nodes if node["yanked"] == reason} == {
        lineage_registry.CONTINUED,
        "course_rec#prod",
    }
    assert {node["name"] for node in nodes if node["withdrawals"]} == {
        lineage_registry.CONTINUED,
        f"{lineage_registry.CONTINUED} (keep)",
        f"other_v1_20260301 + 0.5 x {lineage_registry.CONTINUED} + -1 x {lineage_registry.DENSE} (keep)",
        f"model {found['bundle']}",
        f"model {found['bundle of a sum']}",
        f"adapters {found['unfused bundle']}",
        "course_rec#prod",
        "eu/ranker",
        "lab <1>",
    }
    ended = next(node for node in graph.nodes if node.over)
    assert ended.yanked is None and ended.to_dict()["ended_at"] is not None
    complete = registry.provenance.lineage("tiny", up=False)
    for form in ("tree", "mermaid", "dot", "svg"):
        text = graphs.written(complete, form)
        assert text.count("leaked") >= 7, form
        assert "yanked" in text


def test_a_prefix_of_several_things(filled: tuple[Registry, dict[str, str]]) -> None:
    registry, _ = filled
    with registry.workspace.database.write() as session:
        first, second = session.scalars(select(tables.BundleRow).order_by(tables.BundleRow.id).limit(2))
        own, first.digest = first.digest, second.digest[:12] + "0" * 52
        prefix = second.digest[:10]
    with pytest.raises(AmbiguousReferenceError):
        registry.provenance.lineage(prefix)
    with registry.workspace.database.write() as session:
        session.get_one(tables.BundleRow, first.id).digest = own


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Registry]:
    """A registry with one adapter, to be lengthened to a line of versions."""
    base = tiny_models.make_base(tmp_path / "tiny", layers=1)
    with Registry.open(tmp_path / "home") as registry:
        registry.bases.add(base, name="tiny")
        small = {"num_layers": 1, "keys": ["self_attn.q_proj"], "rank": 2}
        folder = tiny_models.make_adapter(tmp_path / "a", base, **small)
        registry.adapters.register(folder, base="tiny", task="line", date="20260101")
        yield registry


def test_a_long_line_of_versions(line: Registry) -> None:
    """More adapters than a statement takes numbers: all, none twice, and the nearest and newest of a cut graph."""
    _lengthen(line, 520)
    whole = line.provenance.lineage("tiny", limit=None)
    assert (len(whole.nodes), len(whole.edges), whole.cut) == (522, 521 + 520, False)
    assert names(line.provenance.lineage("line@1", limit=None), "adapter") == names(whole, "adapter")
    assert graphs.written(whole, "tree").count("continued-from") == 520
    with query_plans.recorded() as queries:
        assert len(names(line.provenance.lineage("tiny", limit=521), "adapter")) == 521
    assert len(queries) <= 20, "no query for each adapter"
    for reference, limit, wanted in (
        ("tiny", 19, range(503, 522)),
        ("line@75", 19, range(56, 95)),
        ("line@521", 2, range(519, 522)),
    ):
        graph = line.provenance.lineage(reference, limit=limit, ancestors=limit)
        assert names(graph, "adapter") == {f"line_v{number}_20260101" for number in wanted}
        assert (graph.cut, graph.left_out, graph.more, graph.root in graph.by_id) == (
            True,
            None,
            "and more",
            True,
        )
        joined = {edge.source for edge in graph.edges} | {edge.target for edge in graph.edges}
        assert joined == set(graph.by_id)
    exact = line.provenance.lineage("line@75", limit=521 - 75, ancestors=74)
    assert not exact.cut and set(exact.by_id) == set(line.provenance.lineage("line@75", limit=None).by_id)


def test_sums_of_sums(line: Registry) -> None:
    """Adapters computed from several others: the nearest are reached first, each once."""
    _lengthen(line, 120)
    chance, origins = Random(5), dict[int, set[int]]()
    for made in range(3, 122):
        origins[made] = set(chance.sample(range(max(1, made - 9), made), min(made - 1, made % 3)))
    with line.workspace.database.write() as session:
        rows = [
            {"adapter_id": made, "position": position, "source_id": source}
            for made, sources in origins.items()
            for position, source in enumerate(sorted(sources))
        ]
        session.execute(insert(tables.AdapterSourceRow), rows)
        session.execute(update(tables.AdapterRow).values(parent_id=None))
    made_from: dict[int, set[int]] = defaultdict(set)
    for made, sources in origins.items():
        for source in sources:
            made_from[source].add(made)
    for number, up in ((110, True), (20, False), (3, False)):
        steps = _steps(number, origins if up else made_from)
        ordered = sorted(steps, key=lambda each: (steps[each], -each))
        for limit in (1, 7, 500):
            graph = line.provenance.lineage(
                f"line@{number}", up=up, down=not up, limit=limit, ancestors=limit
            )
            wanted = {f"line_v{each}_20260101" for each in ordered[: limit + 1]}
            assert names(graph, "adapter") == wanted, (number, limit)
            assert graph.cut == (len(ordered) > limit + 1)


def _steps(start: int, further: Mapping[int, set[int]]) -> dict[int, int]:
    """Return how many steps away each adapter is."""
    steps, near = {start: 0}, [start]
    for number in near:
        for other in further.get(number, ()):
            if other not in steps:
                steps[other] = steps[number] + 1
                near.append(other)
    return steps


def test_a_tree_is_no_deeper_than_what_python_takes() -> None:
    nodes = {f"n{number}": Node(f"n{number}", "adapter", f"x{number}", "") for number in range(3_000)}
    edges = [Edge(f"n{number + 1}", f"n{number}", "continued-from") for number in range(2_999)]
    graph = Graph("n0", nodes, edges)
    for form in ("mermaid", "dot"):
        assert "2999" in graphs.written(graph, form)
    lines = list(graphs.tree(graph))
    assert len(lines) == 3_001
    # Its margins stop growing, or a long line would take gigabytes.
    assert "2,999 steps away, continued-from: adapter x2999" in lines[-1] and len(lines[-1]) < 4_200


def _lengthen(registry: Registry, count: int) -> None:
    table = tables.AdapterRow.__table__
    with registry.workspace.database.write() as session:
        first = dict(session.execute(select(table)).mappings().one())
        session.execute(
            insert(table),
            [
                {
                    **first,
                    "id": number,
                    "version": number,
                    "parent_id": number - 1,
                    "name": f"line_v{number}_20260101",
                }
                for number in range(2, count + 2)
            ],
        )


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
