"""The Python API: one registry, with a resource for each kind of thing in it, and the verbs of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fusery.storage.progress import SILENT, Reporter

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
from .resource import Named, named
from .tokens import Tokens
from .transfers import Transfers
from .trust import Trust
from .upkeep import Upkeep
from .webhooks import Webhooks

if TYPE_CHECKING:
    from ..adapters.render import Form
    from ..catalog.search import Found
    from ..records.folders import LocalFolder
    from ..serving.serve import ServeRequest, Serving


class Registry:
    """A registry of base models, adapters and fused artifacts.

    A training script registers its own result in three lines:

        from fusery import Registry

        with Registry.open() as registry:
            registry.adapters.register("adapters", base="SmolLM2-135M-Instruct", task="course_rec", val_loss=0.42)

    Every method raises a `FuseryError` when what it was given is not acceptable; its `hint` says what to do.

    Attributes:
        workspace: the registry's parts.
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

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.bases = Bases(workspace)
        self.adapters = Adapters(workspace)
        self.evaluations = Evaluations(workspace)
        self.fused = FusedModels(workspace)
        self.cache = Cache(workspace)
        self.bundles = Bundles(workspace)
        self.aliases = Aliases(workspace)
        self.deployments = Deployments(workspace)
        self.provenance = Provenance(workspace)
        self.trust = Trust(workspace)
        self.tokens = Tokens(workspace)
        self.exchange = Exchange(workspace)
        self.transfers = Transfers(workspace)
        self.upkeep = Upkeep(workspace)
        self.webhooks = Webhooks(workspace)

    @classmethod
    def open(cls, home: str | Path | None = None) -> Registry:
        """Open the registry in a home folder; None for the one that the settings name.

        Nothing is made or connected yet: `init` makes what is missing, and so does the first thing that is recorded.

        Raises:
            BadInputError: a setting is not acceptable.
        """
        return cls(Workspace(Settings.load(Path(home) if home else None)))

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
        return f"<Registry in {self.workspace.settings.home}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self.workspace.close()

    def init(self) -> bool:
        """Make the home folder, the database and the store; return False when all were there already."""
        from ..workspace import write_config

        made = self.workspace.ensure(explicit=True)
        write_config(self.workspace.settings)
        return made

    def search(self, text: str) -> Found:
        """Return what is called so, or begins so; see `fusery.registry.catalog.search.search`."""
        from ..catalog.search import search

        return search(self.workspace, text)

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

        return local_folder(self.workspace, named(reference), format)

    def serve(
        self,
        request: ServeRequest,
        *,
        ready: Callable[[Serving], None],
        reporter: Reporter = SILENT,
    ) -> int:
        """Serve adapters until a signal comes; see `fusery.registry.serving.serve.serve`."""
        from ..serving.serve import serve

        return serve(self.workspace, request, ready=ready, say=reporter.say)
