"""The part of the Python API about whole registries: backups, and work on many adapters at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..workspace import Workspace

if TYPE_CHECKING:
    from ..audit import Report
    from ..backup import BackedUp, Restored
    from ..bulk.work import Done
    from ..database.grants import Role
    from ..database.schema import SchemaState
    from ..evaluation.bench import BenchReport
    from ..fusion.request import FuseRequest


class Upkeep:
    """What `Registry` does about all that it holds.

    Attributes:
        workspace: the registry's parts.
    """

    workspace: Workspace

    def schema(self) -> SchemaState:
        """Return which schema the database has, and which one this program needs; the database may be of any."""
        from ..database import Database, schema

        with closing(Database.open(self.workspace.settings.database)) as database:
            return schema.state(database)

    def schema_differences(self) -> list[str]:
        """Compare the database with the tables of this program; return each difference as a sentence."""
        from ..database import schema

        return schema.check(self.workspace.database)

    def grants(self, role: Role | None = None, *, user: str | None = None) -> str:
        """Return the SQL that gives roles their rights; see `fusery.registry.database.grants.grants_for`."""
        from ..database import Database
        from ..database.grants import grants_for

        with closing(Database.open(self.workspace.settings.database)) as database:
            return grants_for(database, role, user)

    def backup(
        self,
        destination: str | Path,
        *,
        verify: bool = False,
        store_options: str | None = None,
        say: Callable[[str], None] = lambda _: None,
        progress: Callable[[int, int], None] | None = None,
    ) -> BackedUp:
        """Make a backup of everything on record, with its bytes; see `fusery.registry.backup.backup`."""
        from ..backup import backup

        return backup(
            self.workspace,
            str(destination),
            verify=verify,
            store_options=store_options,
            say=say,
            progress=progress,
        )

    def restore(
        self,
        source: str | Path,
        *,
        own: bool = False,
        store_options: str | None = None,
        say: Callable[[str], None] = lambda _: None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Restored:
        """Make this empty registry that of a backup; see `fusery.registry.backup.restore`."""
        from ..backup import restore

        return restore(
            self.workspace, str(source), own=own, store_options=store_options, say=say, progress=progress
        )

    def fuse_all(self, request: FuseRequest | None = None, **choice: Any) -> Done:
        """Fuse many adapters; `choice` are the keywords of `fusery.registry.bulk.work.fuse_all`."""
        from ..bulk.work import fuse_all
        from ..fusion.request import FuseRequest

        return fuse_all(self.workspace, request or FuseRequest(), **choice)

    def materialize_all(self, pattern: str | Path, request: FuseRequest | None = None, **choice: Any) -> Done:
        """Write bundles of many adapters; `choice` as in `fusery.registry.bulk.work.materialize_all`."""
        from ..bulk.work import materialize_all
        from ..fusion.request import FuseRequest

        return materialize_all(self.workspace, str(pattern), request or FuseRequest(), **choice)

    def audit_all(self, **options: Any) -> Report:
        """Audit everything with many hands; `options` are the keywords of `fusery.registry.audit.everything.audit_all`."""
        from ..audit.everything import audit_all
        from ..releases.rejudging import check_moves

        report = audit_all(self.workspace, **options)
        check_moves(self.workspace, report)
        return report

    def audit_chain(self, *, anchors: Sequence[str | Path] = (), keys: Sequence[str | Path] = ()) -> Report:
        """Follow the chain of the log alone, up to anchors; see `fusery.registry.audit.audit.audit_chain`."""
        from ..audit import audit_chain

        return audit_chain(self.workspace, [Path(each) for each in anchors], [Path(each) for each in keys])

    def audit_rebuild(
        self, references: tuple[str, ...] = (), *, say: Callable[[str], None] = lambda _: None
    ) -> Report:
        """Make fused models again and compare; see `fusery.registry.audit.audit.audit_rebuild`."""
        from ..audit import audit_rebuild

        return audit_rebuild(self.workspace, references, say=say)


class Measuring:
    """What `Registry` measures.

    Attributes:
        workspace: the registry's parts.
    """

    workspace: Workspace

    def bench(self, reference: str, *, plot: str | Path | None = None, **options: Any) -> BenchReport:
        """Measure an adapter in each form it could be shipped as; see `fusery.registry.evaluation.bench.bench`."""
        from ..evaluation.bench import bench

        place = Path(plot) if plot is not None else None
        return bench(self.workspace, reference, plot=place, **options)

    def benched(self, reference: str) -> BenchReport | None:
        """Return what was measured last of an adapter, None if nothing was."""
        from ..evaluation.bench import recorded

        return recorded(self.workspace, reference)
