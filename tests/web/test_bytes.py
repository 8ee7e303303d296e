"""Pages that read bytes: what an audit finds and does not change, weights beside weights, and one of these at a time."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import pytest
from page_server import ask, pages_of

from fusery.registry import Registry

pytestmark = pytest.mark.timing

HTML, JSON = {"accept": "text/html"}, {"accept": "application/json"}


def test_an_audit_says_what_it_looked_at(shown: Registry, address: str) -> None:
    own = shown.upkeep.audit(("course_rec@7",)).to_dict()
    found = ask(address, "/audit?reference=course_rec%407", **JSON).json
    assert found["report"] == own and found["report"]["ok"]
    log = ask(address, "/audit?chain=true", **JSON).json["report"]
    assert log["checked"] == {"event": len(shown.upkeep.log())}
    both = ask(address, "/audit?reference=course_rec%407&chain=true", **JSON).json["report"]
    assert both["checked"] == own["checked"] | log["checked"]
    assert "No problem found" in ask(address, "/audit?chain=true", **HTML).text
    assert ask(address, "/audit?reference=nothing", **JSON).status == 404


def test_what_is_damaged_is_shown_and_stays_as_it_is(own: Registry) -> None:
    files = own.adapters.show("course_rec@7").files
    digest = next(file.sha256 for file in files if file.path.endswith(".safetensors"))
    [blob] = own.workspace.settings.home.rglob(str(digest))
    blob.chmod(0o600)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    before = own.upkeep.log()
    with pages_of(own) as address:
        page = ask(address, "/audit?reference=course_rec%407", **HTML)
        document = ask(address, "/audit?reference=course_rec%407", **JSON).json
        refused = ask(address, "/compare/weights?ref=course_rec%407&ref=course_rec%406", **JSON)
    [problem] = document["report"]["problems"]
    assert not document["report"]["ok"] and problem["digest"] == digest
    assert page.status == 200 and problem["code"] in page.text and "fusery audit --repair" in page.text
    assert (refused.status, refused.json["error"]["code"]) == (500, "blob_corrupt")
    assert blob.read_bytes() == data and own.upkeep.log() == before


def test_one_is_made_at_a_time_and_the_next_one_then(
    shown: Registry, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(
        "fusery.registry.upkeep.audit"
    )  # its package has a function of that name
    reached, free = threading.Event(), threading.Event()
    check = module.check_again

    def held(*args: Any) -> None:
        reached.set()
        assert free.wait(60)
        check(*args)

    monkeypatch.setattr(module, "check_again", held)
    answers: list[int] = []
    first = threading.Thread(
        target=lambda: answers.append(ask(address, "/audit?reference=course_rec%407", **JSON).status)
    )
    first.start()
    try:
        assert reached.wait(60)
        for path in ("/audit?chain=true", "/compare/weights?ref=course_rec%407&ref=course_rec%406"):
            refused = ask(address, path, **JSON)
            assert (refused.status, refused.json["error"]["code"]) == (429, "too_often"), path
        assert ask(address, "/audit", **JSON).status == 200  # which reads nothing
    finally:
        free.set()
        first.join()
    assert answers == [200]
    assert ask(address, "/audit?chain=true", **JSON).status == 200


def test_weights_are_those_of_the_api(shown: Registry, address: str) -> None:
    path = "/compare/weights?ref=course_rec%407&ref=course_rec%406"
    own = shown.adapters.diff("course_rec@7", "course_rec@6").to_dict()
    assert ask(address, path, **JSON).json == own
    page = ask(address, path, **HTML).text
    assert all(each["module"].rpartition(".")[2] in page for each in own["modules"])
    assert "/compare/weights?ref=" in ask(address, path.replace("/weights", ""), **HTML).text
    for wrong in ("", "?ref=course_rec%407", "?ref=a&ref=b&ref=c"):
        assert ask(address, "/compare/weights" + wrong, **JSON).status == 400
    assert ask(address, "/compare/weights?ref=course_rec%407&ref=nothing", **JSON).status == 404
