"""The group: its table of commands, its start-up, and how errors are said."""

from __future__ import annotations

import inspect
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
from fixture_types import Fusery
from interrupts import interrupts
from tampered_database import forced

from fusery.cli.commands import COMMANDS
from fusery.cli.main import cli
from fusery.cli.session import LocalPath

HEAVY = ("sqlalchemy", "alembic", "mlx", "mlx_lm", "transformers", "numpy", "rich", "pydantic", "fsspec")
UNASKED = (
    "html", "tomllib", "tarfile", "platformdirs", "multiprocessing", "urllib.request",
    "fusery.registry.tables.fused", "fusery.registry.tables.trust", "fusery.registry.tables.webhooks",
)  # fmt: skip
"""Modules that cost little each, and that a list does without."""


def every_command(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name="fusery")
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


ALL = dict(every_command())


def imported_by(*words: str) -> set[str]:
    code = f"import sys; from fusery.cli.main import run; run({list(words)!r}); print(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stderr.splitlines()}


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("nonsense",)], ids=str)
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    assert imported_by(*words).isdisjoint(HEAVY)


def test_a_command_s_help_does_not_open_anything() -> None:
    assert imported_by("fuse", "--help").isdisjoint({"sqlalchemy", "mlx", "mlx_lm", "numpy"})


def test_listing_imports_no_model_library(
    stocked: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert imported_by("list").isdisjoint({*HEAVY, "safetensors"} - {"sqlalchemy"})


def test_listing_imports_nothing_of_what_only_one_adapter_needs(stocked: Fusery, tmp_path: Path) -> None:
    code = "import sys; from fusery.cli.main import run; run(['list', '-q']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("course_rec") == 2
    assert {"fusery.registry.provenance", "fusery.registry.training"}.isdisjoint(done.stderr.split())
    assert set(UNASKED).isdisjoint(done.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").splitlines()[0] == COMMANDS[name][1]


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_and_both_ways_of_printing(name: str) -> None:
    command = ALL[name]
    assert command.help
    assert {"as_json", "quiet"} <= {parameter.name for parameter in command.params}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("name", ALL)
def test_help_is_printed_as_it_is_meant(name: str, fusery: Fusery) -> None:
    """No markup of click's shows, and what is laid out in lines stays in lines."""
    ran = fusery(*name.split(), "--help")
    assert ran.code == 0
    assert "\\" not in ran.out
    assert "\b" not in ran.out
    command = ALL[name]
    laid_out = [
        part for part in inspect.cleandoc(command.help or "").split("\n\n") if part.startswith("\b\n")
    ]
    for line in "\n".join(laid_out).replace("\b\n", "").splitlines():
        assert f"  {line}\n" in ran.out


def test_an_unknown_command_names_the_nearest(fusery: Fusery) -> None:
    done = fusery("regster")
    assert done.code == 2
    assert "did you mean 'fusery register'?" in done.err


def test_a_usage_error_with_json_is_a_document(fusery: Fusery) -> None:
    done = fusery("show", "--json")
    assert done.code == 2
    assert done.json["error"]["code"] == "usage"


def test_json_and_quiet_exclude_each_other(stocked: Fusery) -> None:
    assert stocked("list", "--json", "-q").code == 2


def test_an_error_is_a_sentence_and_a_hint(fusery: Fusery) -> None:
    done = fusery("list")
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines()[0].startswith("Error: there is no registry in ")
    assert done.err.splitlines()[1] == "Hint: fusery init"


def test_an_error_with_json_is_one_document_on_stdout(stocked: Fusery) -> None:
    done = stocked("show", "course_rek@1", "--json")
    assert (done.code, done.err) == (2, "")
    assert done.json == {
        "error": {
            "code": "unknown_reference",
            "message": "there is no adapter 'course_rek@1'",
            "hint": "did you mean course_rec@1 or course_rec_v2_20260201 or course_rec_v1_20260115?",
        }
    }


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("list", "--home", "there"), "fusery --home DIR list"),
        (("alias", "list", "--debug"), "fusery --debug alias list"),
    ],
    ids=str,
)
def test_what_stands_before_the_command_is_said_to(
    stocked: Fusery, words: tuple[str, ...], hint: str
) -> None:
    done = stocked(*words)
    assert done.code == 2
    assert f"Hint: it stands before the command: {hint}\n" in done.err
    assert stocked(*words, "--json").json["error"]["hint"].endswith(hint)


def test_an_alias_that_is_not_there_names_the_nearest(stocked: Fusery) -> None:
    stocked("alias", "set", "course_rec@1", "prod")
    for words in (
        ("show", "course_rec#pord"),
        ("alias", "show", "course_rec#pord"),
        ("events", "--ref", "course_rec#pord"),
    ):
        done = stocked(*words)
        assert done.code == 2
        assert "there is no alias 'course_rec#pord'" in done.err
        assert "Hint: did you mean course_rec#prod?" in done.err
    assert "Hint: did you mean course_rec#prod?" in stocked("show", "course_reg#prod").err
    assert "Hint: there are: course_rec#prod" in stocked("show", "course_rec#x").err
    assert "Hint: did you mean course_rec#prod?" in stocked("show", "prod").err
    assert stocked("alias", "remove", "course_rec#prod").code == 0
    assert "Hint: fusery alias list" in stocked("show", "course_rec#pord").err


def test_debug_shows_the_traceback(fusery: Fusery) -> None:
    done = fusery("--debug", "list")
    assert done.code == 2
    assert done.err.startswith("Traceback (most recent call last):")
    assert "Error: there is no registry in " in done.err


def test_a_closed_pipe_is_no_traceback(stocked: Fusery, tmp_path: Path) -> None:
    words = f"{sys.executable} -P -c 'from fusery.cli.main import main; main()' list --json | head -c 1"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr


def test_control_characters_reach_no_terminal(fusery: Fusery) -> None:
    done = fusery("base", "add", "no\x1b[31mfile")
    assert done.code == 2
    assert "\x1b" not in done.err


def test_usage_errors_show_direction_characters_as_escapes(fusery: Fusery) -> None:
    for words in (("sh\u202eow",), ("show", "--nope\u202e")):
        done = fusery(*words)
        assert done.code == 2
        assert "\\u202e" in done.err and "\u202e" not in done.err, words


@pytest.mark.parametrize("words", [("list",), ("list", "--json")], ids=str)
def test_an_unexpected_error_of_the_system_is_a_sentence(fusery: Fusery, words: tuple[str, ...]) -> None:
    done = fusery("--home", "h" * 300, *words)
    assert done.code == 2
    said = done.json["error"]["message"] if "--json" in words else done.err
    assert "too long" in said
    if "--json" in words:
        assert done.json["error"]["code"] == "os_error"


def test_a_current_folder_that_is_gone_is_a_sentence(
    fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = fusery("--home", "relative", "list")
    assert done.code == 2
    assert "Hint: does the current folder still exist?" in done.err


@pytest.mark.parametrize("where", ["fusery.cli.main", "typing", "click", "fusery.storage.errors"])
def test_an_interrupt_during_the_imports_is_no_traceback(where: str) -> None:
    code = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
            try:
                sum(range(9))
            except BaseException:  # as of a callback within an import, which lets none through
                pass
sys.meta_path.insert(0, Interrupt())
from fusery.cli.start import start
"""
    command = [sys.executable, "-P", "-c", code, where]
    with interrupts():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


def test_an_interrupt_before_the_first_line_that_could_see_to_it_is_no_traceback() -> None:
    code = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "signal":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from fusery.cli.start import start
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


def test_an_interrupt_as_the_program_begins_to_mind_them_is_no_traceback() -> None:
    code = """
import os, signal, sys
from fusery.cli.start import start
mind = signal.signal
def interrupted(number, how):
    mind(number, how)
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(9))
signal.signal = interrupted
start()
"""
    with interrupts():
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, -signal.SIGINT)])
def test_an_interrupt_once_all_is_done_is_no_traceback(times: int, code: int) -> None:
    program = """
import atexit, os, signal, sys
from fusery.cli.main import main
@atexit.register
def interrupt():
    for _ in range(int(sys.argv[1])):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(9))
main(["--version"])
"""
    command = [sys.executable, "-P", "-c", program, str(times)]
    with interrupts():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")


def test_interrupts_that_are_ignored_stay_so() -> None:
    code = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from fusery.cli.start import start
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
import sys
sys.argv[1:] = ["--version"]
try:
    start()
finally:
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_while_a_class_is_made_is_no_traceback(tmp_path: Path) -> None:
    code = """
import sys
from fusery.cli.main import main
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "fusery.registry.api.registry":
            raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()
sys.meta_path.insert(0, Interrupt())
main(["--home", sys.argv[1], "list"])
"""
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


@pytest.mark.parametrize(
    "facts",
    [
        ("--alpha", "inf"),
        ("--alpha", "nan"),
        ("--val-loss", "nan"),
        ("--val-loss", "inf"),
        ("--version", "1000000000000"),
        ("--version", "9223372036854775808"),
        ("--examples", "9223372036854775808"),
        ("--examples", "-5"),
        ("--note", "\udcff"),
        ("--dataset", "\udcff"),
        ("--task", "\udcff"),
        ("--tag", "A=1", "--tag", "a=2"),
        ("--tag", "a=1", "--tag", "a=2"),
        ("--tag", "a=\udcff"),
    ],
    ids=ascii,
)
def test_a_fact_that_cannot_be_kept_is_refused(
    stocked: Fusery, tmp_path: Path, facts: tuple[str, ...]
) -> None:
    for name in ("register", "check"):
        if name == "check" and facts[0] in ("--note", "--tag"):
            continue
        done = stocked(name, tmp_path / "first", "--base", "tiny", "--task", "other", *facts)
        assert done.code == 2
        assert done.err.count("Error: ") == 1
    assert len(stocked("list", "--json").json) == 2


def test_a_word_that_is_not_text_is_refused(stocked: Fusery) -> None:
    done = stocked("show", "a\udcff@1", "--json")
    assert (done.code, done.json["error"]["code"]) == (2, "usage")


def test_an_uppercase_digest_is_a_reference(stocked: Fusery) -> None:
    digest = stocked("show", "course_rec@1", "--json").json["digest"]
    assert stocked("show", digest[:20].upper(), "-q").out == "course_rec_v1_20260115\n"


def test_names_are_printed_as_they_are(stocked: Fusery, tmp_path: Path) -> None:
    words = ("--base", "tiny", "--task", "other", "--dataset", "a:fire:ü")
    assert stocked("register", tmp_path / "first", *words).code == 0
    assert "a:fire:ü" in stocked("list").out
    for form in ("tree", "mermaid", "dot"):
        assert "a:fire:ü" in stocked("lineage", "other@1", "--format", form).out


def test_completion_prints_the_script(fusery: Fusery) -> None:
    plain, quiet, document = (fusery("completion", "bash", *words) for words in ((), ("-q",), ("--json",)))
    assert "_FUSERY_COMPLETE" in plain.out
    assert quiet.out == plain.out
    assert document.json["script"] + "\n" == plain.out


@pytest.mark.parametrize(
    ("statement", "words", "sentence"),
    [
        ("UPDATE adapter SET created_at = 'yesterday'", ("list",), "has 'yesterday' where a moment belongs"),
        (
            "UPDATE adapter SET version = 'x' WHERE version = 2",
            ("show", "course_rec@2"),
            "in a way that it does not know",
        ),
    ],
)
def test_a_database_that_was_edited_is_no_traceback(
    stocked: Fusery,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    """SQLite keeps whatever it is given, and what nobody thought of becomes a sentence, too."""
    with forced(tmp_path / "home" / "fusery.db") as connection:
        connection.execute(statement)
    monkeypatch.delenv("_FUSERY_RAISES")
    ran = stocked(*words)
    assert ran.code == 2
    assert sentence in ran.err
    assert "Hint: fusery audit" in ran.err
    assert "Traceback" not in ran.err
    document = stocked(*words, "--json").json
    assert document["error"]["code"] in ("unexpected", "record_unreadable")
    if "does not know" in sentence:
        assert "\nTypeError: " in stocked("--debug", *words).err


def test_a_repair_is_advised_only_where_there_is_one(stocked: Fusery, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "home" / "fusery.db")) as connection:
        connection.execute("UPDATE adapter SET val_loss = 0.01 WHERE version = 2")
        connection.commit()
    ran = stocked("audit", "course_rec@2")
    assert ran.code == 1
    assert "record_changed" in ran.out
    assert "--repair" not in ran.err
    blob = next(path for path in (tmp_path / "home" / "store" / "blobs").rglob("*") if path.is_file())
    blob.unlink()
    ran = stocked("audit")
    assert ran.code == 1
    assert "Next: fusery audit --repair" in ran.err


IN_A_FINALIZER = """
import time
from fusery.cli import main as command

class Slow:
    def __del__(self):
        print("begun", flush=True)
        time.sleep(20)

def work(**_):
    slow = Slow()
    del slow
    time.sleep(60)

command.cli.main = work
command.main(["anything"])
"""


@pytest.mark.parametrize(
    ("how", "code", "word"), [(signal.SIGINT, 130, "Interrupted."), (signal.SIGTERM, 143, "Terminated.")]
)
def test_a_signal_that_comes_in_a_finalizer_is_not_lost(how: signal.Signals, code: int, word: str) -> None:
    """What is raised in one is passed over by Python, and the command went on."""
    with interrupts():
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", IN_A_FINALIZER],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(how)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (code, f"{word}\n")


def test_garbage_is_collected_rarely_while_a_command_starts_and_as_usual_later() -> None:
    code = (
        "import gc\n"
        "from fusery.cli.main import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert gc.get_threshold()[0] == 500_000 and len(gc.callbacks) == 1\n"
        "kept = [[] for _ in range(600_000)]\n"
        "assert gc.get_threshold()[0] == 50_000 and gc.callbacks == []\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


URL_OPTIONS = {"push --to", "pull --from", "register folder", "check folders"}
"""Parameters that also accept URLs."""


def test_every_path_refuses_a_url() -> None:
    """A URL as a path would become a folder called `https:`."""
    accepting = {
        f"{name} {max(each.opts, key=len)}"
        for name, command in ALL.items()
        for each in command.params
        if isinstance(each.type, click.Path) and not isinstance(each.type, LocalPath)
    }
    assert accepting == URL_OPTIONS


def test_file_as_home_is_refused(fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "plain.txt"
    home.write_text("kept")
    for words in (("init",), ("list",), ("doctor",), ("register", "somewhere")):
        ran = fusery("--home", str(home), *words)
        assert (ran.code, "is a file" in ran.err, "fusery" in ran.err.partition("Hint")[2]) == (
            2,
            True,
            False,
        ), words
    monkeypatch.setenv("FUSERY_HOME", str(home))
    assert fusery("list").code == 2
    assert home.read_text() == "kept"


@pytest.mark.parametrize("url", ["http://host/home", "https:/host", "file:///tmp/home", "s3://bucket/home"])
def test_url_as_home_is_refused_without_making_a_folder(
    fusery: Fusery, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for words in (("init",), ("list",), ("doctor",), ("register", "somewhere")):
        ran = fusery("--home", url, *words)
        assert (ran.code, "is a URL" in ran.err, "init" in ran.err) == (2, True, False), words
        assert "pull --from URL" in ran.err
    monkeypatch.setenv("FUSERY_HOME", url)
    ran = fusery("init")
    assert (ran.code, "is a URL" in ran.err) == (2, True)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("FUSERY_CACHE_DIR", url)
    ran = fusery("--home", "here", "cache", "list")
    assert (ran.code, "is a URL" in ran.err) == (2, True)
    for words in (("demo", "--dir", url), ("export", "course_rec@1", url), ("report", "-o", url)):
        assert fusery(*words).code == 2, words
    assert list(Path.cwd().iterdir()) == []
