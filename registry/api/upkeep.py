"""The registry itself: is it well, as `registry.upkeep` has it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.progress import SILENT, Reporter

from .operation import Paging, operation
from .resource import Named, Resource, reference_texts, runs

if TYPE_CHECKING:
    from fusery.storage.plugins import Group, Plugin

    from ..database.schema import SchemaState, Upgraded
    from ..exchange.backup import BackedUp
    from ..exchange.filling import Restored
    from ..records.event import AddedWebhook, Event, SkippedEvent, Webhook, WebhookDeliveries, WebhookKey
    from ..upkeep.doctor import Check
    from ..upkeep.report import Collection, Report
    from ..workspace.workspace import Workspace


class Upkeep(Resource):
    """Audits, backups, garbage collection, and the schema of the database."""

    def doctor(self, *, reporter: Reporter = SILENT) -> Sequence[Check]:
        """Check settings, database, schema, store, cache, engine and plugins; return the results."""
        from fusery.storage.locate import protocol_of

        from ..admission.rules import rule_of
        from ..bundles.target import target_of
        from ..exchange.import_runs import source_of
        from ..upkeep.doctor import examine, examine_remote, plugin_checks
        from .provenance import Tokens

        loaders: Mapping[Group, Callable[[Plugin], object]] = {
            "fusery.targets": target_of,
            "fusery.rules": rule_of,
            "fusery.sources": source_of,
            "fusery.backends": protocol_of,
        }
        if self.server is None:
            checks = examine(self.workspace)
        else:
            checks = examine_remote(self.workspace, self.server.url, Tokens(self.workspace, self.server).own)
        return [*checks, *plugin_checks(loaders, reporter)]

    def audit(
        self,
        references: Sequence[Named] = (),
        *,
        repair: bool = False,
        copies: Sequence[str | Path] = (),
        jobs: int | None = None,
        anchors: Sequence[str | Path] = (),
        keys: Sequence[str | Path] = (),
        reporter: Reporter = SILENT,
    ) -> Report:
        """Check database, store and cache, and repair them; return what was found."""
        names = reference_texts(references)
        options: Mapping[str, Any] = {"repair": repair, "jobs": jobs, "reporter": reporter}
        if not (copies or anchors):
            return self._audit(names, **options)
        workspace = self.local("give local files to an audit of")
        return audited(workspace, names, copies=copies, anchors=anchors, keys=keys, **options)

    @operation("admin", writes=True)
    def _audit(
        self,
        references: Sequence[str],
        *,
        repair: bool = False,
        jobs: int | None = None,
        reporter: Reporter = SILENT,
    ) -> Report:
        """Check and repair database, store and cache; return the findings."""
        return audited(self.workspace, references, repair=repair, jobs=jobs, reporter=reporter)

    def audit_chain(self, *, anchors: Sequence[str | Path] = (), keys: Sequence[str | Path] = ()) -> Report:
        """Return what following the log up to anchors has shown."""
        if not anchors:
            return self._audit_chain()
        from ..upkeep.audit import audit_chain

        workspace = self.local("compare an anchor with the log of")
        return audit_chain(workspace, [Path(anchor) for anchor in anchors], [Path(key) for key in keys])

    @operation("admin")
    @runs("upkeep.audit:audit_chain")
    def _audit_chain(self) -> Report:
        """Verify the chain of the log; return the result."""

    @operation("admin", writes=True)
    @runs("upkeep.rebuild:audit_rebuild")
    def audit_rebuild(self, references: Sequence[Named] = (), *, reporter: Reporter = SILENT) -> Report:
        """Rebuild fused models, and return the comparisons with the records."""

    @operation("admin", writes=True)
    @runs("upkeep.collect:collect")
    def gc(
        self,
        *,
        grace: float | None = None,
        dry_run: bool = False,
        force: bool = False,
        reporter: Reporter = SILENT,
    ) -> Collection:
        """Remove unreferenced blobs and files from the store, and return them."""

    @runs("exchange.backup:backup", local="back up")
    def backup(
        self,
        destination: str | Path,
        *,
        verify: bool = False,
        store_options: str | None = None,
        reporter: Reporter = SILENT,
    ) -> BackedUp:
        """Make a backup of everything on record, and return what it consists of."""

    @runs("exchange.backup:restore", local="restore into")
    def restore(
        self,
        source: str | Path,
        *,
        own: bool = False,
        store_options: str | None = None,
        reporter: Reporter = SILENT,
    ) -> Restored:
        """Restore a backup into this empty registry."""

    @operation("reader", pages=Paging("before", "seq", newest=True))
    @runs("catalog.event_log:read_log")
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
        """Return entries of the log, the newest last."""

    def follow(
        self,
        *,
        reference: Named | None = None,
        since: str | None = None,
        action: str | None = None,
        limit: int | None = None,
        stop: threading.Event | None = None,
        pause: float = 1.0,
    ) -> Iterator[Event]:
        """Yield entries of the log, and those that come until `stop` is set; `pause` is in seconds."""
        stopped, seen = stop or threading.Event(), self._newest()
        yield from self.log(reference=reference, since=since, action=action, before=seen + 1, limit=limit)
        while not stopped.wait(pause):
            # The number first: what is written after it was read is for the next look.
            if (last := self._newest()) > seen:
                yield from self.log(reference=reference, action=action, after=seen, before=last + 1)
                seen = last

    def _newest(self) -> int:
        return max((event.seq for event in self.log(limit=1)), default=0)

    @operation("admin")
    def schema(self) -> SchemaState:
        """Return the schema revisions of the database and of this program."""
        from ..database import Database, schema

        with closing(Database.open(self.workspace.settings.database)) as database:
            return schema.state(database)

    def upgrade(self) -> Upgraded:
        """Upgrade the database's schema to this version."""
        from ..database import Database, schema

        workspace = self.local("upgrade the database of")
        with closing(Database.open(workspace.settings.database)) as database:
            before = schema.upgrade(database)
            return schema.Upgraded(before.current, schema.state(database).current)

    @operation("admin")
    def schema_differences(self) -> list[str]:
        """Compare the database with the tables of this program; return the differences."""
        from ..database import schema

        return [message for _, message in schema.differences(self.workspace.database)]


def audited(workspace: Workspace, names: Sequence[str], *, jobs: int | None = None, **options: Any) -> Report:
    """Run an audit, of all webhooks too where no names are given."""
    from ..upkeep.audit import audit
    from ..webhooks.delivering import check_deliveries
    from ..workspace.executor import check_jobs

    for name in options.keys() & {"copies", "anchors", "keys"}:
        options[name] = tuple(map(Path, options[name]))
    report = audit(workspace, tuple(names), jobs=check_jobs(jobs), **options)
    if not names:
        check_deliveries(workspace, report)
    return report


class Webhooks(Resource):
    """Webhooks: events sent to other programs, in order and at least once."""

    @operation("admin", writes=True, begins=True)
    def add(
        self,
        url: str,
        actions: Sequence[str] | str,
        *,
        tasks: Sequence[str] | str = (),
        name: str | None = None,
        allow_private: bool = False,
    ) -> AddedWebhook:
        """Add a webhook, and return it with its key."""
        from ..webhooks.hooks import add

        return add(self.workspace, url, _list(actions), tasks=_list(tasks), name=name, private=allow_private)

    @operation("admin")
    @runs("webhooks.hooks:list_hooks")
    def list(self) -> list[Webhook]:
        """Return all webhooks, by name."""

    @operation("admin")
    @runs("webhooks.hooks:show")
    def show(self, name: str) -> Webhook:
        """Return a webhook, with its position, pending events and last failure."""

    @operation("admin", writes=True)
    @runs("webhooks.hooks:remove")
    def remove(self, name: str, *, reason: str = "") -> Webhook:
        """Remove a webhook, and return it."""

    @operation("admin")
    @runs("webhooks.hooks:signing_key")
    def key(self, name: str) -> WebhookKey:
        """Return the key with which a receiver verifies events."""

    @operation("admin", writes=True)
    @runs("webhooks.delivering:deliver")
    def deliver(self, name: str | None = None, *, reporter: Reporter = SILENT) -> Sequence[WebhookDeliveries]:
        """Deliver the due events, and return the results."""

    @runs("webhooks.delivering:run", local="deliver webhooks of")
    def run(self, *, stop: threading.Event, reporter: Reporter = SILENT) -> None:
        """Deliver events as they come, until `stop` is set."""

    @operation("admin", writes=True)
    @runs("webhooks.delivering:retry")
    def retry(self, name: str, *, reporter: Reporter = SILENT) -> Webhook:
        """Retry the pending events of a webhook now, and return the webhook."""

    @operation("admin", writes=True)
    @runs("webhooks.hooks:skip")
    def skip(self, name: str, *, reason: str) -> SkippedEvent:
        """Skip the first pending event of a webhook, and return it."""


def _list(patterns: Sequence[str] | str) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns
