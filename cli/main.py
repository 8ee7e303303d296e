"""The command `fusery`: the table of its commands, and the one place where errors become sentences.

A command's module is imported when the command runs.  The help of the group comes from the table below, so that
`fusery --help` imports click and nothing else; a test holds the table against the commands' own help.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fusery.storage.errors import FuseryError

from .commands import ADMIN, COMMANDS, EVERYDAY, SECTIONS, TABLE, import_commands
from .groups import MEANT, Group

if TYPE_CHECKING:
    from .hints import Hints

INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM
_MOMENT = 0.05  # seconds for a finalizer to end in

OTHER_ERRORS: dict[str, tuple[int, str]] = {
    "usage": (2, "An option or argument is missing, unknown or invalid."),
    "os_error": (2, "The operating system reported an error."),
    "unexpected": (2, "An internal error: a bug in fusery, or a database that another program edited."),
}
"""Codes of errors that are no `FuseryError`: exit code, and what is the case."""

_RAISES = "_FUSERY_RAISES"  # set by fusery's own tests, to see the traceback of an unexpected error


class CommandTable(Group):
    """A group whose commands are imported when they are used; `prefix` is its own full name and a space."""

    def __init__(self, *settings: Any, prefix: str = "", **more: Any) -> None:
        super().__init__(*settings, **more)
        self.prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return list(ADMIN if self.prefix else COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        name = self.prefix + cmd_name
        if name == "admin":
            return _ADMIN
        if name not in TABLE:
            return None
        import_commands(TABLE[name][0])
        from .command import MADE

        return MADE[name]

    def meant(self, word: str) -> str | None:
        """Return the command for a word of another tool."""
        return None if self.prefix else MEANT.get(word.casefold())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any: the everyday ones, or all in sections."""
        sections = {"Commands": ADMIN} if self.prefix else SECTIONS
        shown = sections if self.prefix or ctx.meta.get(EVERYTHING) else {"Everyday": EVERYDAY}
        width = max(len(name) for rows in shown.values() for name in rows)
        for title, rows in shown.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, (_, text) in rows.items()])
        if shown is not sections:
            others = [name for name in COMMANDS if name not in EVERYDAY]
            with formatter.section("More commands (see --help-all)"):
                formatter.write_text(" ".join(others))


EVERYTHING = "fusery.everything"  # set in a context to show the help of all commands

_ADMIN = CommandTable(
    "admin",
    prefix="admin ",
    help=COMMANDS["admin"][1],
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _help_all(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[EVERYTHING] = True
        click.echo(ctx.get_help())
        ctx.exit()


def _noted(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    # In the hints already here, so that those about a wrong command have it; the session reads it there.
    if ctx.obj is not None:
        setattr(ctx.obj, str(parameter.name), value)
    return value


@click.command(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--registry",
    type=click.Path(),
    metavar="DIR|URL",
    callback=_noted,
    help="The registry: its folder, or the URL of its server; default: FUSERY_REGISTRY, else a folder that `fusery doctor` names.",
)
@click.option(
    "--insecure-http",
    is_flag=True,
    callback=_noted,
    help="Allow sending the token to another machine without TLS.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="fusery", message="fusery %(version)s", help="Show the version.")
@click.option(
    "--help-all",
    is_flag=True,
    callback=_help_all,
    expose_value=False,
    is_eager=True,
    help="Show all commands and exit.",
)
@click.pass_context
def cli(ctx: click.Context, /, **_: Any) -> None:
    """Register, compare, fuse and ship LoRA adapters.

    Results go to stdout, messages to stderr.  Every command takes --json; -q prints names or paths only.
    Exit codes: 0 done, 1 a check failed, 2 bad input or usage, 3 inconclusive, 130 interrupted, 143 ended by SIGTERM.
    """
    from .session import Session

    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False
    ctx.obj = ctx.with_resource(Session(ctx.obj))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # Collecting garbage while modules are imported is a tenth of the start-up of a short command.
    gc.set_threshold(50_000, 20, 20)
    words = sys.argv[1:] if arguments is None else arguments
    # Signals that the shell ignores stay ignored, and completing a word needs no cleanup.
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and "_FUSERY_COMPLETE" not in os.environ:
        signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _sent_again
    code = run(words)
    sys.unraisablehook = sys.__unraisablehook__
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _too_late)
    # Or Python looks through everything for garbage before it ends, which takes a sixth of a short command.
    gc.freeze()
    sys.exit(code)


def _sent_again(passed_over: sys.UnraisableHookArgs) -> None:
    # Python ignores what is raised in a finalizer, such as tqdm's: the signal is sent again when that has ended.
    stop = passed_over.exc_value
    if not isinstance(stop, KeyboardInterrupt):
        sys.__unraisablehook__(passed_over)
        return
    import threading

    number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
    if number == signal.SIGTERM:
        signal.signal(number, _terminate)
    threading.Timer(_MOMENT, os.kill, (os.getpid(), number)).start()


def _too_late(number: int, _frame: object) -> None:
    # Only Python's own cleanup is left, which would print a traceback.  A second signal ends it.
    signal.signal(number, signal.SIG_DFL)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which cleans up as Ctrl-C does."""


def _terminate(number: int, _frame: object) -> NoReturn:
    # `timeout` sends it twice, which is not to end the tidying up.
    signal.signal(number, signal.SIG_IGN)
    raise Terminated


def run(words: list[str]) -> int:
    """Run the command line; return its exit code.  Every known error becomes one sentence here, and nowhere else."""
    try:
        from .hints import Hints, program

        hints = Hints()
        result: Any = cli.main(
            args=words, prog_name=program(), complete_var="_FUSERY_COMPLETE", standalone_mode=False, obj=hints
        )
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt) as stop:
        return _interrupted(stop)
    except click.ClickException as error:
        return _usage(words, error, hints)
    except BrokenPipeError:
        # The reader of a pipe went away: not an error of ours, and not to be reported again at shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except FuseryError as error:
        return _failure(words, hints, error.code, error.message, error.hint, error.exit_code, error)
    except OSError as error:
        # The last resort, for a place that the code which looked there did not expect to fail.
        return _failure(words, hints, "os_error", *_os_error(error), 2, error)
    except Exception as error:
        # Python 3.11 wraps whatever is raised while a class is being made, the user's Ctrl-C too.
        if isinstance(error.__cause__, KeyboardInterrupt):
            return _interrupted(error)
        if _RAISES in os.environ and "--debug" not in words:
            raise
        return _failure(words, hints, "unexpected", *_unexpected(error), 2, error)


def _interrupted(stop: BaseException) -> int:
    terminated = isinstance(stop, Terminated) or isinstance(stop.__cause__, Terminated)
    click.echo("Terminated." if terminated else "Interrupted.", err=True)
    return TERMINATED if terminated else INTERRUPTED


def _unexpected(error: Exception) -> tuple[str, str]:
    """Return the sentence and the hint for an error that is fusery's own, or that of a database somebody edited."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.startswith("fusery."):
            place = f" in {name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    reason = " ".join(str(error).split())[:300]
    return (
        f"internal error{place}: {type(error).__name__}: {reason}",
        "fusery audit  # names what was edited by other means; else please report what --debug shows",
    )


def _os_error(error: OSError) -> tuple[str, str]:
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    if error.filename is None:
        return (f"the system refused: {reason}", "does the current folder still exist? --debug shows more")
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    return f"cannot use {name[:200]}: {reason}", "check the path, and who may read and write it"


def _usage(words: list[str], error: click.ClickException, hints: Hints) -> int:
    lines = error.format_message()  # click lists choices on lines of their own
    message, mark, hint = lines.replace("\n\t", " ").partition("\nHint: ")
    if isinstance(error, click.NoSuchOption) and error.option_name in ("--registry", "--debug") and error.ctx:
        value = " DIR|URL" if error.option_name == "--registry" else ""
        command = error.ctx.command_path.partition(" ")[2]
        mark, hint = "\nHint: ", f"it stands before the command: fusery {error.option_name}{value} {command}"
        message = f"No such option here: {error.option_name}"
    if "--json" not in words:
        import io

        if mark or "\n\t" in lines:
            ctx = error.ctx if isinstance(error, click.UsageError) else None
            error = click.UsageError(f"{message}{mark}{hints.spelled(hint) if mark else ''}", ctx)
        shown = io.StringIO()
        error.show(shown)
        click.echo(_without_secrets(words, hints, shown.getvalue(), error), err=True, nl=False)
        return 2
    return _failure(words, hints, "usage", message, hint or None, 2, error)


def _without_secrets(words: list[str], hints: Hints, text: str, error: Exception) -> str:
    """Return the text of a failure without any secret that this run was given."""
    from fusery.storage.errors import visible
    from fusery.storage.secrets import redact, remember_given

    settings: Mapping[str, object] = {}
    if not isinstance(error, click.ClickException):  # which is raised before any settings are read
        from fusery.registry.workspace.homes import settings_in_file

        with contextlib.suppress(FuseryError):  # an invalid home has an error of its own
            settings = settings_in_file(hints.registry)
    remember_given(words, os.environ, settings)
    return visible(redact(text))


def _failure(
    words: list[str],
    hints: Hints,
    code: str,
    message: str,
    hint: str | None,
    exit_code: int,
    error: Exception,
) -> int:
    from .text import one_line

    hint = hints.spelled(hint) if hint else hint
    if "--debug" in words and not isinstance(error, click.ClickException):
        import traceback

        text = "".join(traceback.format_exception(error))
        click.echo(_without_secrets(words, hints, text, error), err=True, nl=False)
    if "--json" in words:
        import json

        document: dict[str, object] = {"code": code, "message": message, "hint": hint}
        findings = getattr(error, "findings", None)
        if findings is not None:
            document["findings"] = [finding.to_dict() for finding in findings]
        if hasattr(error, "position"):
            document["position"] = error.position
        text = json.dumps({"error": hints.in_document(document)}, indent=2)
        click.echo(_without_secrets(words, hints, text, error))
        return exit_code
    lines = [f"Error: {message}", *(f"  {line}" for line in getattr(error, "excerpt", ()))]
    lines += [f"Hint: {hint}"] if hint else []
    click.echo(_without_secrets(words, hints, "\n".join(map(one_line, lines)), error), err=True)
    return exit_code
