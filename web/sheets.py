"""Contents of pages, served or saved in one HTML file without scripts, requests or external links."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from markupsafe import Markup

from fusery.registry import Registry
from fusery.registry.charts.curves import curves_chart, versions_chart
from fusery.registry.charts.heat_map import heat_map, heat_map_picture
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.provenance.drawing import svg
from fusery.registry.record import plain
from fusery.registry.records.adapter import Adapter
from fusery.registry.records.graph import Graph, Node
from fusery.registry.upkeep.report import Report
from fusery.storage.secrets import masked

from .rendering import environment, of_adapter, of_alias, presentable, segment, style_sheet

PAGE = 50  # maximum number of rows in a table
TASKS = 25  # maximum number of tasks on the start page
DRAWN = 400  # maximum number of nodes in a lineage picture; larger lineages are only listed
THINGS = 60  # maximum number of nodes of each kind in a lineage, above and below: the nearest and newest
CELLS = 2_000  # maximum number of cells in a fidelity map
LAST = 12  # number of log entries on the start page


@dataclass(frozen=True, slots=True)
class Sheet:
    """The content of a page."""

    template: str
    content: Mapping[str, Any]  # a record, or several by name
    more: Mapping[str, Any] = field(default_factory=dict)  # other template values, such as pictures


def start_sheet(
    registry: Registry, *, after: str | None = None, holding: str | None = None, most: int = TASKS
) -> Sheet:
    """Return the tasks by name, and the newest log entries."""
    tasks = registry.adapters.tasks(after=after, limit=most + 1, holding=holding)
    content = {
        "tasks": tasks[:most],
        "holding": holding or None,
        "next": tasks[most - 1].task if len(tasks) > most else None,
        "waiting": registry.aliases.waiting(tasks[:most]),
        "events": registry.upkeep.log(limit=LAST)[::-1],
    }
    return Sheet("start.html.j2", content)


def task_sheet(
    registry: Registry,
    task: str,
    versions: Sequence[Adapter],
    *,
    where: str | None = None,
    sort: str = "version:desc",
    offset: int = 0,
    problem: BadInputError | None = None,
) -> Sheet:
    """Return a task with a page of its versions; one more in `versions` means another page."""
    content = {
        "task": task,
        "where": where,
        "sort": sort,
        **page_of("versions", versions, offset),
        "aliases": registry.aliases.list(task),
    }
    shown = [version.to_dict() for version in sorted(versions[:PAGE], key=lambda adapter: adapter.version)]
    picture = versions_chart("versions", {"task": task, "versions": shown})
    return Sheet("one_task.html.j2", content, {"picture": picture, "problem": problem})


def adapter_sheet(registry: Registry, reference: str) -> Sheet:
    """Return an adapter in full."""
    shown = registry.adapters.show(reference)
    section = {
        "task": shown.task,
        "curves": [{"version": shown.version, "points": [point.to_dict() for point in shown.curve]}],
    }
    return Sheet("adapter.html.j2", shown, {"curve": curves_chart("curve", section) if shown.curve else None})


def alias_sheet(registry: Registry, task: str, name: str, offset: int = 0) -> Sheet:
    """Return an alias of a task, with its moves and rules."""
    holder = registry.aliases.show(f"{task}#{name}")
    newest, rules = registry.aliases.history(f"{task}#{name}", limit=PAGE + 1, offset=offset), None
    with suppress(UnknownReferenceError):
        rules = registry.aliases.rules(f"{task}#{name}")
    content = {
        "alias": f"{task}#{name}",
        "holder": holder,
        "rules": rules,
        **page_of("moves", newest[::-1], offset),
    }
    return Sheet("alias.html.j2", content, {"task": task})


def fused_sheet(registry: Registry, key: str) -> Sheet:
    """Return a fused model, with the fidelity of each module."""
    details, picture = registry.fused.fidelity(key), None
    with suppress(BadInputError):  # it has no fidelity
        drawn = heat_map(details.to_dict(), ())
        if len(drawn.layers) * len(drawn.rows) <= CELLS and (drawn.rows or drawn.outside):
            picture = heat_map_picture("map", drawn)
    return Sheet("fused.html.j2", details, {"picture": picture})


def lineage_sheet(registry: Registry, reference: str) -> Sheet:
    """Return the lineage of a record, with a picture if it is small enough."""
    graph = lineage_of(registry, reference)
    links = {node.id: _link(node) for node in graph.nodes}
    drawn = len(graph.nodes) <= DRAWN
    picture = Markup(svg(graph, link=_link, style=False)) if drawn else None
    return Sheet("lineage.html.j2", graph, {"picture": picture, "links": links, "subject": reference})


def lineage_of(registry: Registry, reference: str) -> Graph:
    """Return a lineage with masked passwords, since URLs cut for a picture are no longer recognisable."""
    # Counting a hundred thousand adapters would take too long for a page.
    graph = registry.provenance.lineage(reference, limit=THINGS, ancestors=THINGS)
    return replace(
        graph, by_id={key: replace(node, name=masked(node.name)) for key, node in graph.by_id.items()}
    )


def page_of(name: str, rows: Sequence[object], offset: int) -> Mapping[str, Any]:
    """Return a page of rows under a name, and its place; one row more than a page means another page."""
    return {"offset": offset, "next": offset + PAGE if len(rows) > PAGE else None, name: rows[:PAGE]}


def _link(node: Node) -> str | None:
    """Return the path of a node's page; None if it has no page."""
    if node.kind == "alias":
        return of_alias(node.name)
    if node.kind == "adapter":
        return of_adapter(node.name)
    pages = {"base": ("bases", node.name), "fused": ("fused", node.digest)}
    page = pages.get(node.kind)
    return None if page is None else f"/{page[0]}/{segment(page[1])}"


SAVED_TASKS = 500  # maximum number of tasks in the table of a whole registry
SECTIONS = 40  # maximum number of tasks with pages there
MOST = 8  # maximum number of adapters of a task, and fused models of an adapter, with pages
_BARE = "{% block main %}{% endblock %}"
_READER = {"key": "", "role": None}
_NAMED = re.compile(r' (id|aria-labelledby|href)="([^"]*)"')
_PICTURE = re.compile(r'<img src="/pictures/[^>]*>')
_CONTROLS = re.compile(
    r'<form\b.*?</form>|<p class="sorts">.*?</p>|<p><a href="/(?:log|compare)\b.*?</p>', re.DOTALL
)
_FURTHER = re.compile(r'<p><a rel="next".*?</p>', re.DOTALL)
_HEADING = re.compile(r"(</?h)([12])(?=[ >])")

Page = tuple[str, Sheet]  # the path of a page at a server, and its content


def saved(registry: Registry, subject: str | None = None, audit: Report | None = None) -> bytes:
    """Return the pages about a task, an adapter or everything as one HTML document."""
    pages = dict(_pages(registry, subject))
    if audit is not None:
        newest = registry.upkeep.log(limit=1)
        content = {"report": audit, "newest": newest[0] if newest else None}
        pages["/audit"] = Sheet("audit.html.j2", content)
    anchors = {address: f"p{at}" for at, address in enumerate(pages, 1)}
    html = [_html(sheet, anchors[address], anchors) for address, sheet in pages.items()]
    values = {
        "title": subject or "Adapter registry",
        "style": Markup(style_sheet()),
        "at": datetime.now(UTC).isoformat(),
        "audit": audit,
        "audit_anchor": anchors.get("/audit"),
        "pages": [
            {"anchor": anchor, "title": _title(address), "html": text}
            for (address, anchor), text in zip(anchors.items(), html, strict=True)
        ],
    }
    return environment().get_template("saved.html.j2").render(values).encode()


def _title(address: str) -> str:
    kind, *names = [unquote(part) for part in address.strip("/").split("/")]
    if kind == "aliases":
        return "#".join(names)
    return f"Lineage of {names[0]}" if kind == "lineage" else names[0] if names else kind.title() or "Tasks"


def _pages(registry: Registry, subject: str | None) -> Iterator[Page]:
    if subject is None:
        yield "/", start_sheet(registry, most=SAVED_TASKS)
        for task in registry.adapters.tasks(limit=SECTIONS):
            yield from _of_task(registry, task.task)
        return
    try:
        (newest, *_) = registry.adapters.list(task=subject, sort="version:desc", limit=1)
    except (UnknownReferenceError, BadInputError):  # not a task
        record = registry.provenance.resolve(subject)
    else:
        yield from _of_task(registry, newest.task)
        held = [alias.adapter for alias in registry.aliases.list(newest.task)]
        for name in list(dict.fromkeys([*filter(None, held), newest.name]))[:MOST]:
            yield from _of_adapter(registry, name)
        return
    if record.kind == "base":
        raise BadInputError("cannot save a base model's page", hint=f"fusery list --base {record.name}")
    name = registry.fused.fidelity(record.name).adapter if record.kind == "fused" else record.name
    yield from _of_adapter(registry, name)
    adapter = registry.adapters.show(name)
    for alias in adapter.aliases:
        yield of_alias(f"{adapter.task}#{alias}"), alias_sheet(registry, adapter.task, alias)


def _of_task(registry: Registry, task: str) -> Iterator[Page]:
    versions = registry.adapters.list(task=task, sort="version:desc", limit=PAGE + 1)
    yield f"/tasks/{segment(task)}", task_sheet(registry, task, versions)
    for alias in registry.aliases.list(task)[:PAGE]:
        name = alias.alias.rpartition("#")[2]
        yield of_alias(f"{task}#{name}"), alias_sheet(registry, task, name)


def _of_adapter(registry: Registry, name: str) -> Iterator[Page]:
    sheet = adapter_sheet(registry, name)
    yield of_adapter(name), sheet
    for key in [fused["key"] for fused in sheet.content["fused"][:MOST]]:
        yield f"/fused/{segment(key)}", fused_sheet(registry, key)
    yield f"/lineage/{segment(name)}", lineage_sheet(registry, name)


def _html(sheet: Sheet, anchor: str, anchors: dict[str, str]) -> Markup:
    """Return a page for the document: with unique ids, and without forms, pictures or links to a server."""
    content = presentable(plain(dict(sheet.content)))
    values = {"it": content, "principal": _READER, "asked": "", "acts": {}, **sheet.more}
    html = environment(_BARE).get_template(sheet.template).render(values)
    html = _FURTHER.sub('<p class="bound">The registry has more.</p>', _CONTROLS.sub("", html))
    html = _PICTURE.sub("Lineage: see below", html)
    html = _HEADING.sub(lambda match: f"{match[1]}{int(match[2]) + 1}", html)

    def named(match: re.Match[str]) -> str:
        attribute, value = match.groups()
        if attribute != "href":
            return f' {attribute}="{" ".join(f"{anchor}-{element_id}" for element_id in value.split())}"'
        return f' href="#{anchors[value]}"' if value in anchors else ""

    return Markup(_NAMED.sub(named, html))
