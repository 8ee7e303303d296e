"""Who is sent entries of the log, as `registry.webhooks` has it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from .operation import operation
from .resource import Resource, said

if TYPE_CHECKING:
    from ..records.webhook import AddedWebhook, SkippedEvent, Webhook, WebhookDeliveries, WebhookKey


class Webhooks(Resource):
    """Webhooks: entries of the log, sent to other programs as they come, at least once and in order."""

    NAME = "webhooks"

    @operation("admin", writes=True)
    def add(
        self,
        url: str,
        actions: Sequence[str] | str,
        *,
        tasks: Sequence[str] | str = (),
        name: str | None = None,
        allow_private: bool = False,
    ) -> AddedWebhook:
        """Have events sent to a receiver from now on, and return the webhook with its key; see `fusery.registry.webhooks.hooks.add`."""
        from ..webhooks.hooks import add

        return add(
            self.workspace, url, _several(actions), tasks=_several(tasks), name=name, private=allow_private
        )

    @operation("admin")
    def list(self) -> list[Webhook]:
        """Return all webhooks, by name."""
        from ..webhooks.hooks import list_hooks

        return list_hooks(self.workspace)

    @operation("admin")
    def show(self, name: str) -> Webhook:
        """Return a webhook: how far it has come, what waits, and what went wrong."""
        from ..webhooks.hooks import show

        return show(self.workspace, name)

    @operation("admin", writes=True)
    def remove(self, name: str, *, reason: str = "") -> Webhook:
        """Send nothing to a receiver any more, and return what the webhook was; see `fusery.registry.webhooks.hooks.remove`."""
        from ..webhooks.hooks import remove

        return remove(self.workspace, name, reason=said(reason))

    @operation("admin")
    def key(self, name: str) -> WebhookKey:
        """Return the key that a receiver knows its events by; see `fusery.registry.webhooks.hooks.signing_key`."""
        from ..webhooks.hooks import signing_key

        return signing_key(self.workspace, name)

    def deliver(
        self, name: str | None = None, *, stop: threading.Event | None = None, reporter: Reporter = SILENT
    ) -> Sequence[WebhookDeliveries]:
        """Deliver what is due, and return what became of it; see `fusery.registry.webhooks.delivering.deliver`."""
        if stop is None:
            return self._deliver(name, reporter=reporter)
        from ..webhooks.delivering import deliver

        return deliver(self.local("deliver webhooks of"), name, stop=stop, reporter=reporter)

    @operation("admin", writes=True)
    def _deliver(
        self, name: str | None = None, *, reporter: Reporter = SILENT
    ) -> Sequence[WebhookDeliveries]:
        """Deliver the due events, and return the results."""
        from ..webhooks.delivering import deliver

        return deliver(self.workspace, name, stop=None, reporter=reporter)

    def run(self, *, stop: threading.Event, reporter: Reporter = SILENT) -> None:
        """Deliver events as they come, until `stop` is set; see `fusery.registry.webhooks.delivering.run`."""
        from ..webhooks.delivering import run

        run(self.local("deliver webhooks of"), stop=stop, reporter=reporter)

    @operation("admin", writes=True)
    def retry(self, name: str, *, reporter: Reporter = SILENT) -> Webhook:
        """Try now what a webhook waits for, and return what it is afterwards; see `fusery.registry.webhooks.passing.retry`."""
        from ..webhooks.passing import retry

        return retry(self.workspace, name, reporter=reporter)

    @operation("admin", writes=True)
    def skip(self, name: str, *, reason: str) -> SkippedEvent:
        """Pass over the first event that a webhook waits for, and return which; see `fusery.registry.webhooks.passing.skip`."""
        from ..webhooks.passing import skip

        return skip(self.workspace, name, reason=said(reason))


def _several(patterns: Sequence[str] | str) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns
