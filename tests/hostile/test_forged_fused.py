"""Forged fused models on the other side of pull and push: their records are claims until they are computed here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hostile.forgery import ADAPTER, KEEP, Bring, Forge, forged_fused, forging, setting
from signing_keys import write_pair
from sqlalchemy import delete, select

from fusery.registry import Registry, Reporter, tables
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FuseryError


@pytest.fixture
def forged(published: None, liar: Registry, ours: Registry, bring: Bring) -> str:
    """Transfer a fused artifact with the right key, the wrong weights and the verdict PASS; return the key."""
    key = forged_fused(liar)
    bring(fused=True)
    return key


def test_a_claim_counts_for_nothing_and_is_refuted(ours: Registry, forged: str) -> None:
    ours.aliases.set_rules("prod", {"fidelity": "DEGRADED"})
    judged = ours.aliases.promote(ADAPTER, "prod")
    assert (judged.verdict, judged.moved) == ("unknown", False)
    asked = FuseRequest("keep", accept_loss=True, accept_foreign=True)
    first = ours.fused.fuse(ADAPTER, asked)
    assert (first.source, first["foreign"]["key"]) == ("store", forged)
    assert ours.fused.fuse(ADAPTER, asked).source == "cache"
    [entry] = ours.cache.contents()["entries"]
    assert entry["foreign"]["key"] == forged != entry["key"]
    lines: list[str] = []
    made = ours.fused.fuse(ADAPTER, KEEP, reporter=Reporter(lines.append))
    assert (made.source, made["key"], made["foreign"]) == ("computed", forged, None)
    assert any("FALSE" in line for line in lines)
    [refuted] = [event for event in ours.upkeep.log() if event["action"] == "fused.refuted"]
    assert refuted["detail"]["made"] == made["digest"] != refuted["detail"]["claimed"] == first["digest"]
    for request in (KEEP, asked):  # what is ours comes first
        again = ours.fused.fuse(ADAPTER, request)
        assert (again.source, again["digest"]) == ("cache", made["digest"])
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "passed"
    assert ours.upkeep.audit().ok


def test_foreign_is_shown_everywhere(ours: Registry, forged: str, liar: Registry, tmp_path: Path) -> None:
    origin = liar.workspace.identity
    [line] = ours.adapters.show(ADAPTER)["fused"]
    assert line["foreign"] == {"registry": origin, "key": forged, "signed_by": [], "rebuilt": None}
    nodes = ours.provenance.lineage(ADAPTER).to_dict()["nodes"]
    assert [node["name"] for node in nodes if node["kind"] == "fused"] == [
        "course_rec_v1_20260115 (keep, foreign)"
    ]
    assert any("foreign" in note for note in ours.upkeep.audit().notes)
    assert ours.fused.fidelity(ADAPTER)["foreign"]["registry"] == origin
    with pytest.raises(BadInputError) as caught:
        ours.provenance.attest(line["key"])
    assert caught.value.hint == "make it here: fusery fuse course_rec_v1_20260115 --as keep"
    with pytest.raises(BadInputError) as caught:
        ours.exchange.push(line["key"], tmp_path / "third")
    assert caught.value.hint == "fuse it in this registry first: fusery fuse"
    bundle = ours.bundles.materialize(
        ADAPTER, tmp_path / "bundle", request=FuseRequest("keep", accept_loss=True, accept_foreign=True)
    )
    assert bundle.to_dict()["foreign"]["registry"] == origin
    record = json.loads((tmp_path / "bundle" / "fusery.json").read_bytes())
    assert record["provenance"]["foreign"]["registry"] == origin
    assert "not made by who wrote this" in (tmp_path / "bundle" / "README.md").read_text()


@pytest.mark.usefixtures("published")
def test_a_claim_that_is_true_is_confirmed(liar: Registry, ours: Registry, bring: Bring) -> None:
    liar.fused.fuse(ADAPTER, KEEP, publish="full")
    bring(fused=True)
    said: list[str] = []
    ours.fused.fuse(ADAPTER, KEEP, reporter=Reporter(said.append))
    assert any("same bytes" in line for line in said)
    assert [event["action"] for event in ours.upkeep.log()].count("fused.confirmed") == 1
    assert {
        line["foreign"] and line["foreign"]["rebuilt"] for line in ours.adapters.show(ADAPTER)["fused"]
    } == {None, "same"}


@pytest.mark.usefixtures("published")
def test_audit_rebuilds_a_true_claim(liar: Registry, ours: Registry, bring: Bring, tmp_path: Path) -> None:
    key = str(liar.fused.fuse(ADAPTER, KEEP, publish="full")["key"])
    bring(fused=True)
    ours.aliases.set_rules("prod", {"fidelity": "DEGRADED"})
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "unknown"
    report = ours.upkeep.audit_rebuild()
    assert [one.verdict for one in report.rebuilt] == ["bit-identical"]
    assert [line["key"] for line in ours.adapters.show(ADAPTER)["fused"] if line["foreign"] is None] == [key]
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "passed"


def test_an_audit_that_makes_a_forged_one_again_says_so(ours: Registry, forged: str) -> None:
    report = ours.upkeep.audit_rebuild()
    assert [problem.code for problem in report.problems] == ["rebuild_differs"]
    assert [
        line["foreign"]["rebuilt"] for line in ours.adapters.show(ADAPTER)["fused"] if line["foreign"]
    ] == ["other"]


@pytest.mark.usefixtures("published")
def test_a_claimed_loss_blocks_nothing(liar: Registry, ours: Registry, bring: Bring) -> None:
    forged_fused(liar, altering=False, verdict="LOST", retained=0.0)
    bring(fused=True)
    assert ours.fused.fuse(ADAPTER, FuseRequest("keep"))["fidelity"]["verdict"] != "LOST"


@pytest.mark.usefixtures("published")
def test_contradicted_claim_stays_out(made: Path, liar: Registry, ours: Registry, bring: Bring) -> None:
    ours.bases.add(str(made / "tiny"), name="tiny")
    ours.adapters.register(made / "adapters", base="tiny", task="course_rec", date="20260115", val_loss=0.6)
    own = ours.fused.fuse(ADAPTER, KEEP)
    forged_fused(liar)
    done = bring(fused=True)
    assert (done.items_[-1].state, "false" in str(done.items_[-1].reason)) == ("left out", True)
    assert ours.fused.fuse(ADAPTER, KEEP)["digest"] == own["digest"]


def _files_of_another(liar: Registry, _: Path) -> None:
    other = liar.fused.fuse(ADAPTER, FuseRequest("keep", scale=3.0, accept_loss=True), publish="full")
    liar.fused.fuse(ADAPTER, KEEP, publish="full")
    with forging(liar) as session:
        rows = {row.key: row for row in session.scalars(select(tables.FusedRow))}
        source = rows.pop(str(other["key"]))
        (row,) = rows.values()
        row.manifest_id, row.digest, row.bytes = source.manifest_id, source.digest, source.bytes
        session.execute(
            delete(tables.ModuleFidelityRow).where(tables.ModuleFidelityRow.fused_id == source.id)
        )
        session.execute(delete(tables.FusedRow).where(tables.FusedRow.id == source.id))


IMPOSSIBLE: dict[str, tuple[Forge, str]] = {
    "a key that nothing leads to": (
        setting(tables.FusedRow, key=digest_bytes(b"another base")),
        "does not match its base model",
    ),
    "a recipe of another precision": (
        setting(tables.FusedRow, precision="dequantize"),
        "does not match its recipe",
    ),
    "a recipe that is none": (setting(tables.FusedRow, recipe={"x": 1}), "invalid recipe"),
    "a size that is none of its files'": (setting(tables.FusedRow, bytes=1), "bytes"),
    "the files of another artifact": (_files_of_another, "wrong fusery.key"),
}


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_fused_record(
    case: str, liar: Registry, ours: Registry, bring: Bring, tmp_path: Path
) -> None:
    forge, said = IMPOSSIBLE[case]
    forge(liar, tmp_path)
    with pytest.raises(FuseryError, match=said):
        bring(fused=True)
    with ours.workspace.database.read() as session:
        assert session.scalars(select(tables.FusedRow)).all() == []


@pytest.mark.usefixtures("published")
def test_signed_claim_counts(liar: Registry, ours: Registry, bring: Bring, tmp_path: Path) -> None:
    ann = write_pair(tmp_path, "ann")
    key = str(liar.fused.fuse(ADAPTER, KEEP, publish="full")["key"])
    liar.trust.sign(key, ann.signing())
    bring(fused=True)
    ours.aliases.set_rules("prod", {"fidelity": "DEGRADED"})
    ours.trust.add_key("ann", ann.public, ["*#*"])
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "unknown", (
        "trusted for aliases is not trusted for fused artifacts"
    )
    ours.trust.add_key("ann", ann.public, ["*#*"], fused=True)
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "passed"
    fetched = ours.fused.fuse(ADAPTER, KEEP)
    assert (fetched.source, fetched["foreign"]["signed_by"]) == ("store", ["ann"])
    ours.trust.revoke_key("ann", reason="lost")
    assert ours.fused.fuse(ADAPTER, KEEP).source == "computed"


@pytest.mark.usefixtures("published")
def test_signature_covers_the_verdict(liar: Registry, ours: Registry, bring: Bring, tmp_path: Path) -> None:
    ann = write_pair(tmp_path, "ann")
    ours.trust.add_key("ann", ann.public, [], fused=True)
    made = liar.fused.fuse(ADAPTER, KEEP, publish="full")
    liar.trust.sign(str(made["key"]), ann.signing())
    other = {"PASS": "DEGRADED"}.get(made["fidelity"]["verdict"], "PASS")
    setting(tables.FusedRow, verdict=other)(liar, Path())
    bring(fused=True)
    [line] = ours.adapters.show(ADAPTER)["fused"]
    assert line["foreign"]["signed_by"] == []
    ours.aliases.set_rules("prod", {"fidelity": "DEGRADED"})
    assert ours.aliases.promote(ADAPTER, "prod").verdict == "unknown"
