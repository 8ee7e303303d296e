"""The Python API: one registry, with a resource for each kind of thing in it, and the verbs of the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fusery.storage.progress import SILENT, Reporter

from ..settings.homes import is_server
from ..settings.settings import Settings
from ..workspace import Workspace
from .adapters import Adapters
from .aliases import Aliases
from .bases import Bases
from .bundles import Bundles
from .deployments import Deployments
from .evaluations import Evaluations
from .exchange import Exchange
from .fused import Cache, FusedModels
from .provenance import Provenance
from .resource import Named
from .tokens import Tokens
from .transfers import Transfers
from .trust import Trust
from .upkeep import Upkeep
from .webhooks import Webhooks

if TYPE_CHECKING:
    from ..adapters.render import Form
    from ..catalog.search import Found
    from ..records.folders import LocalFolder
    from ..remote.server import Server
    from ..serving.serve import ServeRequest, Serving


class Registry:
    """A registry of base models, adapters and fused artifacts.

    A training script registers its own result in three lines:

        from fusery import Registry

        with Registry.open() as registry:
            registry.adapters.register("adapters", base="SmolLM2-135M-Instruct", task="course_rec", val_loss=0.42)

    Every method raises a `FuseryError` when what it was given is not acceptable; its `hint` says what to do.

    Attributes:
        workspace: the registry's parts on this machine; of a server's registry, what was fetched of it.
        server: that the registry is at; None for one of this machine.
        bases: base models.
        adapters: adapters: register, list, show, compare, amend, withdraw, probe, bench.
        evaluations: what was measured of them.
        fused: the models made of them.
        cache: those of them on this machine.
        bundles: what is shipped.
        aliases: which version counts: aliases, their rules and approvals.
        deployments: what runs where.
        provenance: lineage, impact, attestations, reports, and what a found file is.
        trust: signatures, trusted keys, anchors.
        tokens: who may ask a server for this registry, and what they may do.
        exchange: other registries, and folders under git.
        transfers: what a server does for those who push and pull.
        upkeep: doctor, audits, backups, the collector, the log, the schema.
        webhooks: who is sent entries of the log.
    """

    def __init__(self, workspace: Workspace, server: Server | None = None) -> None:
        self.workspace, self.server = workspace, server
        self.bases = Bases(workspace, server)
        self.adapters = Adapters(workspace, server)
        self.evaluations = Evaluations(workspace, server)
        self.fused = FusedModels(workspace, server)
        self.cache = Cache(workspace, server)
        self.bundles = Bundles(workspace, server)
        self.aliases = Aliases(workspace, server)
        self.deployments = Deployments(workspace, server)
        self.provenance = Provenance(workspace, server)
        self.trust = Trust(workspace, server)
        self.tokens = Tokens(workspace, server)
        self.exchange = Exchange(workspace, server)
        self.transfers = Transfers(workspace, server)
        self.upkeep = Upkeep(workspace, server)
        self.webhooks = Webhooks(workspace, server)

    @classmethod
    def open(
        cls, place: str | Path | None = None, *, token: str | None = None, insecure_http: bool = False
    ) -> Registry:
        """Open the registry in a folder or on a server; None for the one in the settings.

        Nothing is made or connected yet: `init` makes what is missing, and so does the first thing that is recorded.

        Args:
            place: a folder, or the URL of a server.
            token: for the server; None for that of `FUSERY_TOKEN`, or that which `fusery login` stored.
            insecure_http: the token may go to another machine over HTTP without TLS.

        Raises:
            BadInputError: a setting is not acceptable, or there is no token for the server.
        """
        named = str(place or os.environ.get("FUSERY_REGISTRY", ""))
        if is_server(named):
            from ..remote.opening import open_server

            return cls(*open_server(named, token, insecure_http=insecure_http))
        return cls(Workspace(Settings.load(Path(named) if named else None)))

    def acting(self, name: str, *, authenticated: bool = True, role: str = "") -> Registry:
        """Return this registry under another name, for a server that acts for whoever asks.

        It shares the open database, store and cache; closing it closes none of them.

        Args:
            name: under which records are made.
            authenticated: a token says so; approvals given through it count where a rule asks for such.
            role: the role that changes in packages are checked against; empty for no check.
        """
        return Registry(self.workspace.acting(name, authenticated=authenticated, role=role))

    def __repr__(self) -> str:
        return f"<Registry {self.server.url if self.server else f'in {self.workspace.settings.home}'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database, and the connections to a server."""
        self.workspace.close()
        if self.server is not None:
            self.server.close()

    def init(self) -> bool:
        """Create the home folder, the database and the store; return False if all existed.

        Of a server's registry, which the server has made, nothing is made.
        """
        from ..workspace import write_config

        if self.server is not None:
            self.tokens.own()
            return False

        made = self.workspace.ensure(explicit=True)
        write_config(self.workspace.settings)
        return made

    @property
    def place(self) -> tuple[str, str]:
        """Return its folder and its store's URL without secrets; for a server's registry, the server's URL twice."""
        from fusery.storage.locate import display_url

        if self.server is not None:
            return self.server.url, self.server.url
        settings = self.workspace.settings
        return str(settings.home), display_url(settings.store)

    def search(self, text: str) -> Found:
        """Search records by name or digest; see `fusery.registry.catalog.search.search`."""
        return self.provenance.search(text)

    def folder(self, reference: Named, *, format: Form | None = None) -> LocalFolder:
        """Return where the files of an adapter, a base model or a fused model are on this machine.

        Args:
            reference: what is meant; of a fused model its key or digest.
            format: of an adapter's files, `mlx` or `peft`; None for mlx-lm's.

        Raises:
            UnknownReferenceError: nothing has that name, or the fused model is not on this machine.
            BadInputError: the adapter is yanked or has no such form, or a form was given for a model.
        """
        from ..records.folders import local_folder

        with self.bases.here(reference) as (workspace, [name]):
            return local_folder(workspace, name, format)

    def serve(
        self,
        request: ServeRequest,
        *,
        ready: Callable[[Serving], None],
        reporter: Reporter = SILENT,
    ) -> int:
        """Serve adapters until a signal comes; see `fusery.registry.serving.serve.serve`."""
        from ..serving.plan import Split
        from ..serving.serve import serve

        named = [name for text in request.models for name, _ in Split.parse(text).parts]

        def refresh() -> None:
            with self.bases.here(*request.references, *named):
                pass

        if self.server is not None:
            refresh()
        return serve(self.workspace, request, ready=ready, say=reporter.say, refresh=refresh)
