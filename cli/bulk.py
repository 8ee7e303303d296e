"""What the commands for one adapter do with `--all`: options, a bar that counts, one document for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .session import Session
from .text import cell

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from fusery.registry.bulk.work import Done

_Made = TypeVar("_Made", bound=Mapping[str, Any])


def bulk_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose many adapters; `choice` reads them."""
    options: list[Callable[..., Any]] = [
        click.option(
            "--all", "every", is_flag=True, help="All adapters, or those that --where and --task choose."
        ),
        click.option("--where", metavar="EXPR", help="With --all: only those that fit, as in list --where."),
        click.option("--task", metavar="T", help="With --all: only those of this task."),
        jobs_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


def jobs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that says how many at a time."""
    option = click.option(
        "--jobs",
        type=click.IntRange(1, 256),
        metavar="N",
        help="How many at a time; default: as many as processors, at most 4.  FUSERY_CLUSTER=tcp://... has its own.",
    )
    return option(function)


def choice(options: dict[str, Any], reference: str | None) -> dict[str, Any] | None:
    """Take the options of `bulk_options` out of a command's; return them, or None for a command about one adapter."""
    every, where, task, jobs = (options.pop(name) for name in ("every", "where", "task", "jobs"))
    if not every:
        if where is not None or task is not None or jobs is not None:
            raise click.UsageError("--where, --task and --jobs go with --all.")
        if reference is None:
            raise click.UsageError("Missing argument 'REF'; --all takes all adapters.")
        return None
    if reference is not None:
        raise click.UsageError("--all takes no REF.\nHint: choose with --where EXPR or --task T")
    return {"where": where, "task": task, "jobs": jobs}


@contextmanager
def counting(session: Session, label: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a callback `(done, total)` that counts on stderr, or None when there is no terminal."""

    def columns() -> list[ProgressColumn]:
        from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

        return [BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]

    with session.bar(label, columns, lambda done, total: f"{done}/{total}") as told:
        yield told


def report(session: Session, done: Done[_Made], *, verb: str, adapter: Callable[[_Made], str]) -> int:
    """Print what became of many; return the exit code.

    Args:
        session: the command line's.
        done: what became of them.
        verb: what was done with them.
        adapter: the name of the adapter that a result is about.
    """
    good = done.made

    def human() -> None:
        for document in good:
            session.print(f"{cell(adapter(document))}  {cell(document['path'])}")
            session.warn(document)
        for failed in done.failures:
            session.print(f"{cell(failed.adapter)}  failed: {cell(failed.error.message)}")
            if failed.error.hint:
                session.hint(cell(failed.error.hint), "  ")
        session.print(f"{len(good)} {verb}, {len(done.failures) or 'none'} failed.")

    if session.quiet:
        for failed in done.failures:
            click.echo(f"{cell(failed.adapter)}: {cell(failed.error.message)}", err=True)
    session.emit(done.documents, names=[document["path"] for document in good], human=human)
    return 0 if done.ok else 1
