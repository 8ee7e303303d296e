"""Other registries and folders under git, as `registry.exchange` has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from .resource import Named, Resource, named

if TYPE_CHECKING:
    from ..exchange import Exchanged
    from ..exchange.export import Exported
    from ..records.adapter import Registered


class Exchange(Resource):
    """What goes to other registries, and what comes from there."""

    def push(
        self,
        reference: Named,
        home: str | Path | None = None,
        *,
        database: str | None = None,
        store: str | None = None,
        store_options: str | None = None,
        fused: bool = False,
        dry_run: bool = False,
        reporter: Reporter = SILENT,
    ) -> Exchanged:
        """Copy a thing and all that it needs to another registry; return what became of each.

        See `fusery.registry.exchange.exchange.push`.

        Args:
            reference: an adapter, a task for all of its versions, a base model, or a fused artifact.
            home: the other registry's home folder; or else
            database: its database's URL, and
            store: its store's, with
            store_options: for the store's file system, as JSON.
            fused: also what was fused from the adapters.
            dry_run: only look what is missing.
            reporter: hears what is going on and how much is done.
        """
        from ..exchange import push
        from ..exchange.place import Place

        place = Place(Path(home) if home is not None else None, database, store, store_options)
        return push(
            self.workspace,
            named(reference),
            place,
            fused=fused,
            dry_run=dry_run,
            reporter=reporter,
        )

    def pull(
        self,
        reference: Named,
        home: str | Path | None = None,
        *,
        database: str | None = None,
        store: str | None = None,
        store_options: str | None = None,
        fused: bool = False,
        dry_run: bool = False,
        reporter: Reporter = SILENT,
    ) -> Exchanged:
        """Copy a thing and all that it needs from another registry; arguments and answer are those of `push`."""
        from ..exchange import pull
        from ..exchange.place import Place

        place = Place(Path(home) if home is not None else None, database, store, store_options)
        return pull(
            self.workspace,
            named(reference),
            place,
            fused=fused,
            dry_run=dry_run,
            reporter=reporter,
        )

    def export(
        self,
        reference: Named,
        destination: str | Path,
        *,
        form: str | None = None,
        force: bool = False,
        reporter: Reporter = SILENT,
    ) -> Exported:
        """Write an adapter's folder, and return where it lies and its files; see `fusery.registry.exchange.export.export_adapter`."""
        from ..exchange.export import export_adapter

        return export_adapter(
            self.workspace, named(reference), Path(destination), form=form, force=force, say=reporter.say
        )

    def import_folder(self, folder: str | Path, *, base: str | None = None) -> Registered:
        """Take in a folder that `export` wrote, and return its record; see `fusery.registry.exchange.import_folder.import_adapter`."""
        from ..exchange.import_folder import import_adapter

        return import_adapter(self.workspace, Path(folder), base=base)
