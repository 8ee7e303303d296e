"""What a report says is what is on record, whatever was done to the database meanwhile, and no more than a page holds."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import html_tree
import pytest
import report_registry
from tampered_database import forced

from fusery.registry import Registry
from fusery.registry.errors import AlreadyExistsError, BadInputError, UnknownReferenceError
from fusery.registry.reporting import facts, task
from fusery.registry.reporting.facts import RecordsDamagedError


def test_versions_and_moves_are_those_of_history(shown: Registry) -> None:
    (section,) = shown.provenance.report("course_rec")["tasks"]
    wanted = shown.adapters.history("course_rec")
    for view, expected in zip(section["versions"], wanted, strict=True):
        assert {key: view[key] for key in expected} == expected.to_dict()
    (withdrawn,) = [view for view in section["versions"] if view["yanked_reason"] is not None]
    assert (withdrawn["version"], withdrawn["yanked_reason"]) == (4, "trained on the test set")
    assert section["versions_total"] == report_registry.VERSIONS
    assert [alias["alias"] for alias in section["aliases"]] == ["prod", "staging"]
    for alias in section["aliases"]:
        history = shown.aliases.history(f"course_rec#{alias['alias']}")
        assert alias["moves"] == [move.to_dict() for move in history]
        assert alias["moves_total"] == len(alias["moves"]) > 3
        assert alias["holder"] == alias["moves"][-1]["to"]
    for number, aliases in ((1, ["prod", "staging"]), (2, []), (6, ["staging"])):
        (section,) = shown.provenance.report(f"course_rec@{number}")["tasks"]
        assert [alias["alias"] for alias in section["aliases"]] == aliases


def test_curves_and_maps_are_those_on_record(shown: Registry) -> None:
    (section,) = shown.provenance.report("course_rec")["tasks"]
    assert [curve["version"] for curve in section["curves"]] == [2, 3, 4, 5, 6, 7]
    recorded = shown.adapters.show("course_rec@7")["curve"]
    assert [(point["iteration"], point["val_loss"]) for point in section["curves"][-1]["points"]] == [
        (point["iteration"], point["val_loss"]) for point in recorded
    ]
    assert [line["fidelity"]["verdict"] for line in section["fused"]] == ["PASS", "LOST"]
    (view,) = [each for each in section["maps"] if each["name"].startswith("course_rec_v3")]
    modules = shown.fused.fidelity("course_rec@3")["fidelity"]["modules"]
    known = {module["module"]: module["retained"] for module in modules}
    layer = view["layers"].index(2)
    cells = {row["label"]: row["cells"][layer] for row in view["rows"]}
    assert len(cells) == 7
    assert cells["q_proj"] == known["model.layers.2.self_attn.q_proj"]
    assert cells["down_proj"] == known["model.layers.2.mlp.down_proj"]
    assert [row["cells"][0] for row in view["rows"]] == [None] * 7


def test_signatures_say_whose_and_whether_they_hold(copied: Registry) -> None:
    (section,) = copied.provenance.report("course_rec")["tasks"]
    found = {(line["name"][:13], line["signer"]): line["state"] for line in section["signatures"]}
    assert found == {
        ("course_rec_v5", None): "unknown-key",
        ("course_rec_v5", "anna"): "good",
        ("course_rec_v3", "anna"): "good",
    }
    assert all(line["aliases"] == ["course_rec#*"] for line in section["signatures"] if line["signer"])
    with closing(sqlite3.connect(copied.workspace.settings.home / "fusery.db")) as database, database:
        database.execute(
            "UPDATE signature SET envelope = (SELECT envelope FROM signature WHERE id = 1) WHERE id = 2"
        )
    (section,) = copied.provenance.report("course_rec@5")["tasks"]
    assert sorted(line["state"] for line in section["signatures"]) == ["unknown-key", "wrong"]
    copied.trust.revoke_key("anna", reason="left")
    (section,) = copied.provenance.report("course_rec@3")["tasks"]
    assert [line["state"] for line in section["signatures"]] == ["revoked"]


def test_deployments_bundles_and_the_overview(shown: Registry) -> None:
    (section,) = shown.provenance.report("course_rec")["tasks"]
    places = [(line["place"], line["kind"], line["ended_at"] is None) for line in section["deployments"]]
    ranker = "prod-eu/ranker"
    assert places == [("lab", "adapter", True), (ranker, "bundle", True), (ranker, "adapter", False)]
    assert section["deployments"][0]["yanked"] == "trained on the test set"
    bundles = [(bundle["target"], bundle["adapters"]) for bundle in section["bundles"]]
    assert bundles == [("model", [section["versions"][4]["name"]])]
    found = shown.provenance.report()
    listed = [(line["task"], line["versions"], line["newest"]["version"]) for line in found["tasks_listed"]]
    assert listed == [("course_rec", 7, 7), ("mail", 1, 1)]
    aliases = [(each["alias"], each["version"]) for each in found["tasks_listed"][0]["aliases"]]
    assert aliases == [("prod", 5), ("staging", 6)]
    assert found["registry"]["counts"] == {"tasks": 2, "bases": 2, "adapters": 8, "fused": 2, "bundles": 1}
    assert found["registry"]["log"]["hash"] == shown.upkeep.log(limit=1)[-1]["hash"]


def test_a_page_says_what_it_leaves_out(
    shown: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, most in (
        (task, "MOST_VERSIONS", 3),
        (task, "MOST_CURVES", 2),
        (task, "MOST_ROWS", 2),
        (task, "MOST_POINTS", 8),
        (facts, "MOST_SECTIONS", 1),
    ):
        monkeypatch.setattr(module, name, most)
    written = shown.provenance.report(html=tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "1 task, with the newest versions, has a section below" in page
    assert [section["task"] for section in written["tasks"]] == ["mail"]
    shown.provenance.report("course_rec", html=tmp_path / "b.html")
    page = (tmp_path / "b.html").read_text(encoding="utf-8")
    for words in ("3 of 7 versions", "2 of 3 curves", "2 of 5 moves", "2 of 3 deployments"):
        assert f"The newest {words} are shown." in page
    assert re.search(r"\d of 61 points are shown, in the picture too", page)
    # The requested adapter is included, although it is not among the newest.
    (section,) = shown.provenance.report("course_rec@1")["tasks"]
    assert [view["version"] for view in section["versions"]] == [1, 5, 6, 7]


def test_a_database_that_was_edited_is_told_of(copied: Registry, tmp_path: Path) -> None:
    assert copied.provenance.report("course_rec", html=tmp_path / "a.html").ok
    with closing(sqlite3.connect(copied.workspace.settings.home / "fusery.db")) as database, database:
        database.execute("UPDATE adapter SET val_loss = 0.1 WHERE version = 6")
    written = copied.provenance.report("course_rec", html=tmp_path / "b.html")
    assert not written.ok
    (problem,) = written["audit"]["problems"]
    assert (problem["code"], problem["subject"].split()[0]) == ("record_changed", "adapter")
    page = html_tree.parse((tmp_path / "b.html").read_text(encoding="utf-8")).text
    assert "The audit found 1 problem." in page
    assert problem["subject"] in page


@pytest.mark.parametrize(
    "edit",
    [
        "curve_point SET train_loss = 'x'",
        pytest.param("alias_move SET reason = X'ff'", marks=pytest.mark.slow),
        pytest.param("event SET detail = '[]' WHERE subject = 'course_rec#prod'", marks=pytest.mark.slow),
    ],
)
def test_damaged_records_are_reported(edit: str, copied: Registry, tmp_path: Path) -> None:
    """A report of edited records is refused, or says that its audit found something."""
    with forced(copied.workspace.settings.home / "fusery.db") as database:
        database.execute(f"UPDATE {edit}")
    try:
        written = copied.provenance.report(html=tmp_path / "a.html")
    except RecordsDamagedError:
        assert not (tmp_path / "a.html").exists()
    else:
        assert not written.ok
        json.dumps(written.to_dict(), allow_nan=False)


def test_all_bytes_are_read_on_request(copied: Registry) -> None:
    store = copied.workspace.settings.home / "store"
    blob = max((path for path in store.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    blob.chmod(0o600)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert copied.provenance.report("course_rec").ok
    found = copied.provenance.report("course_rec", audit=True)["audit"]
    assert found["whole"]
    assert [problem["code"] for problem in found["problems"]] == ["blob_corrupt"]


def test_what_cannot_be_reported_on(shown: Registry, tmp_path: Path) -> None:
    with pytest.raises(UnknownReferenceError, match="cours_rec"):
        shown.provenance.report("cours_rec")
    with pytest.raises(BadInputError) as caught:
        shown.provenance.report("tiny-4bit")
    assert caught.value.hint == "fusery list --base tiny-4bit"
    with pytest.raises(BadInputError) as caught:
        shown.provenance.report(html=tmp_path / "a.pdf")
    assert caught.value.hint == "--html report.html"
    (tmp_path / "a.html").write_text("mine")
    with pytest.raises(AlreadyExistsError):
        shown.provenance.report(html=tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text() == "mine"
    key = shown.fused.fidelity("course_rec@3")["key"]
    name = shown.adapters.show("course_rec@3")["name"]
    assert shown.provenance.report(key[:12])["subject"] == name, "a fused model stands for its adapter"
