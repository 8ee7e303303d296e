"""The rule that an adapter is signed, with real keys and signatures."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.dsse import make_pair
from fusery.registry.errors import MissingExtraError
from fusery.registry.provenance.sign import SigningKey


def test_signed_with_a_key_that_counts_for_the_alias(stocked: Registry, tmp_path: Path) -> None:
    ann, eve = (make_pair(tmp_path / f"{name}.pem", None) for name in ("ann", "eve"))
    stocked.aliases.set_rules("prod", {"signed": True})
    stocked.aliases.set_rules("canary", {"signed": True})

    def code(alias: str = "prod") -> int:
        return stocked.aliases.promote("course_rec@1", alias, dry_run=True).exit_code

    assert code() == 1
    stocked.trust.sign("course_rec@1", SigningKey(eve.private_key))
    stocked.trust.sign("course_rec@1", SigningKey(ann.private_key))
    assert code() == 1, "nobody trusts these keys"
    stocked.trust.add_key("eve", eve.public_key, ["*#canary"])
    assert (code(), code("canary")) == (1, 0)
    stocked.trust.add_key("ann", ann.public_key, ["course_rec#p*"])
    done = stocked.aliases.promote("course_rec@1", "prod")
    assert (done.exit_code, done.rules[-1].why) == (0, "signed with ann")
    assert stocked.aliases.promote("course_rec@2", "prod").exit_code == 1, "another adapter"
    stocked.trust.revoke_key("ann", reason="lost")
    assert stocked.aliases.promote("course_rec@1", "prod").exit_code == 1
    assert stocked.aliases.show("course_rec#prod")["adapter"] == "course_rec_v1_20260115"


def test_without_the_extra_nothing_is_decided(stocked: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> list[str]:
        raise MissingExtraError("checking a signature", "sign")

    monkeypatch.setattr("fusery.registry.releases.promote.trusted_signers", missing)
    stocked.aliases.set_rules("prod", {"signed": True})
    undecided = stocked.aliases.promote("course_rec@1", "prod")
    assert (undecided.exit_code, undecided.rules[-1].hint) == (3, "pip install 'fusery[sign]'")
