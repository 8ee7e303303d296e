"""Base models, as `registry.bases` has them."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from .operation import operation
from .resource import Named, Resource, named

if TYPE_CHECKING:
    from ..records.base import AddedBase, Base, BaseDetails
    from ..records.base_files import KnownBase
    from ..records.calibrations import CalibrationReport


class Bases(Resource):
    """The base models of a registry."""

    NAME = "bases"

    def add(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        reference: bool = False,
        reporter: Reporter = SILENT,
    ) -> AddedBase:
        """Take in a base model from a folder, a GGUF file or a hub id; see `fusery.registry.bases.add.add_base`."""
        from ..bases.add import add_base
        from ..errors import BadInputError

        if reference and self.server is not None:
            raise BadInputError(
                f"{self.server.url} cannot keep a base model by reference to a local folder",
                hint="leave out --reference",
            )
        with self.here(reporter=reporter) as (workspace, _):
            return add_base(
                workspace, str(source), name=name, revision=revision, reference=reference, reporter=reporter
            )

    def folder(self, name: Named) -> Path:
        """Return a folder of this machine with a base model's files, to be loaded and not to be written to.

        Raises:
            UnknownReferenceError: there is no such base.
            BlobCorruptError: a file is not what is recorded.
            OutOfSpaceError: there is no room for a copy.
        """
        from ..records.folders import model_folder

        with self.here(name) as (workspace, [there]):
            return model_folder(workspace, there)

    def to_train(self, name: Named) -> KnownBase:
        """Return a base model to train, as `fusery.registry.recording.trainer.train` takes it."""
        from ..records.base_files import KnownBase, base_folder

        base = self.show(name, limit=0)

        @contextmanager
        def files() -> Iterator[Path]:
            with self.here(base.name) as (workspace, [there]), base_folder(workspace, there) as folder:
                yield folder

        return KnownBase(base.name, frozenset(base.names), files)

    @operation("reader")
    def show(self, name: Named, *, limit: int | None = None, offset: int = 0) -> BaseDetails:
        """Return one base model, by name or digest prefix; see `fusery.registry.bases.listing.show_base`."""
        from ..bases.listing import show_base

        return show_base(self.workspace, named(name), limit=limit, offset=offset)

    def calibrate(
        self,
        base: str,
        *,
        prompts: str | Path | None = None,
        adapter: Named | None = None,
        reporter: Reporter = SILENT,
    ) -> CalibrationReport:
        """Have a base read prompts, so that rounding can go by them, and return what was kept.

        With `adapter` the scales and biases of that one's fused model are learned besides.
        See `fusery.registry.bases.calibrate.calibrate` and `fusery.registry.evaluation.learning.learn`.
        """
        place = Path(prompts) if prompts is not None else None
        several = [base] if adapter is None else [base, adapter]
        with self.here(*several, reporter=reporter) as (workspace, [name, *others]):
            if others:
                from ..evaluation.learning import learn

                return learn(workspace, name, others[0], prompts=place, reporter=reporter)
            from ..bases.calibrate import calibrate

            return calibrate(workspace, name, prompts=place, reporter=reporter)

    @operation("reader")
    def list(self) -> builtins.list[Base]:
        """Return all base models."""
        from ..bases.listing import list_bases

        return list_bases(self.workspace)
