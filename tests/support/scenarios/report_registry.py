"""A registry with a history of half a year, for reports.

showcase.fill(registry, folder, clock)
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import signing_keys
import tiny_models
from alias_year import Clock
from run_folders import plain_log
from store_shelf import open_workspace

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.workspace.workspace import Workspace
from fusery.web.forms import FORMS


def places(registry: Registry) -> dict[str, str]:
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
    newest = registry.adapters.list(task="course_rec", sort="version:desc", limit=1)[0].name
    alone = {f"to {form.name}": f"/acts/{form.name}" for form in FORMS}
    return alone | {
        "to choose an alias": f"/acts/aliases/promote?reference={newest}",
        "to promote": f"/acts/aliases/promote?reference={newest}&alias=course_rec%23prod",
        "to promote what is not there": "/acts/aliases/promote?reference=nope&alias=prod",
        "to promote a hostile one": "/acts/aliases/promote?reference=mail@1&alias=prod",
        "to end": "/acts/deployments/end?places=" + "x" * 300,
    }


def open_at(home: Path) -> Registry:
    return Registry(open_workspace(home, user="anna"))


def filled(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch, open_at(folder / "home") as registry:
        clock = Clock()
        clock.put_in(patch)
        registry.init()
        fill(registry, folder, clock)
    return folder / "home"


BEGIN = datetime(2026, 1, 12, 9, 30, tzinfo=UTC)
VERSIONS = 7
HOSTILE = (
    "</style><script>alert(1)</script><img src=x onerror=alert(2)> \"'><svg onload=alert(3)> "
    "<a href='javascript:alert(4)'>x</a> {{ 7*7 }} {% raw %} &lt; \u202egnp.\u202c </textarea>--><!--"
)
"""What breaks pages that do not escape."""


@dataclass(slots=True)
class Show:
    registry: Registry
    folder: Path
    clock: Clock

    def wait(self, days: float) -> None:
        self.clock.now += timedelta(days=days)

    def register(
        self, task: str, number: int, base: str, *, best: float = 0.5, told: bool = False, **facts: object
    ) -> None:
        """Register a version with a training curve that ends near a loss; `told`: it is said to be another one."""
        folder = tiny_models.make_adapter(
            self.folder / f"{task}{number}",
            self.folder / base,
            seed=number,
            rank=4,
            num_layers=3,
            update=0.02,
        )
        losses = {1: 3.2} | {
            step: best + (1.6 + number / 5) * math.exp(-step / (70 + 14 * number))
            for step in range(50, 601, 50)
        }
        train = {
            step: losses[1] * math.exp(-step / (60 + 13 * number)) + best * 0.8 for step in range(10, 601, 10)
        }
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "iters": 600}), encoding="utf-8")
        (folder / "train.log").write_text(plain_log(losses, train), encoding="utf-8")
        date = f"{self.clock.now:%Y%m%d}"
        self.registry.adapters.register(
            folder, base=base, task=task, date=date, **({"val_loss": best} if told else {}), **facts
        )
        self.wait(0.1)


def fill(registry: Registry, folder: Path, clock: Clock) -> None:
    clock.now = BEGIN
    show = Show(registry, folder, clock)
    for name, bits in (("tiny", None), ("tiny-4bit", 4)):
        base = tiny_models.make_base(folder / name, layers=4, bits=bits, seed=3)
        registry.bases.add(base, name=name)
    _course_rec(show)
    _mail(show)


def _course_rec(show: Show) -> None:
    registry, keep = show.registry, FuseRequest(precision="keep", accept_loss=True)
    losses = (0.83, 0.71, 0.64, 0.66, 0.52, 0.49, 0.47)
    for number, loss in zip(range(1, VERSIONS + 1), losses, strict=True):
        parent = f"course_rec@{number - 1}" if number in (3, 5) else None
        data = "courses 2025" if number < 4 else "courses 2026"
        note = "Longer descriptions,\nand the catalogue of spring." if number == 5 else None
        show.register(
            "course_rec",
            number,
            "tiny-4bit",
            best=loss,
            parent=parent,
            dataset=data,
            examples=1200,
            note=note,
            told=number == 2,
        )
        show.wait(19)
        if number == 6:
            registry.aliases.set_rules(
                "course_rec#staging", {"admission": "no_errors", "fidelity": "PASS"}, guarded=False
            )
            registry.aliases.promote(
                "course_rec@6", "staging", reason="try version 6"
            )  # refused: nothing was fused from it
        if number in (1, 3, 5, 6):
            registry.aliases.set("staging", f"course_rec@{number}", reason=f"try version {number}")
            show.wait(4)
        if number in (1, 3, 5):
            registry.aliases.set(
                "prod", f"course_rec@{number}", reason=f"version {number} is better in the A/B test"
            )
            show.wait(2)
        if number == 5:
            registry.aliases.roll_back("course_rec#prod", reason="answers were too long")
            show.wait(3)
            _promote(show)
    registry.aliases.promote(
        "course_rec@7", "prod", reason="the lowest loss"
    )  # refused: nobody approved of it
    registry.adapters.yank("course_rec@4", reason="trained on the test set")
    registry.fused.fuse("course_rec@3", keep)
    registry.fused.fuse("course_rec@5")
    registry.bundles.materialize("course_rec@5", show.folder / "bundle")
    key = signing_keys.write_pair(show.folder)
    registry.trust.add_key("anna", key.public, ["course_rec#*"])
    for number in (3, 5):
        registry.trust.sign(f"course_rec@{number}", key.signing())
    stranger = signing_keys.write_pair(show.folder, "stranger")
    registry.trust.sign("course_rec@5", stranger.signing())
    registry.deployments.record("course_rec@3", "prod-eu/ranker", note="first half of the year")
    show.wait(5)
    registry.deployments.record(str(show.folder / "bundle"), "prod-eu/ranker", replace=True)
    registry.deployments.record("course_rec@4", "lab", note="by mistake")


def _promote(show: Show) -> None:
    registry = show.registry
    registry.aliases.set_rules(
        "course_rec#prod", {"admission": "no_errors", "val_loss_within": 0.02, "approvals": 1}
    )
    with open_as(registry, "ben") as other:
        other.aliases.approve("course_rec@5", "prod", note="read 40 answers")
        other.aliases.approve("course_rec@4", "prod")
        other.aliases.withdraw_approval("course_rec@4", "prod", note="the test set is in it")
    registry.aliases.promote("course_rec@5", "prod", reason="with a shorter prompt")


def open_as(registry: Registry, user: str) -> Registry:
    return Registry(Workspace(replace(registry.workspace.settings, user=user)))


LONG_ACTOR = "continuous.integration.of.the-team-of-recommendations@example.org"
LONG_PATH = (
    "/srv/clusters/europe-west-4/recommendations/production/rankers-of-courses/ranker-17/models/current"
)


def fill_with_long_names(registry: Registry, folder: Path) -> None:
    with open_as(registry, LONG_ACTOR) as other:
        base = tiny_models.make_base(folder / "long-base", layers=4, bits=4, seed=9)
        name = "SmolLM2-135M-Instruct-quantised-to-four-bits-for-recommendations-of-courses"
        other.bases.add(base, name=name)
        adapter = tiny_models.make_adapter(folder / "long", base, seed=5, rank=4, num_layers=2)
        alias = "production-of-the-whole-team-in-europe"
        other.adapters.register(
            adapter,
            base=name,
            task="course_rec",
            date="20260901",
            val_loss=0.4321987,
            dataset="recommendations-of-courses/questions_and_answers_of_the_autumn_of_2026_without_duplicates",
            note="e" * 200,
            tags={"of-the-team": "y" * 60},
        )
        other.aliases.set(alias, "course_rec@8", reason="because " + "z" * 80)
        other.fused.fuse("course_rec@8", FuseRequest(precision="keep", accept_loss=True))
        other.deployments.record("course_rec@8", LONG_PATH, note="n" * 70)
        other.aliases.set_rules(
            f"course_rec#{alias}", {"licences": ["apache-2.0", "mit", "v" * 60], "approvals": 3}
        )
        other.aliases.promote("course_rec@7", alias, reason="u" * 60)
        registry.aliases.approve("course_rec@8", alias, note="t" * 60)


def _mail(show: Show) -> None:
    show.register("mail", 1, "tiny", best=0.9, note=HOSTILE, dataset=HOSTILE, tags={"team": HOSTILE})
    show.registry.aliases.set("prod", "mail@1", reason=HOSTILE)
    show.registry.adapters.yank("mail@1", reason=HOSTILE)
    show.registry.deployments.record(
        "mail@1", HOSTILE.replace("\u202e", "").replace("\u202c", ""), note=HOSTILE
    )
