"""Save pages in one HTML file without scripts, requests or external links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import unquote

from markupsafe import Markup

from fusery.registry import Registry
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.record import plain
from fusery.registry.upkeep.report import Report

from . import sheets
from .rendering import environment, of_adapter, of_alias, presentable, segment, style_sheet
from .sheets import PAGE, Sheet

TASKS = 500  # maximum number of tasks in the table of a whole registry
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
    """Return the title of a page in the table of contents."""
    kind, *names = [unquote(part) for part in address.strip("/").split("/")]
    if kind == "aliases":
        return "#".join(names)
    return f"Lineage of {names[0]}" if kind == "lineage" else names[0] if names else kind.title() or "Tasks"


def _pages(registry: Registry, subject: str | None) -> Iterator[Page]:
    if subject is None:
        yield "/", sheets.start_sheet(registry, most=TASKS)
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
        yield of_alias(f"{adapter.task}#{alias}"), sheets.alias_sheet(registry, adapter.task, alias)


def _of_task(registry: Registry, task: str) -> Iterator[Page]:
    versions = registry.adapters.list(task=task, sort="version:desc", limit=PAGE + 1)
    yield f"/tasks/{segment(task)}", sheets.task_sheet(registry, task, versions)
    for alias in registry.aliases.list(task)[:PAGE]:
        name = alias.alias.rpartition("#")[2]
        yield of_alias(f"{task}#{name}"), sheets.alias_sheet(registry, task, name)


def _of_adapter(registry: Registry, name: str) -> Iterator[Page]:
    sheet = sheets.adapter_sheet(registry, name)
    yield of_adapter(name), sheet
    for key in [fused["key"] for fused in sheet.content["fused"][:MOST]]:
        yield f"/fused/{segment(key)}", sheets.fused_sheet(registry, key)
    yield f"/lineage/{segment(name)}", sheets.lineage_sheet(registry, name)


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
