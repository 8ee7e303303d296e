"""Which adapters are wanted: references that are resolved now, and those that an expression chooses."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.digest import digest_file
from fusery.storage.errors import StorageError
from fusery.storage.manifest import Manifest

from .. import tables
from ..catalog.listing import list_adapters
from ..database.batches import batches
from ..errors import BadInputError
from ..records.references import resolve_adapter
from ..records.views import entries
from ..records.withdrawals import is_yanked, standing_yank
from ..registration.trained_on import known_as

if TYPE_CHECKING:
    from ..workspace import Workspace


@dataclass(frozen=True, slots=True)
class WantedBase:
    """The base that adapters stand on.

    Attributes:
        name: its name here.
        digest: of its files.
        called: every name, hub id and folder that it is known by.
        files: path, size and digest of each of its files.
    """

    name: str
    digest: str
    called: frozenset[str]
    files: Manifest

    @classmethod
    def of(cls, row: tables.BaseModel) -> WantedBase:
        """Return the base of a row."""
        called = known_as(row) | ({row.location} if row.location else set())
        return cls(row.name, row.digest, called, Manifest.of(entries(row.manifest)))

    def lies_in(self, folder: str) -> bool:
        """Tell whether a folder of this machine has its files: all of them by their sizes, the configuration by its bytes."""
        root = Path(folder)
        if not root.is_absolute():
            return False
        try:
            return all(
                (root / entry.path).stat().st_size == entry.size
                and (entry.path != "config.json" or digest_file(root / entry.path)[0] == entry.sha256)
                for entry in self.files
            )
        except (OSError, ValueError, StorageError):
            return False


@dataclass(frozen=True, slots=True)
class Wanted:
    """An adapter that is wanted.

    Attributes:
        name: its full name: what it is asked for by.
        digest: that it is registered under.
        references: what was asked for and means it; none where an expression chose it.
        base: what it stands on.
    """

    name: str
    digest: str
    references: tuple[str, ...]
    base: WantedBase


@dataclass(frozen=True, slots=True)
class Desired:
    """What is wanted, and what would be if it were not withdrawn.

    Attributes:
        adapters: by name, in the order in which they were asked for.
        withdrawn: names of yanked adapters that were asked for, each with the reason.
        references: what was asked for, by the name of the adapter that it means.
    """

    adapters: Mapping[str, Wanted]
    withdrawn: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def base(self) -> WantedBase | None:
        """The base of all of them; None where there are none.

        Raises:
            BadInputError: they stand on several.
        """
        found = list(self.adapters.values())
        for each in found:
            if each.base.digest != found[0].base.digest:
                raise BadInputError(
                    f"{each.name} was trained on {each.base.name}, {found[0].name} on {found[0].base.name}:"
                    " a server has one base",
                    hint="one sync for each server; --where \"base = 'NAME'\" chooses by the base",
                )
        return found[0].base if found else None


def desired(
    workspace: Workspace,
    references: Sequence[str],
    *,
    where: str | None = None,
    task: str | None = None,
    chosen: Sequence[str] | None = None,
) -> Desired:
    """Return what is wanted now.

    Args:
        workspace: the registry's parts.
        references: adapters, by alias, version or name.
        where: adapters that an expression chooses, besides.
        task: of these, only this task's.
        chosen: names of these, where they were looked up already.

    Raises:
        UnknownReferenceError: a reference, or the task, is not known: an alias that is gone is no reason to unload.
        WhereError: the expression is not one.
        BadInputError: nothing fits: whoever wants nothing says so.
    """
    chosen = chosen or []
    if not chosen and (where is not None or task is not None):
        chosen = [each.name for each in list_adapters(workspace, where=where, task=task)]
    if not references and not chosen:
        raise BadInputError(
            "no adapter fits, and so all that was brought would go", hint="--none, if that is what is wanted"
        )
    asked: dict[str, list[str]] = {}
    rows: dict[str, tables.Adapter] = {}
    withdrawn: dict[str, str] = {}
    bases: dict[int, WantedBase] = {}
    with workspace.database.read() as session:
        for reference in dict.fromkeys([*references, *chosen]):
            row = resolve_adapter(session, reference)
            asked.setdefault(row.name, [])
            if reference in references:
                asked[row.name].append(reference)
            if (yank := standing_yank(session, row)) is not None:
                withdrawn[row.name] = yank.reason
                continue
            rows[row.name] = row
            if row.base_id not in bases:
                bases[row.base_id] = WantedBase.of(row.base)
        said = {name: tuple(each) for name, each in asked.items()}
        return Desired(
            {name: Wanted(name, row.digest, said[name], bases[row.base_id]) for name, row in rows.items()},
            withdrawn,
            said,
        )


def yanked_among(workspace: Workspace, names: Collection[str]) -> Mapping[str, str]:
    """Return those of some names that are yanked adapters of this registry, each with the reason."""
    adapter, found = tables.Adapter, {}
    with workspace.database.read() as session:
        for chosen in batches(sorted(names)):
            for row in session.scalars(
                select(adapter).where(adapter.name.in_(chosen), is_yanked(adapter.id))
            ):
                yank = standing_yank(session, row)
                found[row.name] = yank.reason if yank is not None else ""
    return found
