"""The trust policy: which keys are accepted, for which aliases, and until when."""

from __future__ import annotations

from pathlib import Path

import pytest
from signing_keys import Pair

from fusery.registry import Registry
from fusery.registry.errors import AlreadyExistsError, BadInputError, UnknownReferenceError


def actions(registry: Registry) -> list[str]:
    return [event.action for event in registry.upkeep.log() if event.kind == "key"]


def test_a_key_counts_for_its_aliases_until_it_is_revoked(
    stocked: Registry, key: Pair, stranger: Pair, tmp_path: Path
) -> None:
    trust = stocked.trust
    made = trust.add_key("Anna", key.public, [" Course_Rec#P* ", "*#canary", "*#canary"])
    assert (made.name, made.aliases, made.fused) == ("anna", ("*#canary", "course_rec#p*"), False)
    assert (made.created_by, made.revoked_at, made.signatures) == ("tester", None, 0)
    for _ in range(2):  # the second time changes nothing
        trust.sign("course_rec@1", key.signing())
    assert len(stocked.upkeep.log(action="adapter.signed")) == 1
    trust.sign("course_rec@2", stranger.signing())
    (tmp_path / "home" / "x").write_text("not on record")
    for folder, signer, notes in (("first", "anna", 0), ("second", None, 2), ("home", None, 3)):
        found, row = trust.verify(tmp_path / folder), stocked.adapters.show("course_rec@1")
        known = found.registry
        assert known is not None and (known.trusted, known.signer) == (signer is not None, signer)
        assert (known.kind is not None) == known.recorded == (folder != "home") and len(found.notes) == notes
        assert known.name == row.name or folder != "first"
    assert trust.add_key("anna", key.public, made.aliases).signatures == 1
    assert actions(stocked) == ["key.trusted"], "the same again changes nothing"
    changed = trust.add_key("anna", key.public, [], fused=True)
    assert (changed.key_id, changed.aliases, changed.fused) == (made.key_id, (), True)
    assert not trust.add_key("anna", key.public, ["*#prod"]).fused
    for name, public in (("bob", key.public), ("anna", stranger.public)):
        with pytest.raises(AlreadyExistsError):
            trust.add_key(name, public, ["*#prod"])
    trust.add_key("aaron", stranger.public, ["*#prod"])
    gone = trust.revoke_key(made.key_id[:8].upper(), reason="lost")
    assert (gone.name, gone.revoked_by) == ("anna", "tester") and gone.revoked_at
    assert trust.revoke_key("Anna") == gone
    revoked = trust.verify(tmp_path / "first")
    assert "revoked" in {problem.code for problem in revoked.problems}
    assert revoked.registry is not None and not revoked.registry.trusted
    for name in ("anna", "other"):
        with pytest.raises(AlreadyExistsError) as caught:
            trust.add_key(name, key.public, ["*#prod"])
        assert caught.value.hint == "fusery admin trust keygen NAME makes a new one"
    assert [each.name for each in trust.list_keys()] == ["aaron", "anna"]
    assert actions(stocked) == [*["key.trusted"] * 4, "key.revoked"]
    log = [event.detail for event in stocked.upkeep.log(action="key.revoked")]
    assert log == [{"key_id": made.key_id, "reason": "lost"}]
    assert stocked.upkeep.audit().ok


def test_invalid_keys_and_patterns_are_refused(sqlite_registry: Registry, key: Pair, tmp_path: Path) -> None:
    trust = sqlite_registry.trust
    (tmp_path / "none.pem").write_text("nothing")
    for public in (tmp_path / "none.pem", key.private):
        with pytest.raises(BadInputError):
            trust.add_key("anna", public, ["*#*"])
    every = [f"t{number}#prod" for number in range(101)]
    for aliases in ([], ["prod"], ["#prod"], ["a b#prod"], ["a#b#c"], ["x" * 129 + "#a"], every):
        with pytest.raises(BadInputError):
            trust.add_key("anna", key.public, aliases)
    with pytest.raises(BadInputError):
        trust.add_key("a b", key.public, ["*#*"])
    assert trust.list_keys() == [] and actions(sqlite_registry) == []
    made = trust.add_key("anna", key.public, every[:100])
    for name in ("nobody", made.key_id[:7]):
        with pytest.raises(UnknownReferenceError):
            trust.revoke_key(name)
