"""The sender's role limits the changes of a package on a server, and the sender's name is recorded with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from made_calibrations import put_calibration
from page_server import pages_of
from signing_keys import write_pair

from fusery.cli.main import run
from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError, RoleError
from fusery.registry.remote import client
from fusery.web.auth import Proxies, TokenAuth

pytestmark = pytest.mark.timing
ONE = "course_rec_v1_20260115"


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
    monkeypatch.setattr(client, "LONGEST_WAIT", 0.1)
    roles = {"ann": "publisher", "bob": "publisher", "rae": "approver"}
    secrets = {name: other.tokens.create(name, role).secret for name, role in roles.items()}
    with pages_of(other, TokenAuth(other, Proxies())) as url:
        made = Team(stocked, other, url, secrets, monkeypatch)
        made.push("ann")
        yield made
    assert other.upkeep.audit().ok, other.upkeep.audit().problems


def test_publisher_cannot_change_another_persons_adapter(team: Team) -> None:
    for change in (
        lambda adapters: adapters.yank(ONE, reason="poisoned"),
        lambda adapters: adapters.amend(ONE, val_loss=0.001, reason="typo"),
    ):
        before, log = team.facts(), len(team.there.upkeep.log())
        change(team.laptop.adapters)
        with pytest.raises(RoleError) as caught:
            team.push("bob")
        assert caught.value.hint
        assert (team.facts(), len(team.there.upkeep.log())) == (before, log)
        team.push("rae")
        assert team.facts() != before


def test_publisher_cannot_withdraw_another_persons_evaluation(team: Team) -> None:
    """This holds even for the publisher's own adapter: otherwise a failed rule would pass."""
    team.laptop.evaluations.record(ONE, {"acc": 0.1})
    with pytest.raises(RoleError):
        team.push("bob")
    assert team.facts()["measured"] == []
    team.push("rae")
    team.laptop.evaluations.withdraw(ONE, "acc", reason="wrong")
    for name in ("bob", "ann"):
        with pytest.raises(RoleError):
            team.push(name)
    assert team.facts()["measured"] == [("acc", 0.1)]
    team.push("rae")
    assert team.facts()["measured"] == []


def test_what_publishers_may_change(team: Team, tmp_path: Path) -> None:
    pair = write_pair(tmp_path, "ann")
    team.there.trust.add_key("ann", pair.public, ["*#prod"])
    team.laptop.trust.sign(ONE, pair.signing())
    team.laptop.adapters.amend(ONE, note="see ticket 7", tags={"team": "ads"})
    team.push("bob")  # notes, tags and signatures of trusted keys of any adapter
    assert team.facts()["note"] == "see ticket 7"
    assert len(team.there.trust.signatures(ONE)["signatures"]) == 1
    team.laptop.evaluations.record(ONE, {"acc": 0.5, "f1": 0.4})
    team.laptop.adapters.amend(ONE, val_loss=0.2, reason="typo")
    team.push("ann")
    team.laptop.evaluations.withdraw(ONE, "acc", reason="wrong split")
    team.push("ann")
    changed = {"yanked": False, "val_loss": 0.2, "note": "see ticket 7", "measured": [("f1", 0.4)]}
    assert team.facts() == changed
    team.laptop.adapters.yank(ONE, reason="poisoned")
    with pytest.raises(RoleError):
        team.push("ann")  # on the server's pages, too, an approver does that
    # A new adapter comes with its history.
    team.laptop.adapters.yank("course_rec@2", reason="poisoned")
    team.laptop.evaluations.record("course_rec@2", {"acc": 0.5})
    team.laptop.adapters.unyank(ONE)
    team.monkeypatch.setenv("FUSERY_TOKEN", team.secrets["bob"])
    team.laptop.exchange.push("course_rec@2", team.url)
    assert team.there.adapters.show("course_rec@2")["yanked"]


def test_a_signature_of_a_strangers_key_is_the_owners_or_an_approvers(team: Team, tmp_path: Path) -> None:
    for number, (stranger, token) in enumerate({"eve": "ann", "mallory": "rae"}.items()):
        team.laptop.trust.sign(ONE, write_pair(tmp_path, stranger).signing())
        [adapter] = [item for item in team.push("bob").items_ if item.name == ONE]
        assert (adapter.state, bool(adapter.reason)) == ("present", True)
        assert len(team.there.trust.signatures(ONE)["signatures"]) == number
        team.push(token)
    with team.there.workspace.database.read() as session:
        assert [row.by for row in session.query(tables.SignatureRow)] == [
            "ann (claim: tester)",
            "rae (claim: tester)",
        ]


def test_a_signature_does_not_get_the_name_of_a_key_that_did_not_make_it(
    team: Team, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a key is trusted, a package can name it for a signature that another key has made."""
    ceo, eve = write_pair(tmp_path, "ceo"), write_pair(tmp_path, "eve")
    named = team.laptop.trust.sign("course_rec@2", ceo.signing()).key_id
    team.laptop.trust.sign(ONE, eve.signing())
    with team.laptop.workspace.database.write() as session:
        digest = team.laptop.adapters.show(ONE).digest
        row = session.query(tables.SignatureRow).filter_by(subject_digest=digest).one()
        row.envelope, row.key_id = row.envelope.replace(row.key_id, named), named
    team.push("ann")
    team.there.trust.add_key("ceo", ceo.public, ["*#prod"])
    [recorded] = team.there.trust.signatures(ONE).signatures
    assert (recorded.key_id, recorded.signer) == (named, None)
    assert team.there.adapters.show(ONE).signatures[0].signer is None
    assert run(["--registry", str(team.there.workspace.settings.home), "show", ONE]) == 0
    shown = capsys.readouterr().out
    assert "not verified: a signature that names" in shown and "signed by" not in shown


def test_a_signature_of_a_base_is_not_recorded(team: Team, tiny_base: Path, tmp_path: Path) -> None:
    """Bases are not signed: every adapter on a base would carry along what anybody adds to it."""
    made = team.laptop.trust.sign(
        str(tiny_base), write_pair(tmp_path, "eve").signing(), output=tmp_path / "sig"
    )
    with team.laptop.workspace.database.write() as session:
        digest, at = session.get_one(tables.BaseModelRow, 1).digest, datetime(2026, 1, 2, tzinfo=UTC)
        values = {"key_id": made.key_id, "scheme": made.scheme, "envelope": made.signature.decode()}
        session.add(
            tables.SignatureRow(subject_kind="base", subject_digest=digest, at=at, by="tester", **values)
        )
    assert {item.state for item in team.push("rae").items_} == {"present"}
    with team.there.workspace.database.read() as session:
        assert session.query(tables.SignatureRow).count() == 0


def test_a_calibration_is_the_base_s_senders_or_an_approvers(team: Team) -> None:
    """Later fuses take the newest calibration of a base."""
    for layer, token in enumerate(("ann", "rae")):
        put_calibration(team.laptop, "tiny", {f"model.layers.{layer}.mlp.down_proj": 256})
        for sender, state in (("bob", "left out"), (token, "copied")):
            items = [item for item in team.push(sender).items_ if item.kind == "calibration"]
            [made] = [item for item in items if item.state != "present"]
            assert (made.state, bool(made.reason)) == (state, state == "left out")
            assert len(team.there.bases.show("tiny").calibrations) == layer + (state == "copied")


def test_nobody_is_named_as_the_creator_by_another_sender(team: Team) -> None:
    """The package says `tester`, which proves nothing, and whom it names does not approve of it either."""
    shown = team.there.adapters.show(ONE)
    assert (shown.created_by, team.there.bases.show("tiny").created_by) == ("ann (claim: tester)",) * 2
    for name in ("tester", "tester (laptop)", "ann"):
        with pytest.raises(BadInputError):
            team.there.acting(name).aliases.approve(ONE, "prod")
    assert team.there.acting("rae").aliases.approve(ONE, "prod").approvals == ("rae",)


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
    # The name of the sender in a package is kept, and who pushes an evaluation may approve.
    team.laptop.acting("rae (laptop)").evaluations.record(ONE, {"f1": 0.5})
    team.push("rae")
    assert [each.by for each in team.there.evaluations.list(ONE)][-1] == "rae (laptop)"
    team.there.adapters.unyank(ONE)
    assert team.there.acting("rae").aliases.approve(ONE, "prod").approvals == ("rae",)
