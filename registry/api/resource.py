"""What the parts of the Python API have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from fusery.storage.plaintext import is_keepable
from fusery.storage.progress import SILENT, Reporter

from ..record import Record

if TYPE_CHECKING:
    from fusery.storage.digest import Digest

    from ..records.resolved import Resolved
    from ..remote.server import Server
    from ..workspace import Workspace

Named = str | Record
"""What a reference is: a text as the command line takes it, or the record of what is meant."""


def named(reference: Named) -> str:
    """Return a reference as a text.

    Raises:
        BadInputError: a record of this kind names nothing.
    """
    if isinstance(reference, str):
        return reference
    if isinstance(reference, Record) and reference.REFERENCE:
        return str(getattr(reference, reference.REFERENCE))
    from ..errors import BadInputError

    raise BadInputError(f"no reference: {type(reference).__name__}", hint="give a text, or what list returns")


def each_named(references: Sequence[Named] | Named) -> list[str]:
    """Return references as texts; one alone counts as one of them."""
    several = [references] if isinstance(references, str | Record) else references
    return [named(each) for each in several]


def said(text: str) -> str:
    """Return what somebody says for the log, a reason or a note.

    Raises:
        BadInputError: it has characters that no database keeps: NUL, or half of a surrogate pair.
    """
    if is_keepable(text):
        return text
    from ..errors import BadInputError

    raise BadInputError(f"{text[:60]!r} has characters that cannot be kept", hint="leave them out")


def require_digest(text: str) -> Digest:
    """Return a digest.

    Raises:
        BadInputError: it is none.
    """
    from fusery.storage.digest import parse_digest

    from ..errors import BadInputError

    try:
        return parse_digest(text)
    except ValueError as error:
        raise BadInputError(f"no digest: {text[:80]!r}", hint="64 hex digits in lower case") from error


def moment(at: datetime | str | None) -> str | None:
    """Return a moment as a text, as the command line takes it."""
    return at.isoformat() if isinstance(at, datetime) else at


class Resource:
    """One part of a registry, with the verbs that people use on it.

    Attributes:
        NAME: how a registry calls it.
        workspace: the registry's parts on this machine; of a server's registry, what was fetched of it.
        server: that the registry is at; None for one of this machine.
    """

    NAME: ClassVar[str]

    def __init__(self, workspace: Workspace, server: Server | None = None) -> None:
        self.workspace, self.server = workspace, server

    def chosen(self, task: str | None, where: str | None, reporter: Reporter) -> list[str]:
        """Return the names of the adapters of a piece of bulk work, without the yanked ones.

        Raises:
            UnknownReferenceError: there is no such task.
            WhereError: the expression is not one.
        """
        from ..bulk.selection import usable_names
        from ..records.adapter import Adapter

        if self.server is not None:
            chosen = {name: value for name, value in (("task", task), ("where", where)) if value is not None}
            found = self.server.ask("adapters/list", chosen, list[Adapter], writes=False)
        else:
            from ..catalog.listing import list_adapters

            found = list_adapters(self.workspace, task=task, where=where)
        return usable_names(found, reporter.say)

    def local(self, what: str) -> Workspace:
        """Return the parts of a registry on this machine.

        Args:
            what: is to be done, for an error.

        Raises:
            BadInputError: the registry is at a server.
        """
        if self.server is None:
            return self.workspace
        from ..errors import BadInputError

        raise BadInputError(
            f"cannot {what} a server's registry from here", hint="run the command where the server runs"
        )

    @contextmanager
    def here(self, *references: Named, reporter: Reporter = SILENT) -> Iterator[tuple[Workspace, list[str]]]:
        """Yield the parts of a registry on this machine in which things are, to compute with them, and their names there.

        Of a server's registry they are fetched first, as far as they are not here yet, and verified; what was recorded of
        them meanwhile is sent to the server at the end.

        Args:
            references: what is computed with.
            reporter: hears what is going on, and the bytes done and the total.

        Raises:
            UnknownReferenceError: nothing has one of the names.
            ServerUnavailableError, ServerRefusedError: the server did not answer, or refused.
        """
        names = [named(each) for each in references]
        if self.server is None:
            yield self.workspace, names
            return
        from ..exchange.replica import fetched
        from ..records.token import OwnIdentity

        ask = self.server.ask
        registry = ask("tokens/own", {}, OwnIdentity, writes=False).registry
        wanted = [self._resolved(name, ask) for name in names]
        # What is fetched is shown as a bar; what is said is what the same command says on a registry of this machine.
        quiet = Reporter(progress=reporter.progress)
        with fetched(self.workspace, self.server, registry, wanted, quiet):
            self._mirror_aliases(names, wanted)
            yield self.workspace, [each.name for each in wanted]

    def _resolved(self, name: str, ask: Callable[..., Any]) -> Resolved:
        """Return what a reference means at the server; an alias that is gone there is removed here."""
        from ..errors import UnknownReferenceError
        from ..records.resolved import Resolved

        try:
            found: Resolved = ask("provenance/resolve", {"reference": name}, Resolved, writes=False)
        except UnknownReferenceError:
            self._remove_alias(name)
            raise
        return found

    def _mirror_aliases(self, references: Sequence[str], wanted: Sequence[Resolved]) -> None:
        """Let aliases that were given hold here what they hold at the server, and none a yanked adapter."""
        from ..releases.aliases import set_alias

        for reference, found in zip(references, wanted, strict=True):
            if found.kind == "adapter" and "#" in reference:
                if found.yanked:
                    self._remove_alias(reference)
                else:
                    set_alias(self.workspace, found.name, reference.strip().casefold())

    def _remove_alias(self, reference: str) -> None:
        from ..errors import BadInputError, UnknownReferenceError
        from ..releases.aliases import remove_alias

        if "#" in reference and not self.workspace.is_unmade:
            with suppress(BadInputError, UnknownReferenceError):
                remove_alias(self.workspace, reference)
