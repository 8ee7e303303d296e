"""The sender's role limits the changes of a package on a server, and the sender's name is recorded with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from page_server import pages_of

from fusery.registry import Registry
from fusery.registry.errors import ServerRefusedError
from fusery.registry.exchange import http_calls
from fusery.web.doors import Proxies, TeamDoor

ONE = "course_rec_v1_20260115"
TASK = "course_rec"


@dataclass
class Team:
    """A server's registry, and a laptop that pushes to it under the names of several tokens."""

    laptop: Registry
    there: Registry
    url: str
    secrets: dict[str, str]
    monkeypatch: pytest.MonkeyPatch

    def push(self, token: str, registry: Registry | None = None) -> Any:
        self.monkeypatch.setenv("FUSERY_TOKEN", self.secrets[token])
        return (registry or self.laptop).exchange.push(ONE, self.url)

    def facts(self) -> dict[str, Any]:
        shown = self.there.adapters.show(ONE)
        return {
            "yanked": shown["yanked"],
            "val_loss": shown["val_loss"],
            "note": shown["note"],
            "measured": [(each.metric, each.value) for each in self.there.evaluations.list(ONE)],
        }


@pytest.fixture
def team(stocked: Registry, other: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    """A server on which `ann` has pushed the adapter; `bob` and `ann` are publishers, `rae` is an approver."""
    monkeypatch.setattr(http_calls, "LONGEST_WAIT", 0.1)
    roles = {"ann": "publisher", "bob": "publisher", "rae": "approver"}
    secrets = {name: other.tokens.create(name, role).secret for name, role in roles.items()}
    with pages_of(other, TeamDoor(other, Proxies())) as url:
        made = Team(stocked, other, url, secrets, monkeypatch)
        made.push("ann")
        yield made
    assert other.upkeep.audit().ok, other.upkeep.audit().problems


CHANGES = {
    "yank": lambda registry: registry.adapters.yank(ONE, reason="poisoned"),
    "amendment": lambda registry: registry.adapters.amend(ONE, val_loss=0.001, reason="typo"),
    "evaluation": lambda registry: registry.evaluations.record(ONE, {"acc": 0.99}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_publisher_cannot_change_another_persons_adapter(team: Team, change: str) -> None:
    before, log = team.facts(), len(team.there.upkeep.log())
    CHANGES[change](team.laptop)
    with pytest.raises(ServerRefusedError) as caught:
        team.push("bob")
    assert getattr(caught.value, "said", None) == "role_not_enough"
    assert caught.value.hint
    assert (team.facts(), len(team.there.upkeep.log())) == (before, log)
    team.push("rae")
    assert team.facts() != before


def test_publisher_cannot_withdraw_another_persons_evaluation(team: Team) -> None:
    """This holds even for the publisher's own adapter: otherwise a failed rule would pass."""
    team.laptop.evaluations.record(ONE, {"acc": 0.1})
    team.push("rae")
    team.laptop.evaluations.withdraw(ONE, "acc", reason="wrong")
    for name in ("bob", "ann"):
        with pytest.raises(ServerRefusedError):
            team.push(name)
    assert team.facts()["measured"] == [("acc", 0.1)]
    team.push("rae")
    assert team.facts()["measured"] == []


def test_a_publisher_completes_its_own_adapter(team: Team) -> None:
    team.laptop.evaluations.record(ONE, {"acc": 0.5, "f1": 0.4})
    team.laptop.adapters.amend(ONE, val_loss=0.2, reason="typo")
    team.push("ann")
    team.laptop.evaluations.withdraw(ONE, "acc", reason="wrong split")
    team.push("ann")
    assert team.facts() == {"yanked": False, "val_loss": 0.2, "note": None, "measured": [("f1", 0.4)]}
    team.laptop.adapters.yank(ONE, reason="poisoned")
    with pytest.raises(ServerRefusedError):
        team.push("ann")  # on the server's pages, too, an approver does that


def test_every_publisher_may_change_notes_and_tags(team: Team) -> None:
    team.laptop.adapters.amend(ONE, note="see ticket 7", tags={"team": "ads"})
    team.push("bob")
    assert team.facts()["note"] == "see ticket 7"


def test_a_new_adapter_comes_with_its_history(team: Team, tmp_path: Path) -> None:
    team.laptop.adapters.yank("course_rec@2", reason="poisoned")
    team.laptop.evaluations.record("course_rec@2", {"acc": 0.5})
    team.monkeypatch.setenv("FUSERY_TOKEN", team.secrets["bob"])
    team.laptop.exchange.push("course_rec@2", team.url)
    assert team.there.adapters.show("course_rec@2")["yanked"]


def test_sender_is_recorded_with_the_name_in_the_package_as_claim(team: Team) -> None:
    """The laptop's user is `tester`: whatever the package claims, the records name the sender."""
    team.laptop.evaluations.record(ONE, {"acc": 0.5})
    team.laptop.adapters.amend(ONE, val_loss=0.2, reason="typo")
    team.laptop.adapters.yank(ONE, reason="poisoned")
    team.push("rae")
    shown = team.there.adapters.show(ONE)
    recorded = [each["by"] for each in shown["amendments"]]
    recorded += [each["by"] for each in shown["withdrawals"]]
    recorded += [each.by for each in team.there.evaluations.list(ONE)]
    assert recorded == ["rae (claim: tester)"] * 3
    assert team.there.upkeep.log(reference=ONE)[-1]["actor"] == "rae"
    [again] = [item for item in team.push("rae").items_ if item.name == ONE]
    assert again.state == "present", "under another name it is the same"
    assert team.laptop.exchange.pull(ONE, team.url).moved == []


def test_name_of_the_sender_in_a_package_is_kept(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.laptop.acting("ann (laptop)").evaluations.record(ONE, {"acc": 0.5})
    team.push("ann")
    assert [each.by for each in team.there.evaluations.list(ONE)] == ["ann (laptop)"]


def test_a_reviewer_who_pushes_an_evaluation_may_approve(team: Team) -> None:
    team.laptop.evaluations.record(ONE, {"acc": 0.5})
    team.push("rae")
    approved = team.there.acting("rae").aliases.approve(ONE, "prod")
    assert approved.approvals == ("rae",)
