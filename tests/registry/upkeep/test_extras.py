"""What `doctor` finds: extras of an installation, the parts of a registry, and a server."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import distribution
from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError
from fusery.registry.records.trust import OwnIdentity
from fusery.registry.upkeep.doctor import USES, Health, examine, examine_remote, packages_of

DECLARED = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]["optional-dependencies"]


def installed(folder: Path, name: str, *lines: str) -> None:
    """Leave a distribution as an installer does."""
    info = folder / f"{name.replace('-', '_')}-1.5.dist-info"
    info.mkdir()
    head = ("Metadata-Version: 2.1", f"Name: {name}", "Version: 1.5")
    (info / "METADATA").write_text("\n".join((*head, *lines)) + "\n", encoding="utf-8")


def test_an_extra_is_there_when_all_that_it_asks_for_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    installed(
        tmp_path,
        "app-x",
        *(f"Provides-Extra: {name}" for name in ("plain", "inner", "lacking", "both", "elsewhere")),
        "Requires-Dist: lib-x>=1",
        'Requires-Dist: lib-x>=1; extra == "plain"',
        "Requires-Dist: lib-x[fast]>=1 ; extra == 'inner'",
        f'Requires-Dist: none-x>=1; sys_platform == "{sys.platform}" and extra == "lacking"',
        'Requires-Dist: app-x[inner,plain]; extra == "both"',
        'Requires-Dist: lib-x; sys_platform == "plan9" and extra == "elsewhere"',
    )
    found = {
        name: packages_of(distribution("app-x"), name)
        for name in ("plain", "inner", "lacking", "both", "elsewhere")
    }
    assert found == {
        "plain": ["lib-x"],
        "inner": ["lib-x"],
        "lacking": ["none-x"],
        "both": ["lib-x"],
        "elsewhere": [],
    }


def test_doctor_has_every_extra_of_the_project(tmp_path: Path) -> None:
    assert list(DECLARED) == list(USES)
    with Registry.open(tmp_path / "home") as registry:
        checks = {check.name: check for check in registry.upkeep.doctor()}
    assert [name for name in checks if name.startswith("extra.")] == [f"extra.{name}" for name in DECLARED]
    for name in DECLARED:
        check = checks[f"extra.{name}"]
        assert check.detail.endswith(f": {USES[name]}")
        assert check.status in ("ok", "note")
        if check.hint:
            assert check.hint == f"pip install 'fusery[{name}]'"


def test_doctor_of_a_server_leaves_its_parts_to_it(sqlite_registry: Registry) -> None:
    workspace, url = sqlite_registry.workspace, "https://models.example.org"
    own = OwnIdentity(
        registry="r", name="ann", role="admin", version="1.5", expires_at=datetime(2027, 1, 5, tzinfo=UTC)
    )
    for identity, detail in (
        (own, f"{url}: fusery 1.5; ann, admin, until 2027-01-05"),
        (replace(own, version="", expires_at=None), f"{url}: ann, admin"),
    ):
        [server, *local] = examine_remote(workspace, url, lambda identity=identity: identity)
        assert (server.name, server.status, server.detail) == ("server", "ok", detail)
        names = {check.name for check in local}
        assert {"setting.user", "cache", "engine"} <= names
        assert names.isdisjoint({"database", "store", "setting.home", "setting.store_url"})
        assert Health((server, *local)).ok

    def refuse() -> OwnIdentity:
        raise BadInputError("no", hint="ask")

    [server, *_] = examine_remote(workspace, url, refuse)
    assert (server.status, server.detail, server.hint) == ("problem", "no", "ask")
    assert not Health((server,)).ok


def test_doctor_counts_records(sqlite_registry: Registry, tiny_base: Path) -> None:
    sqlite_registry.bases.add(tiny_base, name="tiny")
    checks = {check.name: check for check in examine(sqlite_registry.workspace)}
    assert checks["database"].detail == "1 base model, 0 adapters, 0 fused models"
    assert (checks["store"].status, checks["cache"].status) == ("ok", "ok")
    assert checks["cache"].detail.startswith("0 fused models, ")
