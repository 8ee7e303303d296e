"""What one worker does with one item: plain values in, a plain document out, so that it can be done on any machine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusery.storage.locate import local_path

from ..bundles import Choices, Content, find_target
from ..errors import BadInputError
from ..fuse_request import FuseRequest
from ..workspace import Workspace

if TYPE_CHECKING:
    from ..settings import Settings

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Site:
    """Which registry the work is for.

    Attributes:
        store: id of its store, which the worker's own registry must have.
        settings: how to open it from this machine; None on another, where the worker's environment says.
    """

    store: str
    settings: Settings | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Workspace]:
        """Yield the parts of the registry.

        Raises:
            BadInputError: the worker's settings name another registry.
        """
        from ..settings import Settings

        workspace = Workspace(self.settings or Settings.load())
        try:
            if workspace.store.identify() != self.store:
                raise BadInputError(
                    "a worker is set up for another registry",
                    hint="give the workers the same FUSERY_DATABASE_URL and FUSERY_STORE_URL",
                )
            yield workspace
        finally:
            workspace.close()


@dataclass(frozen=True, slots=True)
class FuseJob:
    """Fuse an adapter.

    Attributes:
        site: where.
        request: how.
        publish: where its files go.
    """

    site: Site
    request: FuseRequest
    publish: str | None

    def __call__(self, name: str) -> Document:
        """Return what `fuse --json` prints of an adapter."""
        from ..fuse import fuse

        with self.site.opened() as workspace:
            return fuse(workspace, name, self.request, publish=self.publish).to_dict()


@dataclass(frozen=True, slots=True)
class MaterializeJob:
    """Write an adapter's bundle.

    Attributes:
        site: where the adapter is.
        request: how to fuse.
        pattern: the destination, an absolute path or a URL, with `{name}` in it.
        target: of the bundle.
        force: replace what is there.
        choices: what the target is to do in which way.
        content: fused or not; None for what suits the target.
    """

    site: Site
    request: FuseRequest
    pattern: str
    target: str
    force: bool
    choices: Choices
    content: Content | None = None

    def __call__(self, name: str) -> Document:
        """Return what `materialize --json` prints of an adapter; what is there already, as recorded, is left alone."""
        from ..materialize import materialize

        place = self.pattern.replace("{name}", name)
        with self.site.opened() as workspace:
            if (known := self._standing(workspace, name, place)) is not None:
                return known
            bundle = materialize(
                workspace,
                [name],
                place,
                target=self.target,
                request=self.request,
                content=self.content,
                choices=self.choices,
                force=self.force,
            )
            return bundle.to_dict()

    def _standing(self, workspace: Workspace, name: str, place: str) -> Document | None:
        """Return the document of a bundle that stands already, where that can be told without making it again."""
        from ..materialize import settled
        from .standing import standing_bundle

        local = local_path(place)
        if local is None or find_target(self.target).content(self.content, 1) != "fused":
            return None
        choices = settled(workspace, self.choices)
        return standing_bundle(workspace, name, local, self.target, self.request, choices)


Say = Callable[[str], None]
Told = Callable[[int, int], None]
"""Called with how many items are done, and how many there are."""


def failed(name: str, failure: Mapping[str, Any]) -> Document:
    """Return the document of an item that failed."""
    return {"adapter": name, "error": dict(failure)}
