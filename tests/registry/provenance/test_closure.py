"""Records that are reached, however far away: queries find the same as going from one record to the next."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import large_registry
import lineage_registry
import pytest
from kept_registries import lasting_registry
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from fusery.registry import Registry, tables
from fusery.registry.provenance.closure import ADAPTER, Key, Link, counts, links_of, nearest_adapters, numbers
from fusery.registry.provenance.trace import key_of, trace_things
from fusery.registry.records.graph import Graph, more
from fusery.registry.records.references import find_things


def walked(session: Session, starts: Sequence[Key], up: bool) -> tuple[dict[Key, int], set[Link]]:
    """Return what is reached and how many steps away it is, and what joins it: one generation after the other."""
    steps, links, new = dict.fromkeys(starts, 0), set(), list(starts)
    while new:
        found = [link for _, link in links_of(session, [(key, up) for key in new], None)]
        links |= set(found)
        met = dict.fromkeys(link[1] if up else link[0] for link in found)
        deep = steps[new[0]] + 1
        new = [key for key in met if key not in steps]
        steps |= dict.fromkeys(new, deep)
    return steps, links


def compare(session: Session, starts: Sequence[Key]) -> None:
    for up in (True, False):
        steps, _ = walked(session, starts, up)
        found = numbers(session, starts, up=up)
        assert {(kind, number) for kind, each in found.items() for number in each} == set(steps)
        for many in (False, True):
            counted = counts(session, starts, up=up, many=many).items()
            assert {kind: n for kind, n in counted if n} == {kind: len(each) for kind, each in found.items()}
        for limit in (1, 7, 1_000):
            nearest = nearest_adapters(session, starts, up=up, limit=limit)
            far = [(steps[ADAPTER, number], -number) for number in nearest]
            wanted = sorted(
                (deep, -number)
                for (kind, number), deep in steps.items()
                if kind == ADAPTER and (kind, number) not in starts
            )
            # Upwards it goes through adapters alone: those that a fused model holds are its starts.
            if up and any(kind in ("fused", "bundle") for kind, _ in starts):
                continue
            assert far == wanted[: limit + 1]


def drawn(graph: Graph) -> tuple[set[str], set[tuple[str, str, str]]]:
    return set(graph.by_id), {(edge.source, edge.target, edge.relation) for edge in graph.edges}


def test_of_everything_the_same_as_step_by_step(registry: Registry, tmp_path: Path) -> None:
    found = lineage_registry.fill(registry, tmp_path)
    references = ["tiny", "here", "few", "dataset:courses", "course_rec@1", *found.values()]
    with registry.workspace.database.read() as session:
        for reference in references:
            things = find_things(session, reference)
            compare(session, [key_of(each) for each in things])
            few, all_of = trace_things(session, things), trace_things(session, things, limit=None)
            assert not few.cut and few.more == "" and few.left_out == {}
            assert drawn(few) == drawn(all_of)
            for ways in ({"up": False}, {"down": False}):
                few, all_of = (
                    trace_things(session, things, **ways, **limit) for limit in ({}, {"limit": None})
                )
                assert drawn(few) == drawn(all_of)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def sums(
    request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    """A registry with 600 adapters, many computed from several others, in lines of sums of sums."""
    folder = tmp_path_factory.mktemp("sums")
    with lasting_registry(request, request.param, folder) as registry:
        registry.bases.add(tiny_base, name="tiny", reference=True)
        large_registry.fill(registry, 600)
        _add_sums(registry, 600)
        yield registry


def _add_sums(registry: Registry, count: int) -> None:
    chance, source = random.Random(5), tables.AdapterSourceRow
    with registry.workspace.database.write() as session:
        ids = list(session.scalars(select(tables.AdapterRow.id).order_by(tables.AdapterRow.id)))
        rows = [
            {"adapter_id": ids[at], "position": position, "source_id": ids[of]}
            for at in range(1, count)
            for position, of in enumerate(chance.sample(range(max(0, at - 9), at), min(at, at % 3)))
        ]
        session.execute(insert(source), rows)


def test_sums_of_sums(sums: Registry) -> None:
    with sums.workspace.database.read() as session:
        base = session.scalars(select(tables.BaseModelRow)).one()
        ids = list(session.scalars(select(tables.AdapterRow.id).order_by(tables.AdapterRow.id)))
        for starts in ([("adapter", ids[3])], [("adapter", ids[590])], [key_of(base)]):
            compare(session, starts)
        compare(session, [("adapter", ids[300]), ("adapter", ids[20])])


def test_what_is_left_out_is_counted_in_words() -> None:
    assert [more(left_out) for left_out in (None, {}, {"fused": 0})] == ["and more", "", ""]
    assert (
        more({"adapter": 2000, "fused": 1, "alias": 2})
        == "and 2,000 more adapters, 1 more fused model, 2 more aliases"
    )
