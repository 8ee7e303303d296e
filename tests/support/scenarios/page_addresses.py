"""An address of every kind of page, for a registry of `report_registry`."""

from __future__ import annotations

from fusery.registry import Registry
from fusery.web.acts import ACTS


def places(registry: Registry) -> dict[str, str]:
    """Return an address of every kind of page."""
    tasks = [task.task for task in registry.adapters.tasks()]
    newest = registry.adapters.list(task="course_rec", sort="version:desc", limit=2)
    all_fused = (
        line for each in registry.adapters.list() for line in registry.adapters.show(each.name).fused or ()
    )
    fused = next(all_fused).key
    alias = registry.aliases.list("course_rec")[0]
    return {
        "start": "/",
        "some tasks": "/?q=rec",
        "task": "/tasks/course_rec",
        "other task": f"/tasks/{next(task for task in tasks if task != 'course_rec')}",
        "filtered": "/tasks/course_rec?where=val_loss+%3C+9&sort=val_loss",
        "none fits": "/tasks/course_rec?where=val_loss+%3C+0",
        "adapter": f"/adapters/{newest[0].name}",
        "by alias": "/adapters/course_rec%23prod",
        "alias": "/aliases/course_rec/" + alias.alias.partition("#")[2],
        "compare": f"/compare?ref={newest[0].name}&ref={newest[1].name}",
        "weights": f"/compare/weights?ref={newest[0].name}&ref={newest[1].name}",
        "audit": "/audit",
        "audit of one": f"/audit?reference={newest[0].name}&chain=true",
        "bases": "/bases",
        "base": f"/bases/{newest[0].base}",
        "all fused": "/fused",
        "fused": f"/fused/{fused}",
        "lineage": f"/lineage/{newest[0].name}",
        "lineage of a base": f"/lineage/{newest[0].base}",
        "places": "/places",
        "places then": "/places?at=2026-06-21",
        "log": "/log",
        "log of one": "/log?reference=course_rec%23prod",
        "search": "/search?q=i",
        "hostile alias": "/aliases/mail/prod",
        "hostile adapter": "/adapters/mail@1",
        "nothing found": "/search?q=nothing-is-called-so",
        "no such adapter": "/adapters/course_rec@999",
        "no such page": "/nothing/here",
    }


def acts(registry: Registry) -> dict[str, str]:
    """Return an address of the page of every act, and some of those that know more or less of what is to be done."""
    newest = registry.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    alone = {f"to {act.name}": f"/acts/{act.name}" for act in ACTS}
    return alone | {
        "to choose an alias": f"/acts/promote?adapter={newest}",
        "to promote": f"/acts/promote?adapter={newest}&alias=course_rec%23prod",
        "to promote what is not there": "/acts/promote?adapter=nope&alias=prod",
        "to promote a hostile one": "/acts/promote?adapter=mail@1&alias=prod",
        "to end": "/acts/end-deployment?place=" + "x" * 300,
    }
