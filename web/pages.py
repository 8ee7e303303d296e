"""The pages: what each address shows, through the Python API and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse
from markupsafe import Markup

from fusery.registry import Registry
from fusery.registry.charts.curves import curves_chart
from fusery.registry.charts.heat_map import heat_map
from fusery.registry.charts.heat_map_svg import heat_map_picture
from fusery.registry.charts.losses import versions_chart
from fusery.registry.charts.timeline import timeline
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.provenance import svg
from fusery.registry.records.adapter import Adapter
from fusery.registry.records.fused import FusedDetails
from fusery.registry.records.graph import Graph, Node
from fusery.registry.reporting.models import MOST_CELLS
from fusery.registry.reporting.page import PHONE, twice
from fusery.storage.secrets import masked

from .addresses import of_adapter, of_alias, segment
from .answers import answer, style_sheet, wants_json
from .routes import Routes

PAGE = 50
"""Rows of a table."""

TASKS = 25
"""Tasks, each with its newest version and its aliases."""

DRAWN = 400
"""Things in a picture of lineage; more are listed alone."""

THINGS = 60
"""Things of a kind in a lineage, that something was made into or made from: the nearest, and the newest of these."""

WIDE = 1060
"""Pixels across that a desktop has for it."""

LAST = 12
"""Entries of the log on the page one starts from."""

Text = Annotated[str | None, Query(max_length=2_000)]
Whole = Annotated[int, Query(ge=0, le=10**9)]


def add_pages(routes: Routes, registry: Registry) -> None:
    """Add the pages of a registry."""

    @routes.page("/")
    def start(request: Request, after: Text = None, q: Text = None) -> Response:
        tasks = registry.adapters.tasks(after=after, limit=TASKS + 1, holding=q)
        more = len(tasks) > TASKS
        found = {
            "tasks": tasks[:TASKS],
            "holding": q or None,
            "next": tasks[TASKS - 1].task if more else None,
            "waiting": registry.aliases.waiting(tasks[:TASKS]),
            "events": registry.upkeep.log(limit=LAST)[::-1],
        }
        return answer(request, "start.html.j2", found)

    @routes.page("/tasks/{task}")
    def one_task(
        request: Request, task: str, where: Text = None, sort: Text = None, offset: Whole = 0
    ) -> Response:
        by, problem, versions = sort or "version:desc", None, []
        try:
            versions = registry.adapters.list(
                task=task, where=where or None, sort=by, limit=PAGE + 1, offset=offset
            )
        except BadInputError as error:
            registry.adapters.list(task=task, limit=1)  # that there is no such task comes first
            if wants_json(request):
                raise
            problem = error
        found = {
            "task": task,
            "where": where or None,
            "sort": by,
            "offset": offset,
            "next": _next(versions, offset),
            "versions": versions[:PAGE],
            "aliases": registry.aliases.list(task),
        }
        pictures = _of_task(task, versions[:PAGE])
        made = answer(request, "one_task.html.j2", found, pictures=pictures, problem=problem)
        made.status_code = 200 if problem is None else 400
        return made

    @routes.page("/adapters/{reference:path}")
    def adapter(request: Request, reference: str) -> Response:
        found = registry.adapters.show(reference)
        section = {
            "task": found.task,
            "curves": [{"version": found.version, "points": [point.to_dict() for point in found.curve]}],
        }
        curve = twice(curves_chart, "curve", section) if found.curve else None
        return answer(request, "adapter.html.j2", found, curve=curve)

    @routes.page("/compare")
    def compare(request: Request, ref: Annotated[list[str], Query(max_length=50)]) -> Response:
        found = registry.adapters.compare(list(dict.fromkeys(ref)))
        curves = [
            {"version": name, "points": [point.to_dict() for point in points]}
            for name, points in found.curves.items()
            if points
        ]
        picture = (
            twice(curves_chart, "curves", {"task": "several adapters", "curves": curves}) if curves else None
        )
        return answer(request, "compare.html.j2", found, curves=curves, picture=picture)

    @routes.page("/aliases/{task}/{name}")
    def alias(request: Request, task: str, name: str, offset: Whole = 0) -> Response:
        holder = registry.aliases.show(f"{task}#{name}")
        newest, rules = registry.aliases.history(f"{task}#{name}", limit=PAGE + 1, offset=offset), None
        moves = newest[-PAGE:]
        with suppress(UnknownReferenceError):
            rules = registry.aliases.rules(f"{task}#{name}")
        found = {
            "alias": f"{task}#{name}",
            "holder": holder,
            "rules": rules,
            "offset": offset,
            "next": _next(newest, offset),
            "moves": moves[::-1],
        }
        section = {
            "task": task,
            "aliases": [{"alias": name, "moves": [move.to_dict() for move in moves]}],
            "yanks": [{"adapter": holder.adapter, "lifted_at": None}] if holder.yanked else [],
            "until": datetime.now(UTC).isoformat(),
        }
        return answer(request, "alias.html.j2", found, task=task, picture=twice(timeline, "moves", section))

    @routes.page("/bases")
    def bases(request: Request) -> Response:
        return answer(request, "bases.html.j2", {"bases": registry.bases.list()})

    @routes.page("/bases/{name:path}")
    def base(request: Request, name: str, offset: Whole = 0) -> Response:
        found = registry.bases.show(name, limit=PAGE, offset=offset)
        return answer(request, "base_model.html.j2", found, offset=offset)

    @routes.page("/fused")
    def all_fused(request: Request, offset: Whole = 0) -> Response:
        models = registry.fused.list(limit=PAGE + 1, offset=offset)
        found = {
            "offset": offset,
            "next": _next(models, offset),
            "models": models[:PAGE],
            "cache": registry.cache.contents(),
        }
        return answer(request, "all_fused.html.j2", found)

    @routes.page("/fused/{key}")
    def fused(request: Request, key: str) -> Response:
        found = registry.fused.fidelity(key)
        return answer(request, "fused.html.j2", found, picture=_map_of(found))

    def lineage_of(reference: str) -> Graph:
        # Nobody waits for a page until a hundred thousand adapters are counted.
        found = registry.provenance.lineage(reference, limit=THINGS, ancestors=THINGS, count=False)
        return _without_passwords(found)

    @routes.get("/pictures/lineage/{reference:path}", role="reader")
    def lineage_picture(reference: str) -> Response:
        """Draw the lineage of a thing, for pages that show it beside others."""
        graph = lineage_of(reference)
        if len(graph.nodes) > DRAWN:
            raise BadInputError("there are too many things for a picture", hint="its page has them in words")
        return Response(svg(graph, width=WIDE, pans=True), media_type="image/svg+xml")

    @routes.page("/lineage/{reference:path}")
    def lineage(request: Request, reference: str) -> Response:
        graph = lineage_of(reference)
        drawn = len(graph.nodes) <= DRAWN
        # In a frame that scrolls where it is wider than that; a phone gets one thing below the other.
        pictures = [
            Markup(svg(graph, width=width, pans=width == WIDE, link=_link, style=False))
            for width in (WIDE, PHONE)
            if drawn
        ]
        links = {node.id: _link(node) for node in graph.nodes}
        return answer(request, "lineage.html.j2", graph, pictures=pictures, links=links, subject=reference)

    @routes.page("/places")
    def places(request: Request, at: Text = None, offset: Whole = 0) -> Response:
        running = registry.deployments.list(at=at or None, limit=PAGE + 1, offset=offset)
        found = {
            "at": at or None,
            "offset": offset,
            "next": _next(running, offset),
            "deployments": running[:PAGE],
        }
        return answer(request, "places.html.j2", found)

    @routes.page("/log")
    def log(
        request: Request,
        reference: Text = None,
        action: Text = None,
        since: Text = None,
        before: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    ) -> Response:
        events = registry.upkeep.log(
            reference=reference or None,
            action=action or None,
            since=since or None,
            before=before,
            limit=PAGE + 1,
        )
        shown = events[-PAGE:][::-1]
        found = {
            "reference": reference or None,
            "action": action or None,
            "since": since or None,
            "events": shown,
            "next": shown[-1].seq if len(events) > PAGE else None,
        }
        return answer(request, "log.html.j2", found)

    @routes.page("/search")
    def search(request: Request, q: Annotated[str, Query(max_length=500)] = "") -> Response:
        found = registry.search(q)
        alone = [("adapters", name) for name in found.adapters] + [("bases", name) for name in found.bases]
        alone += [("tasks", name) for name in found.tasks] + [("fused", key) for key in found.fused]
        if len(alone) == 1 and "text/html" in request.headers.get("accept", ""):
            [(kind, name)] = alone
            return RedirectResponse(f"/{kind}/{segment(name)}", 303)
        return answer(request, "search.html.j2", found, asked=q)

    @routes.page("/style.css", role=None)
    def style() -> Response:
        return PlainTextResponse(
            style_sheet(), media_type="text/css", headers={"Cache-Control": "private, max-age=300"}
        )


def _without_passwords(graph: Graph) -> Graph:
    """Return a graph whose names can be cut for a picture: what is left of a URL is not known for one."""
    by_id = {key: replace(node, name=masked(node.name)) for key, node in graph.by_id.items()}
    return replace(graph, by_id=by_id)


def _link(node: Node) -> str | None:
    """Return the page of a thing, None for what has none."""
    if node.kind == "alias":
        return of_alias(node.name)
    if node.kind == "adapter":
        return of_adapter(node.name)
    pages = {
        "base": ("bases", node.name),
        "fused": ("fused", node.digest),
    }
    found = pages.get(node.kind)
    return None if found is None else f"/{found[0]}/{segment(found[1])}"


def _map_of(found: FusedDetails) -> Any:
    """Return the picture of what each module of a fused model retains; None where it has too many, or none is known."""
    view = found.to_dict()
    try:
        drawn = heat_map(view, ())
    except BadInputError:
        return None
    rows, outside = (
        [{"label": row.label, "cells": list(row.cells)} for row in each]
        for each in (drawn.rows, drawn.outside)
    )
    shown = {**view, "layers": list(drawn.layers), "rows": rows, "outside": outside}
    few = len(drawn.layers) * len(rows) <= MOST_CELLS and (rows or outside)
    return twice(heat_map_picture, "map", {**shown, "name": found.adapter}) if few else None


def _next(rows: Sequence[object], offset: int) -> int | None:
    """Return the offset of the next page; None on the last page."""
    return offset + PAGE if len(rows) > PAGE else None


def _of_task(task: str, versions: Sequence[Adapter]) -> dict[str, Any]:
    """Return the picture of a task: the loss of its versions."""
    shown = [each.to_dict() for each in sorted(versions, key=lambda each: each.version)]
    section = {"task": task, "versions": shown, "adapter": None}
    return {"versions": twice(versions_chart, "versions", section)}
