"""Who tells: what sends to a webhook, by the scheme of its URL.  http and https are fusery's own, others are plugins'.

All are called alike (docs/guides/plugins.md), within the same order, retries and log: a plugin is one attempt, and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Protocol, cast

from fusery.storage.errors import FuseryError
from fusery.storage.plaintext import is_keepable
from fusery.storage.plugins import Plugin, blaming, find_plugin, load_plugin
from fusery.storage.secrets import redact

from .addresses import GROUP, PORTS, Target
from .sending import Answer, post


class Notifier(Protocol):
    """Makes one attempt to tell somebody of an event."""

    def __call__(
        self, target: Target, headers: Mapping[str, str], body: bytes, *, private: bool, seconds: float
    ) -> Answer:
        """Send a body once, and return what came of it; nothing that can go wrong on the way is raised.

        Args:
            target: the URL of the webhook, taken apart.
            headers: that sign the body.
            body: JSON.
            private: addresses of private networks may be reached.
            seconds: to take at most.
        """


OWN: Mapping[str, Notifier] = dict.fromkeys(PORTS, post)
"""Fusery's own, by scheme."""

_MARGIN = 2.0
"""Seconds that a plugin may take longer than it was told: it may have a timeout of its own, and say more than that."""


def notify(
    target: Target, headers: Mapping[str, str], body: bytes, *, private: bool, seconds: float
) -> Answer:
    """Make one attempt by what sends to URLs of this scheme; what is wrong with a plugin is an attempt that failed.

    A plugin that takes longer than it may is given up, and nobody waits for it when the process ends.
    """
    if (own := OWN.get(target.scheme)) is not None:
        return own(target, headers, body, private=private, seconds=seconds)
    answer: Future[Answer] = Future()

    def attempt() -> None:
        try:
            answer.set_result(_plugged(target, headers, body, private=private, seconds=seconds))
        except KeyboardInterrupt:  # its own: the user's comes to the main thread alone
            answer.set_result(Answer(f"what sends to {target.scheme}:// has raised KeyboardInterrupt"))
        except BaseException as error:  # noqa: BLE001 - raised where the answer is awaited
            answer.set_exception(error)

    threading.Thread(target=attempt, name=f"notifier {target.scheme}", daemon=True).start()
    try:
        return answer.result(seconds + _MARGIN)
    except TimeoutError:
        return Answer(f"no answer within {seconds:g} s")


def _plugged(
    target: Target, headers: Mapping[str, str], body: bytes, *, private: bool, seconds: float
) -> Answer:
    try:
        plugin = find_plugin(GROUP, target.scheme)
        if plugin is None:
            return Answer(f"no plugin for {target.scheme}:// is installed where it is delivered from")
        call = notifier_of(plugin)
        with blaming(plugin):
            answer: object = call(target, headers, body, private=private, seconds=seconds)
            if (
                not isinstance(answer, Answer)
                or not isinstance(answer.error, str)
                or not is_keepable(answer.error)
            ):
                raise plugin.wrong("returns no Answer")
    except FuseryError as error:
        return Answer(redact(error.message))
    return answer


def notifier_of(plugin: Plugin) -> Notifier:
    """Return the notifier that a plugin adds.

    Raises:
        PluginError: it is none.
    """
    found = load_plugin(plugin, own=OWN)
    if not callable(found):
        raise plugin.wrong(f"cannot be called, as {plugin.value} has to be")
    return cast("Notifier", found)


def require_notifier(target: Target) -> None:
    """Refuse a webhook that nothing here can send to.

    Raises:
        PluginError: the plugin for its scheme cannot be used.
    """
    if target.scheme not in OWN and (plugin := find_plugin(GROUP, target.scheme)) is not None:
        notifier_of(plugin)
