"""The Python API: one registry, with a resource for each kind of thing in it, and the verbs of the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..workspace.homes import is_server
from ..workspace.settings import Settings
from ..workspace.workspace import Workspace
from .adapters import Adapters
from .aliases import Aliases, Deployments
from .evaluations import Evaluations
from .exchange import Exchange, Transfers
from .fused import Bases, Bundles, Cache, FusedModels
from .provenance import Provenance, Tokens, Trust
from .resource import Named
from .upkeep import Upkeep, Webhooks

if TYPE_CHECKING:
    from ..adapters.render import Form
    from ..records.renderings import LocalFolder
    from ..records.transfer import SearchResults
    from ..remote.server import Server


class Registry:
    """A registry of base models, adapters and fused artifacts.

    A training script registers its own result in three lines:

        from fusery import Registry

        with Registry.open() as registry:
            registry.adapters.register("adapters", base="SmolLM2-135M-Instruct", task="course_rec", val_loss=0.42)

    Its other attributes are resources, one for each kind of thing.  Every method raises a `FuseryError` when what it was
    given is not acceptable; its `hint` says what to do.

    Attributes:
        workspace: the registry's parts on this machine; of a server's registry, what was fetched of it.
        server: that the registry is at; None for one of this machine.
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
            token: for the server; None for that of `FUSERY_TOKEN`, or that which `fusery login` stored.
            insecure_http: the token may go to another machine over HTTP without TLS.
        """
        named = str(place or os.environ.get("FUSERY_REGISTRY", ""))
        if is_server(named):
            from ..remote.server import open_server

            return cls(*open_server(named, token, insecure_http=insecure_http))
        return cls(Workspace(Settings.load(Path(named) if named else None)))

    def acting(self, name: str, *, authenticated: bool = True, role: str = "") -> Registry:
        """Return this registry acting under a client's name and role."""
        return Registry(self.workspace.acting(name, authenticated=authenticated, role=role))

    def __repr__(self) -> str:
        return f"<Registry {self.server.url if self.server else f'in {self.workspace.settings.home}'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the database, and the connections to a server."""
        self.workspace.close()
        if self.server is not None:
            self.server.close()

    def init(self) -> bool:
        """Create the home folder, the database and the store; return False if all existed."""
        from ..workspace.workspace import write_config

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

    def search(self, text: str) -> SearchResults:
        """Search records by name or digest."""
        return self.provenance.search(text)

    def folder(self, reference: Named, *, format: Form | None = None) -> LocalFolder:
        """Return where the files of an adapter, a base model or a fused model are on this machine."""
        from ..records.renderings import local_folder

        with self.bases.here(reference) as (workspace, [name]):
            return local_folder(workspace, name, format)
