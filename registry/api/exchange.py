"""Other registries and folders under git, as `registry.exchange` has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Unpack

from fusery.storage.progress import SILENT, Reporter

from .resource import Named, Resource, named, said

if TYPE_CHECKING:
    from ..adapters.render import Form
    from ..admission.submission import Facts
    from ..exchange import Exchanged
    from ..exchange.export import Exported
    from ..exchange.import_runs import ImportedRun
    from ..exchange.over_http import ServerPlace
    from ..records.adapter import Registered
    from ..records.release import Promotion


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
        from ..exchange import push
        from ..exchange.place import Place

        if is_server(home):
            from ..exchange.over_http import push_to_server

            return push_to_server(
                self.workspace,
                named(reference),
                _server(home, database, store, insecure_http),
                fused=fused,
                dry_run=dry_run,
                reporter=reporter,
            )
        place = Place(Path(home) if home is not None else None, database, store, store_options)
        return push(
            self.workspace,
            named(reference),
            place,
            fused=fused,
            dry_run=dry_run,
            reporter=reporter,
        )

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
        from ..exchange import pull
        from ..exchange.place import Place

        if is_server(home):
            from ..exchange.over_http import pull_from_server

            return pull_from_server(
                self.workspace,
                named(reference),
                _server(home, database, store, insecure_http),
                fused=fused,
                dry_run=dry_run,
                reporter=reporter,
            )
        place = Place(Path(home) if home is not None else None, database, store, store_options)
        return pull(
            self.workspace,
            named(reference),
            place,
            fused=fused,
            dry_run=dry_run,
            reporter=reporter,
        )

    def register(
        self,
        folder: str | Path,
        url: str,
        *,
        insecure_http: bool = False,
        strict: bool = False,
        reporter: Reporter = SILENT,
        **facts: Unpack[Facts],
    ) -> Registered:
        """Register an adapter folder on a server, and return its record; there need be no registry here.

        See `fusery.registry.exchange.register_over_http.register_on_server`.

        Args:
            folder: the adapter, as `adapters.register` takes it.
            url: of the server.
            insecure_http: the token may go to the server over a network as it is.
            strict: warnings keep it out, as errors do.
            reporter: hears what is going on and how much is done.
            facts: what is said of it: the keywords of `adapters.register`.  The base and the task have to be.
        """
        from ..admission.submission import Submission
        from ..exchange.register_over_http import register_on_server

        place = _server(url, None, None, insecure_http)
        return register_on_server(
            self.workspace, folder, place, Submission.of(facts), strict=strict, reporter=reporter
        )

    def promote(
        self,
        reference: Named,
        alias: str,
        url: str,
        *,
        reason: str,
        dry_run: bool = False,
        insecure_http: bool = False,
    ) -> Promotion:
        """Let an alias on a server hold an adapter that is there, if its rules allow it; there need be no registry here.

        See `fusery.registry.exchange.promote_over_http.promote_on_server`.

        Args:
            reference: the adapter, as the server's registry calls it.
            alias: as `aliases.promote` takes it.
            url: of the server.
            reason: why, for its log.
            dry_run: evaluate the rules only.
            insecure_http: the token may go to the server over a network as it is.
        """
        from ..exchange.promote_over_http import promote_on_server

        place = _server(url, None, None, insecure_http)
        return promote_on_server(named(reference), alias, place, reason=said(reason), dry_run=dry_run)

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

        return export_adapter(
            self.workspace, named(reference), Path(destination), form=form, force=force, say=reporter.say
        )

    def import_folder(self, folder: str | Path, *, base: str | None = None) -> Registered:
        """Take in a folder that `export` wrote, and return its record; see `fusery.registry.exchange.import_folder.import_adapter`."""
        from ..exchange.import_folder import import_adapter

        return import_adapter(self.workspace, Path(folder), base=base)

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

        found = tracked_runs(tracker, source, experiments=experiments, runs=runs)
        standing = named(base) if base is not None else None
        done = []
        for each in import_runs(
            self.workspace, found, tracker, base=standing, task=task, metrics=metrics, dry_run=dry_run
        ):
            reporter.say(f"{each.run_name}: {each.adapter or each.error or each.path or 'all files'}")
            done.append(each)
        return tuple(done)


def is_server(home: str | Path | None) -> TypeGuard[str]:
    """Tell whether the other registry is given as the URL of a server."""
    return isinstance(home, str) and home.lower().startswith(("http://", "https://"))


def _server(url: str, database: str | None, store: str | None, insecure: bool) -> ServerPlace:
    from ..errors import BadInputError
    from ..exchange.over_http import ServerPlace

    if database or store:
        raise BadInputError(
            "a server has its database and its store", hint="leave out --database and --store"
        )
    return ServerPlace(url, insecure)
