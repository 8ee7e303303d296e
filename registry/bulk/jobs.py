"""What one worker does with one item: plain values in, a record out, so that it can be done on any machine."""

from __future__ import annotations

from dataclasses import dataclass

from fusery.storage.locate import local_path

from ..bundles import Choices, Content, find_target
from ..bundles.materialize import Materialized
from ..fusion.request import FuseRequest
from ..record import Record, described
from ..records.fused import Fused
from ..workers.executor import Failure
from ..workers.site import Site
from ..workspace import Workspace
from .standing import StandingBundle


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

    def __call__(self, name: str) -> Fused:
        """Return what `fuse` does of an adapter."""
        from ..fusion.fuse import fuse

        with self.site.opened() as workspace:
            return fuse(workspace, name, self.request, publish=self.publish)


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

    def __call__(self, name: str) -> Materialized | StandingBundle:
        """Return an adapter's bundle; what is there already, as recorded, is left alone."""
        from ..bundles.materialize import materialize

        place = self.pattern.replace("{name}", name)
        with self.site.opened() as workspace:
            if (known := self._standing(workspace, name, place)) is not None:
                return known
            return materialize(
                workspace,
                [name],
                place,
                target=self.target,
                request=self.request,
                content=self.content,
                choices=self.choices.of(name),
                force=self.force,
            )

    def _standing(self, workspace: Workspace, name: str, place: str) -> StandingBundle | None:
        """Return a bundle that stands already, where that can be told without making it again."""
        from ..bundles.materialize import settled
        from .standing import standing_bundle

        local = local_path(place)
        if local is None or find_target(self.target).content(self.content, 1) != "fused":
            return None
        choices = settled(workspace, self.choices)
        return standing_bundle(workspace, name, local, self.target, self.request, choices)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotDone(Record):
    """An item that failed."""

    adapter: str = described("its name")
    error: Failure = described("why")


FusedOrNot = Fused | NotDone
"""What became of an adapter that was to be fused."""

BundledOrNot = Materialized | StandingBundle | NotDone
"""What became of an adapter that was to be shipped."""
