"""Other registries and folders under git, as `registry.exchange` has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from fusery.storage.progress import SILENT, Reporter

from ..settings.homes import is_server
from .operation import operation
from .resource import Named, Resource, named

if TYPE_CHECKING:
    from ..adapters.render import Form
    from ..exchange import Exchanged
    from ..exchange.exchange import Side
    from ..exchange.export import Exported
    from ..exchange.import_runs import ImportedRun
    from ..exchange.over_http import ServerPlace
    from ..exchange.place import Place
    from ..records.adapter import Registered
    from ..workspace import Workspace


class Options(TypedDict):
    """Options of a push or pull."""

    fused: bool
    dry_run: bool
    reporter: Reporter


class Exchange(Resource):
    """What goes to other registries, and what comes from there."""

    NAME = "exchange"

    def push(
        self,
        reference: Named,
        home: str | Path | None = None,
        *,
        database: str | None = None,
        store: str | None = None,
        store_options: str | None = None,
        insecure_http: bool = False,
        fused: bool = False,
        dry_run: bool = False,
        reporter: Reporter = SILENT,
    ) -> Exchanged:
        """Copy a thing and all that it needs to another registry; return what became of each.

        See `fusery.registry.exchange.exchange.push`.

        Args:
            reference: an adapter, a task for all of its versions, a base model, or a fused artifact.
            home: the other registry's home folder, or the URL of a server for it, to which `FUSERY_TOKEN` or the file that
                `FUSERY_TOKEN_FILE` names opens the door; or else
            database: its database's URL, and
            store: its store's, with
            store_options: for the store's file system, as JSON.
            insecure_http: the token may go to the server over a network as it is.
            fused: also what was fused from the adapters.
            dry_run: only look what is missing.
            reporter: hears what is going on and how much is done.
        """
        with self.here(reference) as (workspace, [name]):
            done = _push(
                workspace,
                name if self.server is not None else named(reference),
                _other(home, database, store, store_options, insecure_http),
                fused=fused,
                dry_run=dry_run,
                reporter=reporter,
            )
        return done if self.server is None else replace(done, from_=self._side(done.from_))

    def pull(
        self,
        reference: Named,
        home: str | Path | None = None,
        *,
        database: str | None = None,
        store: str | None = None,
        store_options: str | None = None,
        insecure_http: bool = False,
        fused: bool = False,
        dry_run: bool = False,
        reporter: Reporter = SILENT,
    ) -> Exchanged:
        """Copy a thing and all that it needs from another registry; arguments and answer are those of `push`."""
        other = _other(home, database, store, store_options, insecure_http)
        options: Options = {"fused": fused, "dry_run": dry_run, "reporter": reporter}
        if self.server is None:
            return _pull(self.workspace, named(reference), other, **options)
        if dry_run:
            from ..errors import BadInputError

            raise BadInputError(
                f"cannot preview a pull to {self.server.url}",
                hint="leave --dry-run out; or push from the other registry, with --dry-run",
            )
        from ..exchange.replica import place_of

        with self.here() as (workspace, _):
            come = _pull(workspace, named(reference), other, **options)
            done = _push(
                workspace,
                named(reference),
                place_of(self.server),
                fused=fused,
                dry_run=False,
                reporter=reporter,
            )
        return replace(done, from_=come.from_)

    def _side(self, side: Side) -> Side:
        """Return the server's registry as the destination or source of a copy."""
        assert self.server is not None
        return replace(side, place=self.server.url, store=self.server.url)

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
        from ..exchange.export import export_adapter

        with self.here(reference) as (workspace, [name]):
            return export_adapter(
                workspace, name, Path(destination), form=form, force=force, say=reporter.say
            )

    def import_folder(self, folder: str | Path, *, base: str | None = None) -> Registered:
        """Take in a folder that `export` wrote, and return its record; see `fusery.registry.exchange.import_folder.import_adapter`."""
        from ..exchange.import_folder import import_adapter

        if self.server is None:
            return import_adapter(self.workspace, Path(folder), base=base)
        from ..registration.uploaded import files_to_send
        from ..remote.blobs import send_files

        files = send_files(self.server, files_to_send(Path(folder), None), SILENT)
        return self._import_folder(Path(folder).resolve().name, files, base=base)

    @operation("publisher", writes=True)
    def _import_folder(self, name: str, files: Mapping[str, str], *, base: str | None = None) -> Registered:
        """Import an exported folder from uploaded files: their digests by relative path."""
        from ..exchange.import_folder import import_adapter
        from ..registration.uploaded import uploaded

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
        """Register the adapters among the files that a tracker keeps of runs, and return what became of each.

        What the tracker knows of a run goes along: when it was, arguments, losses, dataset and git commit.  One that is refused
        keeps no other out.

        Args:
            source: where it keeps them: for MLflow a server's URL, `sqlite:///FILE`, or a folder; for W&B `ENTITY/PROJECT`.
            tracker: `mlflow`, `wandb`, or the name of a plugin.
            experiments: of MLflow: names of those to take; none for all.
            runs: ids of single runs, instead.
            base: the base model that they stand on; None for the one that the files of each name.
            task: what they are for; None for the name of the experiment or the project.
            metrics: patterns such as `mmlu*`; the last value of what they match is recorded as an evaluation.
            dry_run: only look what there is.
            reporter: hears of each.

        Raises:
            MissingExtraError: the tracker's client is not installed.
            BadInputError: the source does not exist or cannot be read, or no run has an adapter.
            UnknownReferenceError: there is no such experiment or run.
            PluginError: the tracker is a plugin's, and that failed.
        """
        from ..exchange.import_runs import import_runs, tracked_runs
        from .adapters import Adapters
        from .bases import Bases
        from .evaluations import Evaluations

        found = tracked_runs(tracker, source, experiments=experiments, runs=runs)
        standing = named(base) if base is not None else None
        if standing is not None:
            Bases(self.workspace, self.server).show(standing, limit=0)
        adapters, evaluations = (
            Adapters(self.workspace, self.server),
            Evaluations(self.workspace, self.server),
        )
        done = []
        for each in import_runs(
            self.workspace,
            adapters.register,
            evaluations.record,
            found,
            tracker,
            base=standing,
            task=task,
            metrics=metrics,
            dry_run=dry_run,
        ):
            reporter.say(f"{each.run_name}: {each.adapter or each.error or each.path or 'all files'}")
            done.append(each)
        return tuple(done)


def _other(
    home: str | Path | None, database: str | None, store: str | None, options: str | None, insecure: bool
) -> Place | ServerPlace:
    """Return the other registry."""
    from ..exchange.over_http import ServerPlace
    from ..exchange.place import Place

    if not is_server(home):
        return Place(Path(home) if home is not None else None, database, store, options)
    if database or store:
        from ..errors import BadInputError

        raise BadInputError(
            "a server has its database and its store", hint="leave out --database and --store"
        )
    return ServerPlace(str(home), insecure)


def _push(
    workspace: Workspace, name: str, other: Place | ServerPlace, **options: Unpack[Options]
) -> Exchanged:
    from ..exchange.over_http import ServerPlace, push_to_server

    if isinstance(other, ServerPlace):
        return push_to_server(workspace, name, other, **options)
    from ..exchange import push

    return push(workspace, name, other, **options)


def _pull(
    workspace: Workspace, name: str, other: Place | ServerPlace, **options: Unpack[Options]
) -> Exchanged:
    from ..exchange.over_http import ServerPlace, pull_from_server

    if isinstance(other, ServerPlace):
        return pull_from_server(workspace, name, other, **options)
    from ..exchange import pull

    return pull(workspace, name, other, **options)
