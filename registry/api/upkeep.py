"""The registry itself: is it well, as `registry.upkeep` has it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from .operation import operation
from .resource import Named, Resource, named

if TYPE_CHECKING:
    from ..audit import Report
    from ..audit.doctor import Check
    from ..backup import BackedUp, Restored
    from ..catalog.journal import Event
    from ..collect import Collection
    from ..database.grants import Role
    from ..database.schema import SchemaState


class Upkeep(Resource):
    """Audits, backups, the collector, and the schema of the database."""

    NAME = "upkeep"

    def doctor(self, *, reporter: Reporter = SILENT) -> Sequence[Check]:
        """Check settings, database, schema, store, cache, engine, plugins and receivers; return what was found of each."""
        from ..audit.doctor import examine
        from .plugged import plugin_checks, receiver_checks

        return [*examine(self.workspace), *plugin_checks(reporter), *receiver_checks(self.workspace)]

    def audit(
        self,
        references: tuple[Named, ...] = (),
        *,
        repair: bool = False,
        copies: Sequence[str | Path] = (),
        reporter: Reporter = SILENT,
    ) -> Report:
        """Check database, store and cache, and repair them; return what was found; see `fusery.registry.audit.audit`."""
        return self._audit(tuple(named(each) for each in references), repair, copies, reporter)

    def audit_all(
        self,
        *,
        repair: bool = False,
        copies: Sequence[str | Path] = (),
        jobs: int | None = None,
        anew: bool = False,
        anchors: Sequence[str | Path] = (),
        keys: Sequence[str | Path] = (),
        reporter: Reporter = SILENT,
    ) -> Report:
        """Audit everything in parallel, and return what was found; see `fusery.registry.audit.audit`."""
        from ..workers.cluster import check_jobs

        return self._audit(
            (),
            repair,
            copies,
            reporter,
            jobs=check_jobs(jobs),
            anew=anew,
            anchors=tuple(Path(place) for place in anchors),
            keys=tuple(Path(place) for place in keys),
        )

    def _audit(
        self,
        names: tuple[str, ...],
        repair: bool,
        copies: Sequence[str | Path],
        reporter: Reporter,
        *,
        jobs: int | None = None,
        anew: bool = False,
        anchors: tuple[Path, ...] = (),
        keys: tuple[Path, ...] = (),
    ) -> Report:
        from ..audit import audit
        from ..releases.rejudging import check_moves
        from ..webhooks.checks import check_deliveries

        places = tuple(Path(place) for place in copies)
        report = audit(
            self.workspace,
            names,
            repair=repair,
            copies=places,
            jobs=jobs,
            anew=anew,
            anchors=anchors,
            keys=keys,
            reporter=reporter,
        )
        if not names:
            check_moves(self.workspace, report)
            check_deliveries(self.workspace, report)
        return report

    def audit_chain(self, *, anchors: Sequence[str | Path] = (), keys: Sequence[str | Path] = ()) -> Report:
        """Return what following the log up to anchors has shown; see `fusery.registry.audit.audit.audit_chain`."""
        from ..audit import audit_chain

        return audit_chain(self.workspace, [Path(each) for each in anchors], [Path(each) for each in keys])

    def audit_rebuild(self, references: tuple[Named, ...] = (), *, reporter: Reporter = SILENT) -> Report:
        """Make fused models again, and return how they compare; see `fusery.registry.audit.audit.audit_rebuild`."""
        from ..audit import audit_rebuild

        return audit_rebuild(self.workspace, tuple(named(each) for each in references), say=reporter.say)

    def gc(
        self,
        *,
        grace: float | None = None,
        dry_run: bool = False,
        force: bool = False,
        reporter: Reporter = SILENT,
    ) -> Collection:
        """Remove from the store what nothing refers to, and return what that was; see `fusery.registry.collect.collect`."""
        from ..collect import GRACE, collect

        return collect(
            self.workspace,
            grace=GRACE if grace is None else grace,
            dry_run=dry_run,
            force=force,
            say=reporter.say,
        )

    def backup(
        self,
        destination: str | Path,
        *,
        verify: bool = False,
        store_options: str | None = None,
        reporter: Reporter = SILENT,
    ) -> BackedUp:
        """Make a backup of everything on record, and return what it consists of; see `fusery.registry.backup.backup`."""
        from ..backup import backup

        return backup(
            self.workspace,
            str(destination),
            verify=verify,
            store_options=store_options,
            reporter=reporter,
        )

    def restore(
        self,
        source: str | Path,
        *,
        own: bool = False,
        store_options: str | None = None,
        reporter: Reporter = SILENT,
    ) -> Restored:
        """Restore a backup into this empty registry, and return what came; see `fusery.registry.backup.restore`."""
        from ..backup import restore

        return restore(
            self.workspace,
            str(source),
            own=own,
            store_options=store_options,
            reporter=reporter,
        )

    @operation("reader")
    def log(
        self,
        *,
        reference: Named | None = None,
        since: str | None = None,
        action: str | None = None,
        after: int | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        """Return entries of the log, the newest last; see `fusery.registry.catalog.journal.journal`."""
        from ..catalog.journal import journal

        return journal(
            self.workspace,
            reference=None if reference is None else named(reference),
            since=since,
            action=action,
            after=after,
            before=before,
            limit=limit,
        )

    def follow(
        self,
        *,
        reference: Named | None = None,
        since: str | None = None,
        action: str | None = None,
        limit: int | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[Event]:
        """Yield entries of the log, and those that come until `stop` is set; see `fusery.registry.catalog.following.follow`."""
        from ..catalog.following import follow

        return follow(
            self.workspace,
            reference=None if reference is None else named(reference),
            since=since,
            action=action,
            limit=limit,
            stop=stop,
        )

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
