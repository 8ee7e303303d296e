"""What breaks a plugin ends the command that needs it with one sentence, whatever is raised and whoever asks."""

from __future__ import annotations

import importlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fixture_types import Fusery
from interrupts import interrupts
from plugin_packages import write_package
from waiting import wait_until

from fusery.storage import plugins
from fusery.storage.plugins import Group

RULE = "from fusery.registry.admission.code import Code, rule\nC = Code('odd-x', 'info', 'a', 'b')\n"
TARGET = "from fusery.registry.bundles import Target\nX = Target('odd', 'odd')\n"
BACKEND = "from fusery.storage.locate import Protocol\nX = Protocol('odd', '', {}, maker='odd')\n"
TRACKED = "from fusery.registry.exchange.tracked_run import UNKNOWN, TrackedRun\n"
BROKEN = {
    "cannot be imported": ("raise RuntimeError('no luck')", "cannot be imported: RuntimeError: no luck"),
    "fails": (f"{RULE}@rule(C)\ndef X(_): raise RuntimeError('no luck')", "failed: RuntimeError: no luck"),
}


Install = Callable[[Group, str], None]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for packages that are wrong, on the path of modules."""
    (tmp_path / "packages").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "packages")
    sys.modules.pop("odd", None)
    yield tmp_path / "packages"
    sys.modules.pop("odd", None)


@pytest.fixture
def install(packages: Path) -> Install:
    """Install the package `odd` with one plugin `odd`, of a group and of some Python."""

    def put(group: Group, source: str) -> None:
        write_package(packages, "odd", {group: {"odd": "odd:X"}}, source)
        plugins._installed.cache_clear()
        importlib.invalidate_caches()

    return put


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


def test_a_rule_that_says_itself_why_it_cannot_look_is_not_passed_over(
    stocked: Fusery, install: Install
) -> None:
    source = f"from fusery import BadInputError\n{RULE}@rule(C)\ndef X(_): raise BadInputError('no list', hint='make one')"
    install("fusery.rules", source)
    for words in (("audit",), ("check", "first", "--base", "tiny")):
        done = stocked(*words)
        assert done.code == 2
        assert done.err.endswith("Error: no list\nHint: make one\n")


def test_nothing_is_made_again_while_a_backend_is_broken(
    stocked: Fusery, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stocked("fuse", "course_rec@2", "-q").code == 0
    install("fusery.backends", "1 / 0")
    monkeypatch.setenv("FUSERY_STORE_URL", "odd://somewhere/x")
    done = stocked("audit", "--rebuild")
    assert done.code == 2
    assert "the backend odd of odd 1.2 cannot be imported: ZeroDivisionError" in done.err


# -- what is no Exception ----------------------------------------------------------------------------------------------

PANIC = "class Panic(BaseException): pass\n"
PANICS: dict[str, tuple[Group, str, tuple[str, ...]]] = {
    "a rule at its import": (
        "fusery.rules",
        f"{PANIC}raise Panic('no luck')",
        ("check", "first", "--base", "tiny"),
    ),
    "a rule": (
        "fusery.rules",
        f"{PANIC}{RULE}@rule(C)\ndef X(_): raise Panic('no luck')",
        ("check", "first", "--base", "tiny"),
    ),
    "a target": (
        "fusery.targets",
        f"{PANIC}{TARGET}def check(_): pass\ndef write(*_): raise Panic('no luck')",
        ("materialize", "course_rec@2", "out", "--target", "odd"),
    ),
    "a source": (
        "fusery.sources",
        f"{PANIC}def X(*_, **__):\n    raise Panic('no luck')\n    yield",
        ("import", "somewhere", "--from", "odd"),
    ),
    "a backend": (
        "fusery.backends",
        f"{PANIC}{BACKEND}def file_system(**_): raise Panic('no luck')",
        ("gc",),
    ),
    "a notifier": (
        "fusery.notifiers",
        f"{PANIC}raise Panic('no luck')",
        ("webhook", "add", "odd://somewhere", "--on", "*"),
    ),
}


@pytest.mark.parametrize("case", PANICS)
def test_what_is_no_exception_is_a_sentence_as_well(
    case: str, stocked: Fusery, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, source, words = PANICS[case]
    install(group, source)
    if group == "fusery.backends":
        monkeypatch.setenv("FUSERY_STORE_URL", "odd://somewhere/x")
    done = stocked(*words)
    assert done.code == 2
    assert "odd of odd 1.2" in done.err and "Panic: no luck" in done.err


def test_doctor_goes_on_after_what_is_no_exception(stocked: Fusery, install: Install) -> None:
    install("fusery.targets", f"{PANIC}raise Panic('no luck')")
    done = stocked("doctor", "--json")
    checks = {each["name"]: each for each in done.json["checks"]}
    assert done.code == 1
    assert "cannot be imported: Panic: no luck" in checks["plugin.targets.odd"]["detail"]


def test_a_notifier_that_raises_no_exception_has_failed_at_one_attempt(
    stocked: Fusery, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "0123456789abcdef0123456789abcdef")
    install("fusery.notifiers", f"{PANIC}def X(*_, **__): raise Panic('no luck')")
    assert stocked("webhook", "add", "odd://a", "--on", "alias.*", "--name", "odd").code == 0
    stocked("alias", "set", "course_rec@2", "prod")
    done = stocked("webhook", "deliver", "--json")
    assert (done.code, done.json[0]["error"]) == (1, "the notifier odd of odd 1.2 failed: Panic: no luck")


# -- what cannot be looked at ------------------------------------------------------------------------------------------

MUTE = "class Mute(Exception):\n    def __str__(self): raise ValueError\n"
ODD = "class Odd(str):\n    def __len__(self): raise ValueError('no luck')\n"
UNBOUND = "class Unbound:\n    @property\n    def __class__(self): raise RuntimeError('no luck')\n"
UNSEEN: dict[str, tuple[Group, str, str]] = {
    "a rule whose error has no text": ("fusery.rules", f"{MUTE}raise Mute", "cannot be imported: Mute"),
    "a rule whose text has no length": (
        "fusery.rules",
        f"{ODD}{RULE}@rule(C)\ndef X(_): yield C.found('.', Odd('a'))",
        "failed: ValueError: no luck",
    ),
    "a rule that is a proxy of nothing": (
        "fusery.rules",
        f"{UNBOUND}X = Unbound()",
        "failed: RuntimeError: no luck",
    ),
    "a target that is a proxy of nothing": (
        "fusery.targets",
        f"{UNBOUND}X = Unbound()",
        "failed: RuntimeError: no luck",
    ),
    "a backend that is a proxy of nothing": (
        "fusery.backends",
        f"{UNBOUND}X = Unbound()",
        "cannot be imported: RuntimeError: no luck",
    ),
    "a source that yields a proxy of nothing": (
        "fusery.sources",
        f"{UNBOUND}def X(*_, **__): yield Unbound()",
        "failed: RuntimeError: no luck",
    ),
    "a source of a run without files": (
        "fusery.sources",
        f"{TRACKED}def X(*_, **__): yield TrackedRun('r', 'r', 'p', UNKNOWN, {{}}, None, print)",
        "failed: TypeError",
    ),
}
NEEDS: dict[Group, tuple[str, ...]] = {
    "fusery.rules": ("check", "first", "--base", "tiny"),
    "fusery.targets": ("materialize", "course_rec@2", "out", "--target", "odd"),
    "fusery.backends": ("gc",),
    "fusery.sources": ("import", "somewhere", "--from", "odd"),
}


@pytest.mark.parametrize("case", UNSEEN)
def test_what_cannot_be_looked_at_is_the_plugin_s_mistake(
    case: str, stocked: Fusery, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, source, said = UNSEEN[case]
    install(group, source)
    if group == "fusery.backends":
        monkeypatch.setenv("FUSERY_STORE_URL", "odd://somewhere/x")
    done = stocked(*NEEDS[group])
    assert done.code == 2
    assert f" odd of odd 1.2 {said}" in done.err


def test_doctor_goes_on_after_an_error_without_a_text(stocked: Fusery, install: Install) -> None:
    install("fusery.notifiers", f"{MUTE}raise Mute")
    checks = {each["name"]: each for each in stocked("doctor", "--json").json["checks"]}
    assert checks["plugin.notifiers.odd"]["detail"] == "the notifier odd of odd 1.2 cannot be imported: Mute"


# -- file systems of backends ------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize(
    ("raised", "said"),
    [("Panic('no luck')", "Panic: no luck"), ("AttributeError('no luck')", "AttributeError: no luck")],
)
def test_a_file_system_that_raises_what_none_may(
    raised: str, said: str, fusery: Fusery, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("fusery.backends", FILE_SYSTEM % f"raise {raised}")
    monkeypatch.setenv("FUSERY_STORE_URL", "odd://team/store")
    done = fusery("init")
    assert done.code == 2
    assert f"the backend odd of odd 1.2 failed: {said}" in done.err


def test_what_files_raise_is_for_the_store_to_understand(
    fusery: Fusery, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("fusery.backends", FILE_SYSTEM % "raise PermissionError('no luck')")
    monkeypatch.setenv("FUSERY_STORE_URL", "odd://team/store")
    assert fusery("init", "--json").json["error"]["code"] == "permission_denied"


def test_what_a_file_system_prints_is_no_data(
    fusery: Fusery, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("fusery.backends", FILE_SYSTEM % "print('written')")
    monkeypatch.setenv("FUSERY_STORE_URL", "odd://team/store")
    done = fusery("init", "--json")
    assert (done.code, "written\n" in done.err, bool(done.json)) == (0, True, True)


# -- what prints -------------------------------------------------------------------------------------------------------

PRINTS = "print('hello')\n"


def test_what_a_plugin_prints_is_no_part_of_a_document(stocked: Fusery, install: Install) -> None:
    install(
        "fusery.rules",
        f"{PRINTS}{RULE}@rule(C)\ndef X(_):\n    print('looking')\n    yield C.found('.', 'a')",
    )
    done = stocked("check", "first", "--base", "tiny", "--json")
    assert "odd-x" in {each["code"] for each in done.json["findings"]}
    assert done.err.startswith("hello\nlooking\n")


def test_doctor_s_document_has_nothing_of_it(stocked: Fusery, install: Install) -> None:
    install("fusery.sources", f"{PRINTS}def X(*_, **__): return iter(())")
    done = stocked("doctor", "--json")
    assert "plugin.sources.odd" in {each["name"] for each in done.json["checks"]}
    assert "hello\n" in done.err


def test_a_notifier_that_prints_in_its_thread(
    stocked: Fusery, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "0123456789abcdef0123456789abcdef")
    answers = "from fusery.registry.webhooks.sending import Answer\n"
    install("fusery.notifiers", f"{PRINTS}{answers}def X(*_, **__):\n    print('sent')\n    return Answer()")
    assert stocked("webhook", "add", "odd://a", "--on", "alias.*", "--name", "odd").code == 0
    stocked("alias", "set", "course_rec@2", "prod")
    done = stocked("webhook", "deliver", "--json")
    assert len(done.json[0]["delivered"]) == 1
    assert "sent\n" in done.err


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a+b", "a-", "con"])
def test_a_source_whose_name_begins_no_tag(name: str, stocked: Fusery, packages: Path) -> None:
    write_package(packages, "odd", {"fusery.sources": {name: "odd:X"}}, "def X(*_, **__): return iter(())")
    done = stocked("import", "somewhere", "--from", name)
    assert done.code == 2
    assert f"the source of runs {name} of odd 1.2 has a name that no tag can begin with" in done.err


def test_a_name_that_is_there_twice_is_one_line(stocked: Fusery, packages: Path) -> None:
    for each in ("odd", "even"):
        write_package(packages, each, {"fusery.rules": {"same": f"{each}:X"}})
    about = packages / "odd-1.2.dist-info" / "entry_points.txt"
    about.write_text("[fusery.targets]\nsame = odd:X\nsame = odd:Y\n[fusery.rules]\nsame = odd:X\n")
    checks = [
        each for each in stocked("doctor", "--json").json["checks"] if each["name"].startswith("plugin.")
    ]
    assert [(each["name"], each["detail"]) for each in checks] == [
        (
            "plugin.rules.same",
            "the rule same is brought by even 1.2 and odd 1.2, and nobody can say which is meant",
        ),
        (
            "plugin.targets.same",
            "the target same of odd 1.2 is more than once in its entry points, and nobody can say which is meant",
        ),
    ]
    assert (
        "more than once in its entry points"
        in stocked("materialize", "course_rec@2", "out", "--target", "same").err
    )


# -- what hangs --------------------------------------------------------------------------------------------------------


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Run the command line in a process of its own, in which the packages of a folder are installed."""
    program = f"import sys; sys.path.insert(0, {str(folder / 'packages')!r})\n"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"{program}from fusery.cli.start import start; start()", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("how", "words", "code"),
    [(signal.SIGTERM, (), 143), (signal.SIGINT, (), 130), (signal.SIGTERM, ("--follow",), 0)],
)
def test_a_notifier_that_hangs_keeps_nobody_from_ending(
    how: signal.Signals,
    words: tuple[str, ...],
    code: int,
    stocked: Fusery,
    install: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FUSERY_WEBHOOK_SECRET", "0123456789abcdef0123456789abcdef")
    source = (
        "import pathlib, time\ndef X(*_, **__):\n    pathlib.Path('reached').touch()\n    time.sleep(1000)"
    )
    install("fusery.notifiers", source)
    assert stocked("webhook", "add", "odd://a", "--on", "alias.*", "--name", "odd").code == 0
    stocked("alias", "set", "course_rec@2", "prod")
    with interrupts():
        process = start(tmp_path, "webhook", "deliver", *words)
        wait_until((tmp_path / "reached").exists)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert stocked("webhook", "show", "odd", "--json").json["error"] == "no answer within 10 s"


def test_doctor_says_which_it_imports(stocked: Fusery, install: Install, tmp_path: Path) -> None:
    install("fusery.targets", "import time\ntime.sleep(1000)")
    with interrupts():
        process = start(tmp_path, "doctor")
        assert process.stderr is not None
        assert process.stderr.readline() == "importing the target odd of odd 1.2\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "\nInterrupted.\n")
    assert process.returncode == 130


# -- packages that cannot be listed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [("doctor",), ("show", "course_rec@2"), ("rules", "list"), ("check", "first", "--base", "tiny")],
    ids=str,
)
def test_a_package_that_cannot_be_listed_is_named_whoever_meets_it(
    words: tuple[str, ...], stocked: Fusery, install: Install, packages: Path, tmp_path: Path
) -> None:
    """Libraries that fusery is made of look at all packages before it does."""
    install("fusery.targets", "")
    (packages / "odd-1.2.dist-info" / "entry_points.txt").write_bytes(b"[console_scripts]\nodd = \xff:X\n")
    out, err = start(tmp_path, *words).communicate(timeout=60)
    said = f"Error: the packages that are installed here cannot be listed: {packages}/odd-1.2.dist-info\n"
    assert (out, err) == ("", f"{said}Hint: install it again, or remove its folder\n")
