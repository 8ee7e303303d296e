"""Other registries and folders under git, as `registry.exchange` has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.progress import SILENT, Reporter

from ..errors import BadInputError
from ..workspace.homes import is_server
from .operation import operation
from .resource import Named, Resource, named, require_digest, runs

if TYPE_CHECKING:
    from fusery.storage.interface import Blob

    from ..adapters.render import Form
    from ..exchange import Exchanged
    from ..exchange.exchange import Opened, Options
    from ..exchange.export import Exported
    from ..exchange.import_runs import ImportedRun
    from ..exchange.uploads import Upload, UploadLimits
    from ..records.adapter import Registered
    from ..records.transfer import Arrived, PackagePlan, PackageTaken
    from ..workspace.workspace import Workspace


class Exchange(Resource):
    """Push, pull, export and import: records and files of other registries."""

    def push(
        self,
        reference: Named,
        home: str | Path,
        *,
        insecure_http: bool = False,
        fused: bool = False,
        dry_run: bool = False,
        reporter: Reporter = SILENT,
    ) -> Exchanged:
        """Copy a thing and all that it needs to another registry; return what became of each."""
        from ..exchange import push

        with self.here(reference) as (workspace, [name]):
            done = push(
                workspace,
                name if self.server is not None else named(reference),
                _registry(workspace, home, insecure_http),
                fused=fused,
                dry_run=dry_run,
                reporter=reporter,
            )
        if self.server is None:
            return done
        return replace(done, from_=replace(done.from_, place=self.server.url, store=self.server.url))

    def pull(
        self,
        reference: Named,
        home: str | Path,
        *,
        store_options: str | None = None,
        insecure_http: bool = False,
        fused: bool = False,
        dry_run: bool = False,
        reporter: Reporter = SILENT,
    ) -> Exchanged:
        """Copy a thing and all that it needs from another registry; arguments and answer are those of `push`."""
        from ..exchange import pull, push
        from ..exchange.stored import open_package

        package, ours = _is_package(home), self.workspace
        other = (
            open_package(str(home), ours, store_options) if package else _registry(ours, home, insecure_http)
        )
        options: Options = {"fused": fused, "dry_run": dry_run, "reporter": reporter}
        if self.server is None:
            return pull(ours, named(reference), other, **options)
        if dry_run:
            raise BadInputError(f"cannot preview a pull to {self.server.url}", hint="preview the push there")
        from ..exchange.exchange import reached

        with self.here() as (workspace, _):
            come = pull(workspace, named(reference), other, **options)
            done = push(workspace, named(reference), reached(self.server), **options)
        return replace(done, from_=come.from_)

    @runs("exchange.export:export_adapter", here=True)
    def export(
        self,
        reference: Named,
        destination: str | Path,
        *,
        form: Form | None = None,
        force: bool = False,
        reporter: Reporter = SILENT,
    ) -> Exported:
        """Write an adapter's folder, and return where it lies and its files; see `fusery.registry.exchange.export.export_adapter`."""

    def import_folder(self, folder: str | Path, *, base: str | None = None) -> Registered:
        """Take in a folder that `export` wrote, and return its record; see `fusery.registry.exchange.import_folder.import_adapter`."""
        from ..exchange.import_folder import import_adapter

        if self.server is None:
            self.workspace.make_embedded()
            return import_adapter(self.workspace, Path(folder), base=base)
        from ..registration.sources import files_to_send
        from ..remote.blobs import send_files

        files = send_files(self.server, files_to_send(Path(folder), None), SILENT)
        return self._import_folder(Path(folder).resolve().name, files, base=base)

    @operation("publisher", writes=True)
    def _import_folder(self, name: str, files: Mapping[str, str], *, base: str | None = None) -> Registered:
        """Import an exported folder from uploaded files: their digests by relative path."""
        from ..exchange.import_folder import import_adapter
        from ..registration.sources import uploaded

        with uploaded(self.workspace, name, files) as (folder, _):
            return import_adapter(self.workspace, folder, base=base)

    def import_runs(
        self,
        source: str,
        tracker: str = "mlflow",
        *,
        experiments: Sequence[str] = (),
        runs: Sequence[str] = (),
        base: Named | None = None,
        task: str | None = None,
        metrics: Sequence[str] = (),
        dry_run: bool = False,
        reporter: Reporter = SILENT,
    ) -> tuple[ImportedRun, ...]:
        """Register the adapters among the files that a tracker keeps of runs, and return what became of each."""
        from ..exchange.import_runs import import_runs, tracked_runs
        from .adapters import Adapters
        from .evaluations import Evaluations
        from .fused import Bases

        source_runs = tracked_runs(tracker, source, experiments=experiments, runs=runs)
        standing = named(base) if base is not None else None
        if standing is not None:
            Bases(self.workspace, self.server).show(standing, limit=0)
        adapters = Adapters(self.workspace, self.server)
        evaluations = Evaluations(self.workspace, self.server)
        done = []
        for run in import_runs(
            self.workspace,
            adapters.register,
            evaluations.record,
            source_runs,
            tracker,
            base=standing,
            task=task,
            metrics=metrics,
            dry_run=dry_run,
        ):
            reporter.say(f"{run.run_name}: {run.adapter or run.error or run.path or 'all files'}")
            done.append(run)
        return tuple(done)


def _registry(ours: Workspace, home: str | Path, insecure: bool) -> Opened:
    from ..exchange.registries import open_home, open_server_registry

    if is_server(home):
        return open_server_registry(str(home), insecure=insecure)
    if _is_package(home):
        raise BadInputError("cannot push to a package", hint="fusery admin backup DEST")
    return open_home(Path(home), ours)


def _is_package(home: str | Path) -> bool:
    return not is_server(home) and ("://" in str(home) or (Path(home) / "package.json").is_file())


class Transfers(Resource):
    """Packages and blobs that clients send to a server or fetch from it."""

    @runs("exchange.served:served_package")
    def package(self, reference: str, *, fused: bool = False) -> bytes:
        """Return the package of a thing and all that it needs."""

    @runs("exchange.served:plan_package")
    def plan(self, data: bytes, limits: UploadLimits) -> PackagePlan:
        """Say what would become of a package."""

    @runs("exchange.served:take_package")
    def take(self, data: bytes, limits: UploadLimits) -> PackageTaken:
        """Record a package of which all bytes are here."""

    def arrived(self, digests: Sequence[str], limits: UploadLimits) -> list[Arrived]:
        """Say of blobs how much has arrived."""
        from ..exchange.uploads import Uploads

        return Uploads(self.workspace, limits).arrived([require_digest(digest) for digest in digests])

    def begin(self, digest: str, size: int, offset: int, limits: UploadLimits) -> Upload | None:
        """Begin an upload, or go on with one."""
        from ..exchange.uploads import Uploads

        return Uploads(self.workspace, limits).begin(require_digest(digest), size, offset)

    def blob(self, digest: str) -> Blob:
        """Return a blob that something refers to."""
        from ..exchange.served import find_blob

        return find_blob(self.workspace, require_digest(digest))

    def pieces(self, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
        """Yield unverified bytes of a blob."""
        return self.workspace.store.span(blob, start, stop)
