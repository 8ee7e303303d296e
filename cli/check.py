"""`fusery check`: what admission finds in folders, for people, for hooks and for CI."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from .adapters import STRICT, FolderOrUrl, facts_options, run_options
from .findings import print_findings
from .session import LocalPath, Session, command

if TYPE_CHECKING:
    from fusery.registry.admission.checked import CheckedFolder


class _Hooked(click.Command):
    """A command for whoever names files without looking at them, as hooks do: none of them is taken for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what is an option and a file, and a `--` that may be the name of one."""
        guarded = "--" in args and not os.path.lexists("--")
        if "--changed" in args and not guarded:
            for each in args:
                if each.startswith("-") and os.path.lexists(each):
                    hint = "name the files by --files0-from" if "--" in args else "put -- before the files"
                    raise click.UsageError(f"{each!r} is an option and a file; {hint}.", ctx)
        return super().parse_args(ctx, args)


@command("check", kind=_Hooked)
@click.argument("folders", metavar="FOLDER...", nargs=-1, type=FolderOrUrl(path_type=Path))
@facts_options
@run_options
@STRICT
@click.option(
    "--changed", is_flag=True, help="FOLDER... are changed files: check the adapters that they belong to."
)
@click.option(
    "--files0-from",
    "listed",
    type=click.File("rb"),
    metavar="FILE",
    help="With --changed: read their names from FILE, - for stdin, each with a NUL after it.",
)
@click.option(
    "--staged",
    is_flag=True,
    help="With --changed, before a commit: also files that it removes; what git leaves out of an adapter fails.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "sarif", "gitlab"]),
    default="text",
    show_default=True,
    help="For people, as SARIF 2.1.0, or as GitLab's Code Quality report.",
)
@click.option(
    "-o",
    "--output",
    type=LocalPath(path_type=Path),
    metavar="FILE",
    help="Write that to a file, and print for people.",
)
@click.option("--force", is_flag=True, help="With -o: replace the file.")
def check_command(
    session: Session,
    folders: tuple[str | Path, ...],
    changed: bool,
    listed: BinaryIO | None,
    staged: bool,
    form: str,
    output: Path | None,
    force: bool,
    **facts: Any,
) -> int:
    """Show what admission finds in folders; nothing is recorded.

    Exit code 1 when an adapter would be refused.  With --changed, files of no adapter are passed over, so that a hook
    can name every file of a commit, those that it removes included.
    """
    from fusery.registry.admission.checked import CheckedFolder

    if not folders and not changed:
        raise click.UsageError("Missing argument 'FOLDER...'.")
    if output is None and form != "text" and (session.json or session.quiet):
        raise click.UsageError(f"--format {form}, --json and -q exclude each other; -o FILE goes with both.")
    if output is not None and form == "text":
        raise click.UsageError("-o goes with --format sarif or gitlab.")
    if force and output is None:
        raise click.UsageError("--force goes with -o.")
    if (listed is not None or staged) and not changed:
        raise click.UsageError("--files0-from and --staged go with --changed.")
    wanted = _changed_folders(folders, listed, staged=staged) if changed else list(dict.fromkeys(folders))
    checked = [
        CheckedFolder.of(session.registry.adapters.check(folder, **facts), folder=Path(folder))
        for folder in wanted
    ]
    if form != "text":
        _report(session, checked, form, output, force)
    if form == "text" or output is not None:
        _print(session, checked, alone=not changed and len(checked) == 1)
    return 1 if any(each.verdict == "fail" for each in checked) else 0


def _changed_folders(
    files: Iterable[str | Path], listed: BinaryIO | None, *, staged: bool
) -> Sequence[str | Path]:
    named = [*files, *([] if listed is None else _names_in(listed))]
    if not staged:
        return adapter_folders(named)
    from .staged import committed, tracked_and_removed

    tracked, removed = tracked_and_removed()
    return committed(adapter_folders([*named, *removed]), tracked)


def _names_in(file: BinaryIO) -> list[Path]:
    """Return the names that a file lists; without the last NUL it is cut off, or has them by lines."""
    data = file.read()
    if data and not data.endswith(b"\0"):
        raise click.UsageError(
            f"{file.name!r} does not end with NUL; list the files by git ls-files -z, git diff -z or find -print0."
        )
    return [Path(os.fsdecode(name)) for name in data.split(b"\0") if name]


def adapter_folders(files: Iterable[str | Path]) -> list[Path]:
    """Return the adapters' folders that files are in, at any depth; the file may be gone."""
    holds = cache(_holds_an_adapter)
    # To git, a link to a folder is a file, and so is a repository in this one.
    # One adapter may lie in another, with files that the outer one's are links to.
    return list(
        dict.fromkeys(place for file in files for place in (Path(file), *Path(file).parents) if holds(place))
    )


def _holds_an_adapter(folder: Path) -> bool:
    from fusery.registry.adapters.files import CONFIG, PEFT_WEIGHTS, WEIGHTS

    # A link that leads nowhere counts: the check has to see it.
    return any(os.path.lexists(folder / name) for name in (CONFIG, WEIGHTS, PEFT_WEIGHTS))


def _report(
    session: Session, checked: list[CheckedFolder], form: str, output: Path | None, force: bool
) -> None:
    """Print or write what was found, in the form of others."""
    if form == "sarif":
        from fusery.registry.admission.sarif import sarif_log

        document: object = sarif_log(checked)
    else:
        from fusery.registry.admission.code_quality import code_quality

        document = code_quality(checked)
    if output is None:
        session.document(document)
        return
    from fusery.registry.documents import write_picture

    write_picture(output, (session.text_of(document) + "\n").encode(), force=force)


def _print(session: Session, checked: list[CheckedFolder], *, alone: bool) -> None:
    """Print what was found: the findings of one folder, or of several by folder."""

    def human() -> None:
        for each in checked:
            if not alone:
                session.print(f"{each.folder}")
            print_findings(session, each.findings)
            session.print(f"Verdict: {each.verdict}")
        if not checked:
            session.say("No adapter is among them.")

    from fusery.registry.admission.checked import Checked

    document = Checked.of(checked[0].findings) if alone else checked
    codes = [finding.code for each in checked for finding in each.findings]
    session.emit(document, names=codes, human=human)
