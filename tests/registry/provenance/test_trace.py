"""Lineages, up and down, from every kind of record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lineage_registry
import pytest
import query_plans
import tiny_models
from sqlalchemy import insert, select

from fusery.cli import graphs
from fusery.registry import Registry, tables
from fusery.registry.errors import AmbiguousReferenceError, UnknownReferenceError
from fusery.registry.provenance.trace import trace_things
from fusery.registry.records.graph import Edge, Graph, Node


@pytest.fixture
def filled(registry: Registry, tmp_path: Path) -> tuple[Registry, dict[str, str]]:
    return registry, lineage_registry.fill(registry, tmp_path)


def relations(graph: Graph) -> set[tuple[str, str, str]]:
    kind = {node.id: node.kind for node in graph.nodes}
    return {(kind[edge.source], edge.relation, kind[edge.target]) for edge in graph.edges}


def names(graph: Graph, kind: str) -> set[str]:
    return {node.name for node in graph.nodes if node.kind == kind}


def test_everything_from_everywhere(filled: tuple[Registry, dict[str, str]], tmp_path: Path) -> None:
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
    assert registry.provenance.lineage(f"bundle:{tmp_path / 'out'}").root == by_place.root
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
        first.digest = second.digest[:12] + "0" * 52
        prefix = second.digest[:10]
    with pytest.raises(AmbiguousReferenceError):
        registry.provenance.lineage(prefix)


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
    """No recursion, every version in the tree of a file, and no query for each thing."""
    _lengthen(line, 150)
    graph = line.provenance.lineage("line@1", up=False, limit=None)
    assert len(graph.nodes) == 151
    assert graphs.written(graph, "tree").count("continued-from") == 150
    for reference in ("tiny", "line@1", "line@75", "line@151"):
        with query_plans.recorded() as queries:
            assert len(names(line.provenance.lineage(reference, limit=151), "adapter")) == 151
        assert len(queries) <= 11, reference
    _cut(line)


def _cut(registry: Registry) -> None:
    """So many of the nearest things each way, the newest of these, and how many there are besides."""
    whole = registry.provenance.lineage("line@75", limit=76, ancestors=74)
    assert not whole.cut and relations(whole) == relations(registry.provenance.lineage("line@75", limit=None))
    wanted = (("tiny", 20, 131), ("line@75", 20, 56 + 54), ("line@151", 2, 148))
    for reference, limit, left in wanted:
        graph = registry.provenance.lineage(reference, limit=limit, ancestors=limit)
        assert (graph.cut, graph.left_out, graph.root in graph.by_id) == (True, {"adapter": left}, True)
        joined = {edge.source for edge in graph.edges} | {edge.target for edge in graph.edges}
        assert joined == set(graph.by_id)
    newest = names(registry.provenance.lineage("tiny", limit=19), "adapter")
    assert newest == {f"line_v{number}_20260101" for number in range(133, 152)}
    nearest = names(registry.provenance.lineage("line@75", up=False, limit=19), "adapter")
    assert nearest == {f"line_v{number}_20260101" for number in range(75, 95)}


def test_very_many_versions(line: Registry) -> None:
    """More adapters than a statement takes numbers: all, and none twice."""
    _lengthen(line, 700)
    graph = line.provenance.lineage("tiny", limit=None)
    assert len(graph.nodes) == 702 and len(graph.edges) == 701 + 700
    assert names(line.provenance.lineage("line@1", limit=None), "adapter") == names(graph, "adapter")
    with line.workspace.database.read() as session:
        starts = list(session.scalars(select(tables.AdapterRow).where(tables.AdapterRow.id % 50 == 1)))
        assert len(starts) > 8
        many = trace_things(session, starts, limit=None)
    assert names(many, "adapter") == names(graph, "adapter")


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
