"""`fusery check`: what admission finds in folders, for people, for hooks and for CI."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import click

from .adapters import FACTS, FOLDER_OR_URL
from .command import command
from .session import Session

if TYPE_CHECKING:
    from fusery.registry.admission.code import CheckedFolder


class _Hooked(click.Command):
    """A command for hooks: a file whose name begins with `-` is not taken for an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what is an option and a file, and a `--` that may be the name of one."""
        guarded = "--" in args and not os.path.lexists("--")
        if "--changed" in args and not guarded:
            for arg in args:
                if arg.startswith("-") and os.path.lexists(arg):
                    hint = "name the files by --files0-from" if "--" in args else "put -- before the files"
                    raise click.UsageError(f"{arg!r} is an option and a file; {hint}.", ctx)
        return super().parse_args(ctx, args)


@command(
    "check",
    rare="version date alpha examples checkpoint log listed trained_on",
    document="admission.code:Checked | [admission.code:CheckedFolder]",
    kind=_Hooked,
    needs={"force": "output", "listed": "changed"},
    folders=("FOLDER...", FOLDER_OR_URL),
    **FACTS,
    strict=": Treat warnings as errors.",
    changed=": FOLDER... are changed files; check their adapters.",
    listed=(
        "--files0-from FILE: With --changed: read names that end in NUL from FILE; - is stdin.",
        click.File("rb"),
    ),
    form="--format: Output format: text, SARIF 2.1.0, or GitLab's Code Quality report.",
    output="-o --output FILE: Write the report to a file, and print text.",
)
def check(
    session: Session,
    folders: tuple[str | Path, ...] = (),
    *,
    strict: bool = False,
    changed: bool = False,
    listed: BinaryIO | None = None,
    form: Literal["text", "sarif", "gitlab"] = "text",
    output: Path | None = None,
    force: bool = False,
    **facts: Any,
) -> int:
    """Check adapter folders without registering them.

    Exit code 1: an adapter would be refused. With --changed, files that belong to no adapter are ignored, so a hook can
    pass every file of a commit, removed files included.

    Examples:
      fusery check adapters --base SmolLM2-135M-Instruct
      git diff -z --name-only HEAD^1 | fusery check --changed --files0-from -
    """
    if not folders and not changed:
        raise click.UsageError("Missing argument 'FOLDER...'.")
    if output is None and form != "text" and (session.json or session.quiet):
        raise click.UsageError(f"--format {form}, --json and -q exclude each other; -o FILE goes with both.")
    if output is not None and form == "text":
        raise click.UsageError("-o goes with --format sarif or gitlab.")
    data = b"" if listed is None else listed.read()
    if listed is not None and data and not data.endswith(b"\0"):  # it is cut off, or has names by lines
        raise click.UsageError(f"{listed.name!r} does not end with NUL.\nHint: git diff -z --name-only")
    names = [Path(os.fsdecode(name)) for name in data.split(b"\0") if name]
    wanted = adapter_folders([*folders, *names]) if changed else list(dict.fromkeys(folders))
    alone = not changed and len(wanted) == 1
    return check_folders(session, wanted, alone, form, output, force=force, strict=strict, **facts)


def check_folders(
    session: Session,
    folders: Sequence[str | Path],
    alone: bool,
    form: str = "text",
    output: Path | None = None,
    *,
    force: bool = False,
    **facts: Any,
) -> int:
    """Check folders and print or write the findings; return 1 if a folder would be refused."""
    from fusery.registry.admission.code import CheckedFolder

    check = session.registry.adapters.check
    checked = [CheckedFolder.of(check(folder, **facts), folder=Path(folder)) for folder in folders]
    if form != "text":
        _report(session, checked, form, output, force)
    if form == "text" or output is not None:
        _print(session, checked, alone=alone)
    return int(any(folder.verdict == "fail" for folder in checked))


def adapter_folders(files: Iterable[str | Path]) -> list[Path]:
    """Return the adapters' folders that files are in, at any depth; the file may be gone."""
    from fusery.registry.adapters import CONFIG, PEFT_WEIGHTS, WEIGHTS

    # To git, a link to a folder is a file, and so is a repository in this one.
    # One adapter may be inside another, whose files are links to the inner one's.
    places = dict.fromkeys(place for file in files for place in (Path(file), *Path(file).parents))
    # A link that leads nowhere counts: the check has to see it.
    names = (CONFIG, WEIGHTS, PEFT_WEIGHTS)
    return [place for place in places if any(os.path.lexists(place / name) for name in names)]


def _report(
    session: Session, checked: list[CheckedFolder], form: str, output: Path | None, force: bool
) -> None:
    from fusery.registry.admission.ci_reports import code_quality, sarif_log

    document: object = sarif_log(checked) if form == "sarif" else code_quality(checked)
    if output is None:
        session.document(document)
        return
    from fusery.registry.documents import write_picture

    write_picture(output, (session.text_of(document) + "\n").encode(), force=force)


def _print(session: Session, checked: list[CheckedFolder], *, alone: bool) -> None:
    """Print what was found: the findings of one folder, or of several by folder."""

    def human() -> None:
        for folder in checked:
            if not alone:
                session.print(f"{folder.folder}")
            session.findings(folder.findings)
            session.print(f"Verdict: {folder.verdict}")
        if not checked:
            session.say("No adapter is among them.")

    from fusery.registry.admission.code import Checked

    document = Checked.of(checked[0].findings) if alone else checked
    codes = [finding.code for folder in checked for finding in folder.findings]
    session.emit(document, names=codes, human=human)
