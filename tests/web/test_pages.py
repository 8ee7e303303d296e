"""Every page: what it shows, in both forms, and what becomes of what is not there."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import html_tree
import pytest
import report_registry
import tiny_models
from page_server import Answer, ask, pages_of
from report_registry import places

from fusery.registry import Registry
from fusery.registry.charts.text import shown as shown_text
from fusery.web import sheets
from fusery.web.limits import HEADERS

pytestmark = pytest.mark.timing

HTML, JSON = {"accept": "text/html"}, {"accept": "application/json"}
REFUSED = ("no such adapter", "no such page")


@pytest.fixture(scope="module")
def answers(shown: Registry, address: str) -> dict[str, tuple[Answer, Answer]]:
    return {
        name: (ask(address, path, **HTML), ask(address, path, **JSON)) for name, path in places(shown).items()
    }


def test_each_is_a_page_and_the_same_as_json(answers: dict[str, tuple[Answer, Answer]]) -> None:
    """And what strangers wrote is text in it: the registry has what breaks pages wherever people write."""
    held = [json.dumps(document.json, ensure_ascii=False) for _, document in answers.values()]
    hostile = json.dumps(report_registry.HOSTILE, ensure_ascii=False)[1:-1]
    assert sum(hostile in each for each in held) >= 3
    shown = 0
    for name, (page, document) in answers.items():
        assert page.status == document.status == (404 if name in REFUSED else 200), name
        assert page.headers["content-type"] == "text/html; charset=utf-8", name
        assert document.headers["content-type"] == "application/json", name
        assert page.text.count("<h1>") == 1, name
        for answer in (page, document):
            assert {key: answer.headers[key.lower()] for key in HEADERS} == HEADERS
            assert "accept" in answer.headers["vary"].lower()
        tree = html_tree.parse(page.text)
        elements = list(tree.walk())
        assert not {each.name for each in elements} & {"script", "iframe", "object", "embed", "style"}, name
        assert not [key for each in elements for key in each.attributes if key.startswith("on")], name
        links = [each.attributes.get("href", "") or "" for each in elements]
        assert not [link for link in links if link.startswith(("javascript:", "//"))], name
        shown += "<script>alert(1)" in tree.text
    assert shown >= 3


def test_every_link_leads_somewhere(address: str, answers: dict[str, tuple[Answer, Answer]]) -> None:
    links = {
        link.replace("&amp;", "&")
        for page, _ in answers.values()
        for link in re.findall(r'<(?:a|link)[^>]* href="([^"#]+)', page.text)
        if not link.startswith("data:")
    }
    inner = {link for link in links if link.startswith("/")}
    assert len(inner) > 30
    assert {link for link in links if not link.startswith(("/", "?"))} == set()
    for link in sorted(inner):
        assert ask(address, link, **HTML).status == 200, link


def test_it_says_what_the_api_says(shown: Registry, answers: dict[str, tuple[Answer, Answer]]) -> None:
    adapter = shown.adapters.list(task="course_rec", sort="version:desc", limit=1)[0]
    assert answers["adapter"][1].json == shown.adapters.show(adapter.name).to_dict()
    assert answers["base"][1].json == shown.bases.show(adapter.base).to_dict()
    assert "Where it is lost" in answers["fused"][0].text and "<figure>" in answers["fused"][0].text
    held = {alias.alias for alias in shown.aliases.list()}
    start = answers["start"][1].json
    assert {f"{line['task']}#{each['alias']}" for line in start["tasks"] for each in line["aliases"]} == held
    for line in start["tasks"]:
        newest = shown.adapters.history(line["task"])[-1]
        assert (line["adapter"], line["version"]) == (newest.name, newest.version)
    assert start["waiting"] == [each.to_dict() for each in shown.aliases.waiting(shown.adapters.tasks())]
    assert start["waiting"] and "Waiting for approval" in answers["start"][0].text
    events = shown.upkeep.log(limit=12)
    assert [each["seq"] for each in start["events"]] == [event.seq for event in reversed(events)]
    assert answers["none fits"][1].json["versions"] == []


def test_versions_are_sorted_by_links(shown: Registry, address: str) -> None:
    page = ask(address, "/tasks/course_rec?where=val_loss+%3C+9", **HTML)
    links = re.findall(r'<a href="(\?sort=[^"]+)"', page.text)
    assert len(links) == 4
    for link in links:
        path = "/tasks/course_rec" + link.replace("&amp;", "&")
        sorted_by = ask(address, path, **JSON).json
        assert sorted_by["where"] == "val_loss < 9"
        names = [each["name"] for each in sorted_by["versions"]]
        wanted = shown.adapters.list(task="course_rec", where="val_loss < 9", sort=sorted_by["sort"])
        assert names == [each.name for each in wanted]


def test_long_lists_are_paged(shown: Registry, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def pages_from(path: str, following: str) -> Iterator[Any]:
        while True:
            page = ask(address, path, **JSON).json
            yield page
            if page["next"] is None:
                return
            path = following.format(page["next"])

    monkeypatch.setattr(sheets, "PAGE", 7)
    logged = [[each["seq"] for each in page["events"]] for page in pages_from("/log", "/log?before={}")]
    assert [seq for page in logged for seq in page] == [event.seq for event in reversed(shown.upkeep.log())]
    assert {len(page) for page in logged[:-1]} == {7}
    monkeypatch.setattr(sheets, "TASKS", 1)
    tasks = [each["task"] for page in pages_from("/", "/?after={}") for each in page["tasks"]]
    assert tasks == sorted({adapter.task for adapter in shown.adapters.list()})
    monkeypatch.setattr(sheets, "PAGE", 3)
    path = "/tasks/course_rec?sort=version&offset="
    versions = [each["version"] for page in pages_from(path + "0", path + "{}") for each in page["versions"]]
    assert versions == [each.version for each in shown.adapters.history("course_rec")]


def test_a_search_leads_to_what_it_means(shown: Registry, address: str) -> None:
    adapter = shown.adapters.list(task="course_rec", sort="version:desc", limit=1)[0]
    fused = next(
        line.key for each in shown.adapters.list() for line in shown.adapters.show(each.name).fused or ()
    )
    meant = {
        adapter.name: f"/adapters/{adapter.name}",
        "course_rec@latest": f"/adapters/{adapter.name}",
        adapter.digest[:16]: f"/adapters/{adapter.name}",
        adapter.base: f"/bases/{adapter.base}",
        fused[:20]: f"/fused/{fused}",
    }
    for query, place in meant.items():
        answer = ask(address, f"/search?q={quote(query)}", **HTML)
        assert (answer.status, answer.headers.get("location")) == (303, place), query
    many = ask(address, "/search?q=i", **HTML)
    assert (many.status, "/tasks/mail" in many.text, "/bases/tiny" in many.text) == (200, True, True)
    versions = ask(address, "/search?q=course_rec_v", **JSON).json
    assert len(versions["adapters"]) == len(shown.adapters.history("course_rec"))
    assert ask(address, "/search?q=", **HTML).status == 200


WRONG: dict[int, list[str]] = {
    404: [
        "/tasks/nope",
        "/tasks/nope?where=val_loss+%3C",
        "/adapters/..%2f..%2fetc%2fpasswd",
        "/adapters/%00",
        "/fused/zz",
        "/aliases/course_rec/nope",
        "/log?reference=nope",
        "/static/../app.py",
    ],
    400: [
        "/tasks/course_rec?where=foo(",
        "/tasks/course_rec?where=" + "x" * 3000,
        "/tasks/course_rec?sort=nothing",
        "/tasks/course_rec?offset=-1",
        "/log?before=0",
        "/log?since=yesterdayish",
        "/log?action=nothing.done",
        "/compare?ref=course_rec@1",
        "/compare?" + "&".join(["ref=x"] * 60),
    ],
    200: ["/tasks/course_rec?offset=999999999", "/search?q=%00", "/style.css"],
}


def test_what_is_wrong_is_one_sentence(address: str) -> None:
    for status, path in ((status, path) for status, paths in WRONG.items() for path in paths):
        page, document = ask(address, path, **HTML), ask(address, path, **JSON)
        assert (page.status, document.status) == (status, status), (path, page.text)
        if status >= 400:
            error = document.json["error"]
            assert error["message"] and error["code"], error
            assert "Traceback" not in page.text
            assert "<h1>" in page.text


def test_pages_can_be_read_and_not_changed(address: str) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        refused = ask(address, "/tasks/course_rec", method=method, **JSON)
        assert (refused.status, "GET" in refused.headers["allow"]) == (405, True)
    page, head = (ask(address, "/tasks/course_rec", method=method, **HTML) for method in ("GET", "HEAD"))
    assert (head.status, head.text) == (200, "")
    assert head.headers["content-length"] == page.headers["content-length"]


def test_a_filter_that_is_wrong_can_be_mended(address: str) -> None:
    page = ask(address, "/tasks/course_rec?where=val_loss+%3C&sort=rank", **HTML)
    assert page.status == 400
    assert 'value="val_loss &lt;"' in page.text and 'value="rank"' in page.text


def test_what_is_withdrawn_is_said_to_be_everywhere(answers: dict[str, tuple[Answer, Answer]]) -> None:
    def told(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for each in value.get("withdrawals") or ():
                if isinstance(each, dict):
                    yield each["reason"] if each["relation"] == "itself" else each["summary"]
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from told(each)

    seen = 0
    for name, (page, document) in answers.items():
        text = " ".join(html_tree.parse(page.text).text.split())
        for said in set(told(document.json)):
            assert " ".join(shown_text(said).split()) in text, (name, said)
            seen += 1
    assert seen > 5


@pytest.fixture
def damaged(own: Registry) -> Iterator[tuple[Registry, str]]:
    with pages_of(own) as served:
        yield own, served


def edit(registry: Registry, statement: str) -> None:
    place = Path(registry.workspace.settings.home) / "fusery.db"
    with closing(sqlite3.connect(place)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement)


def test_edited_values_are_harmless_in_both_forms(damaged: tuple[Registry, str]) -> None:
    """Nothing that fusery records is infinite or has a password in a URL; somebody may have written it by other means."""
    registry, address = damaged
    edit(registry, "UPDATE adapter SET val_loss = 9e999, note = 'see https://u:PASSWORD@h.example/x'")
    long = "https://admin:SECRETSECRETxSECRET@very-long-host.example.com/service/a/b/c"
    edit(registry, f"UPDATE deployment SET place = '{long}'")
    adapter = "course_rec%23prod"
    for path in ("/", "/tasks/course_rec", f"/adapters/{adapter}", "/places", f"/lineage/{adapter}"):
        for kind in (HTML, JSON):
            answer = ask(address, path, **kind)
            assert answer.status == 200, path
            assert "PASSWORD" not in answer.text and "SECRETSECRET" not in answer.text, path
            if kind is JSON and "val_loss" in answer.text:
                assert '"val_loss":null' in answer.text, path


def test_a_registry_that_is_damaged_is_our_fault_and_shows_nothing_of_us(
    damaged: tuple[Registry, str], capfd: pytest.CaptureFixture[str]
) -> None:
    registry, address = damaged
    for statement, path in (
        ("UPDATE base_model SET created_at = 'zz'", "/bases"),
        ("UPDATE adapter SET created_at = 'zz'", "/adapters/course_rec@1"),
        ("ALTER TABLE adapter RENAME COLUMN note TO noted", "/tasks/course_rec"),
    ):
        edit(registry, statement)
        for kind in (HTML, JSON):
            answer = ask(address, path, **kind)
            assert answer.status == 500
            assert {key: answer.headers[key.lower()] for key in HEADERS} == HEADERS
            assert "Traceback" not in answer.text and str(Path(__file__).parents[2]) not in answer.text
    assert "Traceback" not in "".join(capfd.readouterr())


def test_pages_say_the_whole_number_and_what_is_over(own: Registry, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "base", layers=2)
    own.bases.add(base, name="seeded")
    for seed in (1, 2):
        folder = tiny_models.make_adapter(tmp_path / f"a{seed}", base, seed=seed)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "seed": 20261120 + seed}))
        own.adapters.register(folder, base="seeded", task="seeded")
    own.deployments.record("seeded@1", "eu/ranker")
    own.deployments.record("seeded@1", "us/ranker")
    own.deployments.end(["eu/ranker"], reason="moved")
    with pages_of(own) as address:
        compared = ask(address, "/compare?ref=seeded@1&ref=seeded@2", **HTML).text
        assert "20,261,121" in compared and "20,261,122" in compared and "2.026" not in compared
        lineage = html_tree.parse(ask(address, "/lineage/seeded@1", **HTML).text)
        said = ["".join(row.text.split()) for row in lineage.all("tr")]
        runs = [row.partition("adapter")[0] for row in said if row.startswith("deployment")]
        assert runs == ["deploymenteu/rankerran", "deploymentus/rankerruns"]


def test_a_lineage_of_too_much_is_no_picture_anywhere(
    shown: Registry, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(address, "/pictures/lineage/course_rec%407").headers["content-type"] == "image/svg+xml"
    monkeypatch.setattr(sheets, "DRAWN", 1)
    refused = ask(address, "/pictures/lineage/course_rec%407", **JSON)
    assert refused.status == 400
    page = ask(address, "/lineage/course_rec%407", **HTML)
    assert page.status == 200 and "/pictures/" not in page.text
