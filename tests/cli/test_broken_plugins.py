"""What breaks a plugin ends the command that needs it with one sentence, whatever is raised and whoever asks."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fixture_types import Fusery
from plugin_packages import write_package

from fusery.storage.plugins import Group

RULE = "from fusery.registry.admission.code import Code, rule\nC = Code('odd-x', 'info', 'a', 'b')\n"
BROKEN = {
    "cannot be imported": ("raise RuntimeError('no luck')", "cannot be imported: RuntimeError: no luck"),
    "fails": (f"{RULE}@rule(C)\ndef X(_): raise RuntimeError('no luck')", "failed: RuntimeError: no luck"),
}


Install = Callable[[Group, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install the package `odd` with one plugin `odd`, of a group and of some Python."""

    def put(group: Group, source: str) -> None:
        write_package(tmp_path / "packages", "odd", {group: {"odd": "odd:X"}}, source)
        monkeypatch.syspath_prepend(tmp_path / "packages")

    sys.modules.pop("odd", None)
    yield put
    sys.modules.pop("odd", None)


# -- audits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("words", [(), ("course_rec@2",), ("--all", "--jobs", "2")], ids=str)
def test_nothing_is_audited_while_a_rule_is_broken(
    words: tuple[str, ...], case: str, stocked: Fusery, install: Install, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "home" / "fusery.db")) as database, database:
        database.execute("UPDATE adapter SET rank = rank + 1")
    assert "facts_differ" in stocked("audit", *words, "--json").out
    source, said = BROKEN[case]
    install("fusery.rules", source)
    done = stocked("audit", *words)
    assert (done.code, done.out) == (2, "")
    assert f"the rule odd of odd 1.2 {said}" in done.err
    assert stocked("audit", *words, "--json").json["error"]["code"] == "plugin_failed"


def test_nothing_is_made_again_while_a_backend_is_broken(
    stocked: Fusery, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stocked("fuse", "course_rec@2", "-q").code == 0
    install("fusery.backends", "1 / 0")
    monkeypatch.setenv("FUSERY_STORE_URL", "odd://somewhere/x")
    done = stocked("audit", "--rebuild")
    assert done.code == 2
    assert "the backend odd of odd 1.2 cannot be imported: ZeroDivisionError" in done.err
