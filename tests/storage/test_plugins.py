"""Plugins are found by the entry points of packages on the path, and what is wrong with one is called its own."""

from __future__ import annotations

# ruff: noqa: T201 - it is what is tested
import asyncio
import logging
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
from plugin_packages import write_package

from fusery.storage.errors import StorageError
from fusery.storage.plugins import (
    Plugin,
    PluginError,
    blaming,
    find_plugin,
    load_plugin,
    plugins,
    printing_to_stderr,
)

Captured = pytest.CaptureFixture[str]

TARGETS = "fusery.targets"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / uuid.uuid4().hex
    monkeypatch.syspath_prepend(folder)
    return folder


def test_plugins_are_listed_by_name_and_imported_only_when_loaded(packages: Path) -> None:
    entries = {"second": "some_plugin:THING", "first": "some_plugin:box.inner"}
    groups = {TARGETS: entries, "fusery.rules": {"house": "some_plugin:X"}}
    write_package(packages, "some-plugin", groups, "class box: inner = 5")
    assert [(each.name, str(each)) for each in plugins(TARGETS)] == [
        ("first", "some-plugin 1.2"),
        ("second", "some-plugin 1.2"),
    ]
    assert {each.group for each in plugins()} == {TARGETS, "fusery.rules"}
    assert "some_plugin" not in sys.modules
    found = find_plugin(TARGETS, "first")
    assert found is not None
    assert load_plugin(found) == 5
    assert find_plugin(TARGETS, "nothing") is None


def test_two_of_one_name_are_refused_by_their_packages(packages: Path) -> None:
    for name in ("one-package", "other-package"):
        write_package(packages, name, {TARGETS: {"same": "nowhere:X"}})
    (packages / "other_package-1.2.dist-info" / "METADATA").unlink()  # a package that was half removed
    with pytest.raises(PluginError) as caught:
        find_plugin(TARGETS, "same")
    assert "nowhere ? and one-package 1.2" in caught.value.message
    assert caught.value.hint == "pip uninstall one-package"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("", "AttributeError"),
        ("raise ValueError('two\\nlines ' + 'x' * 5000)", "ValueError: two lines xxx"),
    ],
    ids=["needs what is not there", "exits", "lacks it", "says much"],
)
def test_one_that_cannot_be_imported_is_named(packages: Path, source: str, said: str) -> None:
    name = f"broken-{abs(hash(source))}"
    write_package(packages, name, {TARGETS: {"broken": f"{name.replace('-', '_')}:THING"}}, source)
    [plugin] = plugins(TARGETS)
    with pytest.raises(PluginError) as caught:
        load_plugin(plugin)
    assert caught.value.message.startswith(f"the target broken of {name} 1.2 cannot be imported: {said}")
    assert len(caught.value.message) < 400 and "\n" not in caught.value.message
    assert f"pip uninstall {name}" in str(caught.value.hint)
    assert caught.value.exit_code == 2


PLUGIN = Plugin(TARGETS, "some", "some-package", "1.2", "some:X")


def test_names_that_are_taken_or_none_are_refused() -> None:
    with pytest.raises(PluginError, match="has the name of one of fusery's own"):
        load_plugin(PLUGIN, own=("some",))
    for name in ("Some", "", "a b", "x" * 33, "ü"):
        with pytest.raises(PluginError, match="has an invalid name"):
            load_plugin(Plugin(TARGETS, name, "some-package", "1.2", "some:X"))
    with pytest.raises(PluginError, match="has an invalid name"):
        load_plugin(Plugin("fusery.backends", "my_store", "some-package", "1.2", "some:X"))


@pytest.mark.parametrize(
    ("plugin", "error"),
    [
        (PLUGIN, StorageError("x")),
        (None, ZeroDivisionError()),
        (PLUGIN, KeyboardInterrupt()),
    ],
)
def test_what_is_not_the_plugin_s_fault_passes(plugin: Plugin | None, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, blaming(plugin):
        raise error
    assert caught.value is error


class Panic(BaseException):
    """What Rust's libraries and test runners raise is no Exception."""


@pytest.mark.parametrize("kind", [Panic, GeneratorExit, asyncio.CancelledError, SystemExit])
def test_whatever_is_raised_is_the_plugin_s(kind: type[BaseException]) -> None:
    with (
        pytest.raises(PluginError, match=f"some of some-package 1.2 failed: {kind.__name__}: no luck$"),
        blaming(PLUGIN),
    ):
        raise kind("no luck")


def test_a_line_that_is_no_entry_point_is_an_error(packages: Path) -> None:
    # Of any group: importlib looks at all of them.
    write_package(packages, "odd-package", {"console_scripts": {"thing": "odd:X"}})
    (packages / "odd_package-1.2.dist-info" / "entry_points.txt").write_text("[console_scripts]\nnonsense\n")
    with pytest.raises(PluginError):
        plugins()


def test_what_is_printed_in_a_plugin_goes_to_stderr(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sys.stdout
    with printing_to_stderr():
        print("one")
        with printing_to_stderr():
            sys.stdout.write("two\n")
            handler = logging.StreamHandler(sys.stdout)
        print("three", flush=True)
    print("four")
    handler.emit(logging.LogRecord("odd", logging.INFO, "", 1, "at work", (), None))
    assert capsys.readouterr() == ("four\n", "one\ntwo\nthree\nat work\n")
    assert sys.stdout is before
    monkeypatch.setattr(sys, "stdout", None)
    with printing_to_stderr():
        print("aside")
    assert sys.stdout is None


@pytest.mark.parametrize("left", ["None", "a file", "nothing", "an error"])
def test_stdout_is_restored(left: str, capsys: Captured, tmp_path: Path) -> None:
    before = sys.stdout
    with (tmp_path / "file").open("w") as file, suppress(ZeroDivisionError), printing_to_stderr():
        if left == "nothing":
            del sys.stdout
        elif left == "an error":
            raise ZeroDivisionError
        else:
            sys.stdout = {"None": None, "a file": file}[left]  # type: ignore[assignment]
    assert sys.stdout is before
    print("data")
    assert capsys.readouterr() == ("data\n", "")
