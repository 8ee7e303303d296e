"""Whose signatures count: recorded ones that verify, by keys that are trusted for the alias and not revoked."""

from __future__ import annotations

from pathlib import Path

import pytest
import signing_keys
from signing_keys import Pair
from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.registry import Registry, tables
from fusery.registry.errors import AlreadyExistsError, BadInputError, CheckFailedError, UnknownReferenceError
from fusery.registry.provenance.sign import SigningKey
from fusery.registry.records.views import signatures_of, trusted_signers

pytest.importorskip("model_signing")
REFERENCE, ALIAS = "course_rec@1", "course_rec#prod"

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def anna(tmp_path: Path) -> Pair:
    return signing_keys.write_pair(tmp_path, "anna")


@pytest.fixture
def bert(tmp_path: Path) -> Pair:
    return signing_keys.write_pair(tmp_path, "bert")


def counted(registry: Registry, alias: str = ALIAS, reference: str = REFERENCE) -> list[str]:
    digest = registry.adapters.show(reference)["digest"]
    with registry.workspace.database.read() as session:
        return trusted_signers(session, digest, alias)


def test_a_signature_counts_for_what_its_key_may(stocked: Registry, anna: Pair, bert: Pair) -> None:
    stocked.trust.sign(REFERENCE, anna.signing())
    with stocked.workspace.database.read() as session:
        digests = [stocked.adapters.show(reference).digest for reference in (REFERENCE, "course_rec@2")]
        assert [len(signatures_of(session, digest)) for digest in digests] == [1, 0]
    assert counted(stocked) == [], "a signature is worth nothing while nobody trusts its key"
    stocked.trust.add_key("Anna", anna.public, ["course_rec#prod", "other#*"])
    assert counted(stocked) == ["anna"]
    assert counted(stocked, "course_rec#staging") == []
    assert counted(stocked, reference="course_rec@2") == []
    stocked.trust.add_key("bert", bert.public, ["*#prod"])
    assert counted(stocked) == ["anna"]
    stocked.trust.sign(REFERENCE, bert.signing())
    assert counted(stocked) == ["anna", "bert"]
    stocked.trust.revoke_key("anna", reason="the laptop was stolen")
    assert counted(stocked) == ["bert"]


def change(session: Session, row: tables.SignatureRow, what: str) -> None:
    """Change a recorded signature as an intruder would, who cannot make one."""
    if what == "another subject":
        other = session.scalars(select(tables.AdapterRow).where(tables.AdapterRow.version == 2)).one()
        row.subject_digest = other.digest
    elif what == "another key":
        key = session.scalars(select(tables.TrustedKeyRow).where(tables.TrustedKeyRow.name == "bert")).one()
        row.key_id = key.key_id
    elif what == "no signature":
        row.envelope = "{}"
    else:
        row.envelope = row.envelope.replace('"sig":"M', '"sig":"N').replace('"sig": "M', '"sig": "N')


@pytest.mark.parametrize("what", ["another subject", "another key", "no signature", "another signature"])
def test_a_forged_row_counts_for_nothing(stocked: Registry, anna: Pair, bert: Pair, what: str) -> None:
    stocked.trust.sign(REFERENCE, anna.signing())
    stocked.trust.add_key("anna", anna.public, ["*#*"])
    stocked.trust.add_key("bert", bert.public, ["*#*"])
    assert counted(stocked) == ["anna"]
    with stocked.workspace.database.write() as session:
        change(session, session.scalars(select(tables.SignatureRow)).one(), what)
    assert counted(stocked) == counted(stocked, reference="course_rec@2") == []
    if what == "no signature":  # signing again makes it good
        assert not stocked.trust.sign(REFERENCE, anna.signing()).existed
        assert counted(stocked) == ["anna"]


def test_no_private_key_and_no_passphrase_is_on_record(stocked: Registry, tmp_path: Path) -> None:
    pair = signing_keys.write_pair(tmp_path, "locked", passphrase=b"correct horse")
    stocked.trust.sign(REFERENCE, SigningKey(pair.private, lambda: b"correct horse"))
    stocked.trust.add_key("locked", pair.public, ["*#*"])
    secrets = ("correct horse", "PRIVATE", pair.private.read_text().splitlines()[1])
    with stocked.workspace.database.read() as session:
        for table in (tables.SignatureRow, tables.TrustedKeyRow, tables.EventRow):
            for row in session.scalars(select(table)):
                said = " ".join(str(getattr(row, column.key)) for column in table.__table__.columns)
                assert not any(secret in said for secret in secrets)


def test_signatures_travel_with_what_they_are_over(stocked: Registry, anna: Pair, tmp_path: Path) -> None:
    bundle = stocked.bundles.materialize("course_rec@1", tmp_path / "out")
    by_path = stocked.trust.sign(str(tmp_path / "out"), anna.signing())
    assert (by_path.kind, by_path.digest) == ("bundle", bundle.manifest.digest)
    assert stocked.trust.sign(bundle.manifest.digest[:12], anna.signing()).existed
    moved = (tmp_path / "out").rename(tmp_path / "elsewhere")
    with pytest.raises(UnknownReferenceError):  # nobody signs a list by the place that a publisher named
        stocked.trust.sign(bundle.path, anna.signing())
    moved.rename(tmp_path / "out")
    assert [event["action"] for event in stocked.upkeep.log()].count("bundle.signed") == 1
    stocked.trust.sign(bundle.manifest.digest, anna.signing(), output=tmp_path / "again.sig")
    assert (tmp_path / "again.sig").read_bytes() == (tmp_path / "out.sig").read_bytes()


def test_verifying_with_the_registry(stocked: Registry, anna: Pair, bert: Pair, tmp_path: Path) -> None:
    stocked.bundles.materialize("course_rec@1", tmp_path / "out")
    assert stocked.trust.verify(tmp_path / "out").verdict == "unproven"
    stocked.trust.sign(str(tmp_path / "out"), anna.signing())
    stranger = stocked.trust.verify(tmp_path / "out")
    assert stranger.verdict == "unproven" and any("does not trust" in note for note in stranger.notes)
    stocked.trust.add_key("anna", anna.public, ["course_rec#prod"])
    (tmp_path / "out.sig").unlink()
    found = stocked.trust.verify(tmp_path / "out")
    assert (found.verdict, found.signer, found.signature) == ("verified", "anna", "registry")
    assert found.registry is not None
    assert (found.registry["kind"], found.registry["aliases"]) == ("bundle", ["course_rec#prod"])
    stocked.trust.revoke_key("anna")
    assert [problem.code for problem in stocked.trust.verify(tmp_path / "out").problems] == ["revoked"]
    with pytest.raises(BadInputError):
        stocked.trust.sign("tiny", anna.signing())
    (tmp_path / "out" / "README.md").write_text("x")
    with pytest.raises(CheckFailedError):  # a damaged bundle is not signed
        stocked.trust.sign(str(tmp_path / "out"), bert.signing(), output=tmp_path / "damaged.sig")
    assert not (tmp_path / "damaged.sig").exists()
    changed = stocked.trust.verify(tmp_path / "out")
    assert [problem.path for problem in changed.problems] == ["README.md"]
    assert changed.registry is not None and not changed.registry["recorded"]


def test_what_is_not_on_record_is_signed_beside_it(stocked: Registry, anna: Pair, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x").write_text("x")
    signed = stocked.trust.sign(str(tmp_path / "foreign"), anna.signing())
    assert (signed.recorded, signed.kind, signed.path) == (False, None, tmp_path / "foreign.sig")
    (tmp_path / "foreign.sig").write_text("my own notes")
    with pytest.raises(AlreadyExistsError):
        stocked.trust.sign(str(tmp_path / "foreign"), anna.signing())
    assert (tmp_path / "foreign.sig").read_text() == "my own notes"
    stocked.trust.sign(str(tmp_path / "foreign"), anna.signing(), force=True)
