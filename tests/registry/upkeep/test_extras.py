"""The extras of an installation, by its own metadata."""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.upkeep.doctor import USES, packages_of

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
