"""What a command works with: the registry, opened when it is first used, and the two ways of printing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from fusery.registry.charts.text import size

from .text import one_line

if TYPE_CHECKING:
    from fusery.registry import Registry
    from fusery.storage.progress import Reporter

    from .hints import Hints
    from .tables import PlainBar, Progress, Table

T = TypeVar("T")
MOST_ROWS = 200  # the most rows that `show` prints of one list


def is_interactive() -> bool:
    """Return whether a command may ask: only on a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


class Session:
    """One run of the command line."""

    def __init__(self, hints: Hints) -> None:
        self.hints = hints
        self.json = False
        self.quiet = False
        self.verbose = False
        self._drawn: list[PlainBar] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "registry" in self.__dict__:
            self.registry.close()

    @cached_property
    def registry(self) -> Registry:
        """Return the registry of `--registry` or the environment."""
        from fusery.registry import Registry

        return Registry.open(self.hints.registry, insecure_http=self.hints.insecure_http)

    def emit(self, document: Any, *, names: Iterable[str], human: Callable[[], None]) -> None:
        """Print a result: as one JSON document, as names one a line, or for people."""
        if self.json:
            self.document(document)
        elif self.quiet:
            for name in names:
                click.echo(one_line(name))
        else:
            human()

    def document(self, document: Any, *, indent: int | None = 2) -> None:
        """Print one JSON document, without passwords and tokens in its URLs."""
        click.echo(self.text_of(document, indent=indent))

    def text_of(self, document: Any, *, indent: int | None = 2) -> str:
        """Return a document as JSON, without passwords and tokens in its URLs."""
        from fusery.registry.record import plain

        text = json.dumps(self.hints.in_document(plain(document)), indent=indent, allow_nan=False)
        if ":/" in text:
            from fusery.storage.secrets import masked

            text = masked(text)
        return text

    def say(self, text: str) -> None:
        """Tell what is going on, on stderr; silent with `-q` and `--json`."""
        self._tell(self.hints.spelled(text))

    def confirm(self, question: str) -> None:
        """Ask; without a yes, end the command."""
        if not click.confirm(question, err=True):
            self.say("Nothing was changed.")
            raise click.exceptions.Exit(1)

    def reporter(self, progress: Callable[[int, int], None] | None = None) -> Reporter:
        """Return a reporter for long work: it sends messages to `say`, and progress to a bar.

        Names of single items appear only on a terminal.
        """
        from fusery.storage.progress import Reporter

        item = self.say if sys.stderr.isatty() else lambda _: None
        return Reporter(self.say, progress, item, verbose=self.verbose)

    def note(self, text: str) -> None:
        """Tell what people said, who may have named commands too: their words stay as they are."""
        self._tell(f"Note: {text}")

    def _tell(self, text: str) -> None:
        if not self.quiet and not self.json:
            for bar in self._drawn:
                bar.clear()
            click.echo(one_line(text), err=True)

    def files(self, files: Iterable[Mapping[str, Any]]) -> None:
        """Print the files of an adapter or a base model."""
        for file in files:
            self.print(f"  {file['sha256'][:12]}  {size(file['size']):>12}  {file['path']}")

    def findings(self, findings: Iterable[Mapping[str, Any]]) -> None:
        """Print what admission found, each with what to do about it."""
        for finding in findings:
            self.print(f"  {finding['severity']}: {finding['code']}: {finding['message']}")
            if finding["hint"]:
                self.hint(finding["hint"], "    ")

    def warn(self, view: Mapping[str, Any]) -> None:
        """Print a note for each yank that concerns what was just used."""
        for withdrawal in view.get("withdrawals", ()):
            self.note(withdrawal["summary"])

    def print(self, text: str = "") -> None:
        """Print one line of a result for people."""
        click.echo(one_line(text))

    def print_lines(self, lines: Iterable[str]) -> None:
        """Print lines of a result for people."""
        for line in lines:
            self.print(line)

    def newest(self, rows: Sequence[T], what: str) -> Sequence[T]:
        """Return the last rows of a list, and print a note if there are more."""
        if len(rows) > MOST_ROWS:
            self.say(f"Showing the newest {MOST_ROWS} of {len(rows):,} {what}; --json has all.")
        return rows[-MOST_ROWS:]

    def hint(self, text: str, margin: str = "") -> None:
        """Print a hint that belongs to a result, behind a margin."""
        self.print(f"{margin}Hint: {self.hints.spelled(text)}")

    def table(self, *columns: str, right: Collection[str] = (), free: Collection[str] = ()) -> Table:
        """Return an empty table with these columns, the least important ones last."""
        from .tables import Column, Table

        return Table([Column(title, title in right, title in free) for title in columns])

    def print_table(self, table: Table) -> None:
        """Print a table, fitted to the terminal, if there is one."""
        from shutil import get_terminal_size

        from .tables import DRAWN, PLAIN

        width = get_terminal_size().columns if sys.stdout.isatty() else None
        is_utf = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
        laid = table.laid(width, DRAWN if is_utf else PLAIN)
        click.echo("\n".join([click.style(laid.head, bold=True), laid.rule, *laid.rows]))
        if laid.left_out:
            self.say(f"No room for {', '.join(laid.left_out)}; piped, the table has all.")

    def facts(self, rows: Iterable[tuple[str, str]]) -> None:
        """Print labelled values, one a line, aligned."""
        pairs = list(rows)
        width = max((len(label) for label, _ in pairs), default=0)
        for label, value in pairs:
            self.print(f"{label:<{width}}  {value}")

    def progress(self, label: str) -> AbstractContextManager[Progress | None]:
        """Yield a callback `(done, total)` in bytes that moves a bar on stderr; None without a terminal."""
        return self._bar(label, lambda done, total: f"{size(done)} of {size(total)}")

    def counting(self, label: str) -> AbstractContextManager[Progress | None]:
        """Yield a callback `(done, total)` that counts on stderr; None without a terminal."""
        return self._bar(label, lambda done, total: f"{done}/{total}")

    @contextmanager
    def two_bars(self) -> Iterator[Reporter]:
        """Yield a reporter for work that fuses and then asks a model, with a bar for either."""
        from fusery.storage.progress import Reporter

        with self.progress("fusing") as first, self.counting("answering, in tokens") as second:

            class Bars(Reporter):
                def begin(self, what: str) -> None:
                    self._progress = second if what == "tokens" else first

            yield Bars(self.say, first, verbose=self.verbose)

    @contextmanager
    def _bar(self, label: str, words: Callable[[int, int], str]) -> Iterator[Progress | None]:
        if self.quiet or self.json or not sys.stderr.isatty():
            yield None
            return
        from .tables import PlainBar

        drawn = PlainBar(label, words)
        self._drawn.append(drawn)
        try:
            yield drawn
        finally:
            drawn.clear()
            self._drawn.remove(drawn)
