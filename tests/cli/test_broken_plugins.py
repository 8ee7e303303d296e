"""A broken plugin ends the command that needs it with one error, and no other command."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixture_types import Fusery
from plugin_packages import write_package

from fusery.storage import plugins
from fusery.storage.plugins import Group

TARGET = "from fusery.registry.bundles import Target\n"
ODD_TARGET = f"{TARGET}X = Target('odd', 'odd')\n"
RULE = "from fusery.registry.admission.code import Code, rule\nC = Code('odd-x', 'info', 'a', 'b')\n"
BACKEND = "from fusery.storage.locate import Protocol\nX = Protocol('odd', '', {}, maker='odd')\n"
TRACKED = """
from fusery.registry.exchange.tracked_run import UNKNOWN, TrackedRun
def fetch(path, place): 1 / 0
def X(*_, **__): yield TrackedRun("r", "r", "p", UNKNOWN, {}, %s, fetch)
"""
PANIC = "class Panic(BaseException): pass\n"
MUTE = "class Mute(Exception):\n    def __str__(self): raise ValueError\n"
UNBOUND = "class Unbound:\n    @property\n    def __class__(self): raise RuntimeError('no luck')\n"
FAILED = "failed: Panic: no luck"

NEEDS: dict[Group, tuple[str, ...]] = {
    "fusery.targets": ("materialize", "course_rec@2", "out", "--target", "odd"),
    "fusery.rules": ("check", "first", "--base", "tiny"),
    "fusery.sources": ("register", "odd://somewhere"),
    "fusery.backends": ("admin", "gc"),
}
"""A command that needs a plugin of a group."""

BROKEN: dict[Group, list[tuple[str, str]]] = {
    "fusery.targets": [
        ("X = 5", "is no Target"),
        (f"{TARGET}X = Target('other', 'odd')", "calls itself 'other'"),
        (f"{TARGET}X = Target('odd', 'odd', ('models',))", "has invalid contents"),
        (ODD_TARGET, "has no functions write and check"),
        (f"{TARGET}X = Target('odd', 'odd.nowhere')", "cannot be imported: ModuleNotFoundError"),
        (f"{ODD_TARGET}def write(*_): 1 / 0\ndef check(_): pass", "failed: ZeroDivisionError: division by zero"),
        (f"{ODD_TARGET}def write(_, b, __): b.write('a', b'a')\ndef check(_): pass", "returns no Layout"),
        (f"{PANIC}{ODD_TARGET}def check(_): pass\ndef write(*_): raise Panic('no luck')", FAILED),
        (f"{UNBOUND}X = Unbound()", "failed: RuntimeError: no luck"),
    ],
    "fusery.rules": [
        ("def X(_): return []", "is no Rule"),
        (f"{RULE}@rule(Code('pickle_file', 'info', 'a', 'b'))\ndef X(_): return iter(())", "the code 'pickle_file'"),
        (f"{RULE}@rule(Code('odd-x', 'info', 'a', 'b', fixed=True))\ndef X(_): return iter(())", "fixed code odd-x"),
        (f"{RULE}from fusery.registry.admission.code import Rule\nX = Rule(lambda _: iter(()), C)", "tuple of codes"),
        (f"{RULE}@rule(Code('odd-x', 'info', 'a', None))\ndef X(_): return iter(())", "a code that is no Code"),
        (f"{RULE}@rule(C)\ndef X(candidate): yield candidate.nothing", "failed: AttributeError"),
        (f"{RULE}@rule(C)\ndef X(_): yield Code('odd-y', 'info', 'a', 'b').finding('.', 'a')", "something else"),
        (f"{RULE}@rule(C)\ndef X(_): yield C.finding('.', 'a' + chr(0))", "something else"),
        (f"{PANIC}{RULE}@rule(C)\ndef X(_): raise Panic('no luck')", FAILED),
        (f"{MUTE}raise Mute", "cannot be imported: Mute"),
    ],
    "fusery.sources": [
        ("X = 5", "is not callable"),
        ("def X(*_, **__): 1 / 0", "failed: ZeroDivisionError"),
        ("def X(*_, **__):\n    yield 1 / 0", "failed: ZeroDivisionError"),
        ("def X(*_, **__): yield None", "not a TrackedRun"),
        (TRACKED % "{'adapter_config.json': 2, 'adapters.safetensors': 8}", "failed: ZeroDivisionError"),
        (TRACKED % "None", "failed: TypeError"),
    ],
    "fusery.backends": [
        ("X = 5", "is no Protocol"),
        (BACKEND.replace("maker='odd'", "maker='odd_nowhere'"), "not there: odd_nowhere"),
        (f"{BACKEND}def file_system(**_): return 5", "makes no file system of fsspec"),
        (f"{BACKEND}def file_system(**_): 1 / 0", "cannot be opened: ZeroDivisionError"),
        (f"{UNBOUND}X = Unbound()", "cannot be imported: RuntimeError: no luck"),
    ],
}  # fmt: skip

Install = Callable[[Group, str], None]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path of modules, for packages."""
    (tmp_path / "packages").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "odd", raising=False)
    return tmp_path / "packages"


@pytest.fixture
def install(packages: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install the package `odd` with one plugin `odd`, of a group and of some Python."""

    def put(group: Group, source: str) -> None:
        write_package(packages, "odd", {group: {"odd": "odd:X"}}, source)
        plugins._installed.cache_clear()
        importlib.invalidate_caches()
        sys.modules.pop("odd", None)
        if group == "fusery.backends":
            monkeypatch.setenv("FUSERY_STORE_URL", "odd://somewhere/x")

    return put


def plugin_checks(stocked: Fusery) -> dict[str, tuple[str, str]]:
    """Return status and detail of each plugin in the document of `fusery doctor`."""
    checks = stocked("doctor", "--json").json["checks"]
    return {each["name"]: (each["status"], each["detail"]) for each in checks if "plugin." in each["name"]}


@pytest.mark.parametrize(
    "group",
    [pytest.param(group, marks=() if group == "fusery.sources" else pytest.mark.slow) for group in NEEDS],
)
def test_a_broken_plugin_is_one_error_of_the_command_that_needs_it(
    group: Group, stocked: Fusery, install: Install, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    for source, named in BROKEN[group]:
        install(group, source)
        done = stocked(*NEEDS[group])
        assert (done.code, "Traceback" in done.err) == (2, False), source
        assert " odd of odd 1.2 " in done.err and named in done.err, (source, done.err)
        assert "pip uninstall odd" in done.err
        sys.modules.pop("odd", None)
        assert stocked(*NEEDS[group], "--json").json["error"]["code"] == "plugin_failed"
        assert not (tmp_path / "out").exists()
    assert stocked("list").code == 0
    kind = group.partition(".")[2]
    monkeypatch.delenv("FUSERY_STORE_URL", raising=False)
    for source, said in ((f"{MUTE}raise Mute", "Mute"), (f"{PANIC}raise Panic('no luck')", "Panic: no luck")):
        install(group, source)
        status, detail = plugin_checks(stocked)[f"plugin.{kind}.odd"]
        assert (status, f"odd of odd 1.2 cannot be imported: {said}" in detail) == ("problem", True)
    write_package(packages, "odd", {group: {"odd": "odd:X", "twice": "odd:X"}}, "X = object()")
    write_package(packages, "even", {group: {"twice": "odd:X"}})
    sys.modules.pop("odd", None)
    plugins._installed.cache_clear()
    checks = plugin_checks(stocked)
    assert {name: status for name, (status, _) in checks.items()} == {
        f"plugin.{kind}.odd": "problem",
        f"plugin.{kind}.twice": "problem",
    }
    assert "even 1.2 and odd 1.2" in checks[f"plugin.{kind}.twice"][1]


FILE_SYSTEM = f"""
from fsspec.implementations.memory import MemoryFileSystem
{BACKEND}{PANIC}
class Odd(MemoryFileSystem):
    protocol, cachable, store, pseudo_dirs = 'odd', False, {{}}, ['']
    def pipe_file(self, path, value, mode='overwrite', **_):
        %s
        return super().pipe_file(path, value, mode=mode)
def file_system(**_): return Odd()
"""


def test_exceptions_of_a_plugin_s_file_system(fusery: Fusery, install: Install) -> None:
    for raised, code in (
        ("raise Panic('no luck')", "plugin_failed"),
        ("raise AttributeError('no luck')", "plugin_failed"),
        ("raise PermissionError('no luck')", "permission_denied"),
    ):
        install("fusery.backends", FILE_SYSTEM % raised)
        assert fusery("admin", "init", "--json").json["error"]["code"] == code
    install("fusery.backends", FILE_SYSTEM % "print('written')")
    done = fusery("admin", "init", "--json")
    assert (done.code, "written\n" in done.err, bool(done.json)) == (0, True, True)


def test_what_a_plugin_prints_is_no_part_of_a_document(stocked: Fusery, install: Install) -> None:
    install(
        "fusery.rules",
        f"print('hello')\n{RULE}@rule(C)\ndef X(_):\n    print('looking')\n    yield C.finding('.', 'a')",
    )
    done = stocked("check", "first", "--base", "tiny", "--json")
    assert "odd-x" in {each["code"] for each in done.json["findings"]}
    assert done.err.startswith("hello\nlooking\n")
    sys.modules.pop("odd", None)
    done = stocked("doctor", "--json")
    assert ("plugin.rules.odd" in done.out, "hello\n" in done.err) == (True, True)
