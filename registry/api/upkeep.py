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
    from ..audit.upgrade import Upgraded
    from ..backup import BackedUp, Restored
    from ..collect import Collection
    from ..database.schema import SchemaState
    from ..records.event import Event
    from ..workspace import Workspace


class Upkeep(Resource):
    """Audits, backups, the collector, and the schema of the database."""

    NAME = "upkeep"

    def doctor(self, *, reporter: Reporter = SILENT) -> Sequence[Check]:
        """Check settings, database, schema, store, cache, engine, plugins and receivers; return the results.

        Of a server's registry: the settings, cache, engine and plugins of this machine, and whether the server answers.
        """
        from ..audit.doctor import examine
        from .plugged import plugin_checks, receiver_checks

        if self.server is not None:
            from ..audit.remote_doctor import examine_remote
            from .tokens import Tokens

            own = Tokens(self.workspace, self.server).own
            return [*examine_remote(self.workspace, self.server.url, own), *plugin_checks(reporter)]
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
        names = [named(each) for each in references]
        if copies:
            return audited(self.local("give local copies to an audit of"), names, repair, copies, reporter)
        return self._audit(names, repair=repair, reporter=reporter)

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
        if not (copies or anchors):
            return self._audit((), repair=repair, jobs=jobs, anew=anew, reporter=reporter)
        workspace = self.local("give local files to an audit of")
        return audited(workspace, (), repair, copies, reporter, jobs, anew, anchors, keys)

    @operation("admin", writes=True)
    def _audit(
        self,
        references: Sequence[str],
        *,
        repair: bool = False,
        jobs: int | None = None,
        anew: bool = False,
        reporter: Reporter = SILENT,
    ) -> Report:
        """Check and repair database, store and cache; return the findings."""
        return audited(self.workspace, references, repair, (), reporter, jobs, anew)

    def audit_chain(self, *, anchors: Sequence[str | Path] = (), keys: Sequence[str | Path] = ()) -> Report:
        """Return what following the log up to anchors has shown; see `fusery.registry.audit.audit.audit_chain`."""
        from ..audit import audit_chain

        if not anchors:
            return self._audit_chain()
        workspace = self.local("compare an anchor with the log of")
        return audit_chain(workspace, [Path(each) for each in anchors], [Path(each) for each in keys])

    @operation("admin")
    def _audit_chain(self) -> Report:
        """Verify the chain of the log; return the result."""
        from ..audit import audit_chain

        return audit_chain(self.workspace, [], [])

    @operation("admin", writes=True)
    def audit_rebuild(self, references: Sequence[Named] = (), *, reporter: Reporter = SILENT) -> Report:
        """Make fused models again, and return how they compare; see `fusery.registry.audit.audit.audit_rebuild`."""
        from ..audit import audit_rebuild

        return audit_rebuild(self.workspace, tuple(named(each) for each in references), say=reporter.say)

    @operation("admin", writes=True)
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
            self.local("back up"),
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
        """Restore a backup into this empty registry; see `fusery.registry.backup.restore`."""
        from ..backup import restore

        return restore(
            self.local("restore into"),
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

        name = None if reference is None else named(reference)
        return follow(self, reference=name, since=since, action=action, limit=limit, stop=stop)

    @operation("admin")
    def schema(self) -> SchemaState:
        """Return which schema the database has, and which one this program needs; the database may be of any."""
        from ..database import Database, schema

        with closing(Database.open(self.workspace.settings.database)) as database:
            return schema.state(database)

    def upgrade(self) -> Upgraded:
        """Upgrade the database's schema to this version; see `fusery.registry.audit.upgrade.upgrade`."""
        from ..audit.upgrade import upgrade

        return upgrade(self.local("upgrade the database of"))

    @operation("admin")
    def schema_differences(self) -> list[str]:
        """Compare the database with the tables of this program; return each difference as a sentence."""
        from ..database import schema

        return schema.check(self.workspace.database)


def audited(
    workspace: Workspace,
    names: Sequence[str],
    repair: bool,
    copies: Sequence[str | Path],
    reporter: Reporter,
    jobs: int | None = None,
    anew: bool = False,
    anchors: Sequence[str | Path] = (),
    keys: Sequence[str | Path] = (),
) -> Report:
    """Run an audit; see `fusery.registry.audit.audit`."""
    from ..audit import audit
    from ..webhooks.checks import check_deliveries
    from ..workers.cluster import check_jobs

    report = audit(
        workspace,
        tuple(names),
        repair=repair,
        copies=tuple(map(Path, copies)),
        jobs=None if names else check_jobs(jobs),
        anew=anew,
        anchors=tuple(map(Path, anchors)),
        keys=tuple(map(Path, keys)),
        reporter=reporter,
    )
    if not names:
        check_deliveries(workspace, report)
    return report
