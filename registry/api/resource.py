"""The base class of the Python API's resources, and helpers for references."""

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
"""A reference: a string as on the command line, or a record that has a name."""


def named(reference: Named) -> str:
    """Return a reference as a string.

    Raises:
        BadInputError: records of this class cannot be references.
    """
    if isinstance(reference, str):
        return reference
    if isinstance(reference, Record) and reference.REFERENCE:
        return str(getattr(reference, reference.REFERENCE))
    from ..errors import BadInputError

    raise BadInputError(
        f"invalid reference: {type(reference).__name__}", hint="pass a string or a record of list()"
    )


def each_named(references: Sequence[Named] | Named) -> list[str]:
    """Return references as strings; accept a single reference, too."""
    several = [references] if isinstance(references, str | Record) else references
    return [named(each) for each in several]


def said(text: str) -> str:
    """Return a reason or note for the log, after validation.

    Raises:
        BadInputError: it contains NUL or a lone surrogate, which databases do not store.
    """
    if is_keepable(text):
        return text
    from ..errors import BadInputError

    raise BadInputError(
        f"invalid text: {text[:60]!r} (it contains NUL or a lone surrogate)", hint="remove it"
    )


def require_digest(text: str) -> Digest:
    """Return a digest.

    Raises:
        BadInputError: the text is not a digest.
    """
    from fusery.storage.digest import parse_digest

    from ..errors import BadInputError

    try:
        return parse_digest(text)
    except ValueError as error:
        raise BadInputError(f"invalid digest: {text[:80]!r}", hint="give 64 lower-case hex digits") from error


def moment(at: datetime | str | None) -> str | None:
    """Return a time as a string for the command line's functions."""
    return at.isoformat() if isinstance(at, datetime) else at


class Resource:
    """A resource of a registry, such as `registry.adapters`.

    Attributes:
        NAME: its attribute on `Registry`, and its name in URLs.
        workspace: the local registry; for a server's registry, its local replica.
        server: the server; None for a local registry.
    """

    NAME: ClassVar[str]

    def __init__(self, workspace: Workspace, server: Server | None = None) -> None:
        self.workspace, self.server = workspace, server

    def chosen(self, task: str | None, where: str | None, reporter: Reporter) -> list[str]:
        """Return the names of the selected adapters without the yanked ones.

        Raises:
            UnknownReferenceError: the task does not exist.
            WhereError: the expression is invalid.
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
        """Return the workspace of a local registry.

        Args:
            what: the action, for the error message.

        Raises:
            BadInputError: the registry is on a server.
        """
        if self.server is None:
            return self.workspace
        from ..errors import BadInputError

        raise BadInputError(
            f"cannot {what} a server's registry from here", hint="run the command where the server runs"
        )

    @contextmanager
    def here(
        self, *references: Named, reporter: Reporter = SILENT, send: bool = True
    ) -> Iterator[tuple[Workspace, list[str]]]:
        """Yield the parts of a registry on this machine in which things are, to compute with them, and their names there.

        For a server's registry, download and verify missing files first, and send the new records at the end.

        Args:
            references: what is computed with.
            reporter: hears what the server did not record, and the bytes done and the total.
            send: what is recorded meanwhile is sent.

        Raises:
            UnknownReferenceError: a reference does not exist.
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
        # Downloads show a progress bar only, so that messages are the same as for a local registry.
        with fetched(
            self.workspace,
            self.server,
            registry,
            wanted,
            say=reporter.say,
            progress=reporter.progress,
            send=send,
        ):
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
