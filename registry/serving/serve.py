"""Serving adapters from the registry: one base in memory, aliases followed as they move."""

from __future__ import annotations

import importlib.util
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fusery.storage.errors import FuseryError
from fusery.storage.manifest import Manifest
from fusery.storage.progress import Reporter
from fusery.storage.shell import typed

from .. import tables
from ..adapters.render import FORM_FILES
from ..adapters.tokenizer_files import differences, reader
from ..errors import BadInputError, MissingExtraError, ModelUnusableError
from ..record import Record, described
from ..records.base_files import lay_out, proven_files
from ..records.renderings import fetch_form
from ..records.unfused_tokenizers import unfused_tokenizer
from ..server.document import Adapter, Base, Document, read_document
from ..server.errors import AddressError, DocumentError, ServingError
from .plan import ServingPlan, Split, document_bytes, plan_serving

if TYPE_CHECKING:
    from ..workspace import Workspace

POLL_SECONDS = 3.0
"""Between two looks at the registry: how long a moved alias takes at most, but for loading the adapter."""

TOUCH_SECONDS = 600.0
"""Between two signs of life of the folder that is served from."""

STOP_SECONDS = 5.0
"""For the last look to end."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """What is to be served, and where.

    Attributes:
        references: adapters of one base.
        models: further names, as `Split.parse` takes them.
        host: address to listen on.
        port: 0 for any.
        api_keys: TOML file of tenants, which the server follows by itself; None lets everybody in.
        fused: serve the fused model of the one adapter instead of base and adapter.
        accept_foreign: with `fused`, take what another registry says is the model; see `FuseRequest`.
        hosts: names that requests may be for, besides addresses, localhost and `host`; `*` for all.
        adapters_from: below which requests may have adapters loaded, as `fusery sync` does; None for nowhere.
    """

    references: Sequence[str]
    models: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: Path | None = None
    fused: bool = False
    accept_foreign: bool = False
    hosts: Sequence[str] = ()
    adapters_from: Path | None = None


@dataclass(frozen=True, slots=True)
class Serving(Record):
    """A server that answers.

    Attributes:
        routes: public names, each with the name that it leads to, or with several and their weights.
    """

    url: str = described("for OpenAI's clients: `base_url`")
    base: str = described("name of the base")
    adapters: tuple[str, ...] = described("full names of the adapters in memory")
    routes: Mapping[str, str | Mapping[str, float]] = field(default_factory=dict)
    KEYS: ClassVar[tuple[str, ...]] = ("url", "base", "adapters", "models", "routes")

    @property
    def models(self) -> tuple[str, ...]:
        """All names that a request may ask for."""
        return (self.base, *self.adapters, *self.routes)


def serve(
    workspace: Workspace,
    request: ServeRequest,
    *,
    ready: Callable[[Serving], None],
    say: Say,
    refresh: Callable[[], None] = lambda: None,
) -> int:
    """Serve until SIGTERM or Ctrl-C; to be called in the main thread.

    Args:
        workspace: the registry's parts.
        request: what is to be served.
        ready: called once it answers.
        say: called with each progress message.
        refresh: called before each look at the registry; fetches what changed at a server.

    Returns:
        0 after a signal, 1 when generation died.

    Raises:
        MissingExtraError: the packages for a server, or mlx-lm, are not installed.
        UnknownReferenceError: there is no such adapter.
        BadInputError: one is yanked, they have different bases, the file of keys is not as it must be, or the address is taken.
        ModelUnusableError: mlx-lm cannot load the base or an adapter.
    """
    require_extras()
    from ..server import run

    _require_keys(request.api_keys)
    if request.adapters_from is not None and not request.adapters_from.is_dir():
        raise BadInputError(
            f"{request.adapters_from} is no folder", hint=f"mkdir {typed(request.adapters_from)}"
        )
    if request.api_keys is None and request.host not in ("127.0.0.1", "::1", "localhost"):
        say(f"whoever reaches {request.host} may ask: there is no --api-keys")

    # What is served is hashed before it is loaded, and must not have changed when it is in memory.
    with ExitStack() as reading, _folder(workspace, request, reading, say, refresh) as (folder, follower):
        path = folder / "serving.json"

        def tell(url: str) -> None:
            document = read_document(path)
            names = tuple(adapter.name for adapter in document.adapters)
            ready(Serving(f"{url}/v1", document.base.name, names, document.routes))
            if follower is not None:
                follower.start()

        try:
            return run.serve(
                path,
                host=request.host,
                port=request.port,
                api_keys=request.api_keys,
                hosts=request.hosts,
                adapters_from=request.adapters_from,
                loaded=reading.close,
                ready=tell,
                say=say,
            )
        except DocumentError as error:
            raise BadInputError(str(error)) from error
        except AddressError as error:
            raise BadInputError(str(error), hint="--port 0 takes a free one") from error
        except ServingError as error:
            raise ModelUnusableError(str(error)) from error
        finally:
            if follower is not None:
                follower.stop()


def require_extras() -> None:
    """Refuse where a package is missing, before anything is fetched.

    Raises:
        MissingExtraError: one is.
    """
    for extra, modules in (("serve", ("fastapi", "uvicorn", "prometheus_client")), ("mlx", ("mlx_lm",))):
        if any(importlib.util.find_spec(module) is None for module in modules):
            raise MissingExtraError("serving", extra)


def _require_keys(path: Path | None) -> None:
    """Refuse a file of keys that is none, before anything is fetched."""
    from ..server.keys import HINT, Keys

    if path is not None:
        try:
            Keys.of_file(path)
        except DocumentError as error:
            raise BadInputError(str(error), hint=HINT) from error


@contextmanager
def _folder(
    workspace: Workspace,
    request: ServeRequest,
    reading: ExitStack,
    say: Say,
    refresh: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Path, Follower | None]]:
    """Give a folder with `serving.json`, and who keeps it up to date; `reading` is to be closed when all is loaded."""
    if request.accept_foreign and not request.fused:
        raise BadInputError(
            "nothing is fused, so nothing foreign is served", hint="leave --accept-foreign out"
        )
    if request.fused:
        with _fused_folder(workspace, request, reading, say) as folder:
            yield folder, None
        return
    splits = [Split.parse(text) for text in request.models]
    with _kept_folder(workspace) as folder:
        follower = Follower(workspace, request, splits, folder, say, refresh)
        plan = follower.plan()
        say(f"fetching {plan.base.name}")
        _link_base(workspace, plan.base, folder, reading)
        follower.follow(plan)
        yield folder, follower


@contextmanager
def _kept_folder(workspace: Workspace) -> Iterator[Path]:
    """Give a folder in the cache, from which is swept what nobody has touched for a day."""
    ended = threading.Event()

    def touch(folder: Path) -> None:
        while not ended.wait(TOUCH_SECONDS):
            with suppress(OSError):  # a full disk, for a while
                os.utime(folder)

    with workspace.cache.scratch() as folder:
        thread = threading.Thread(target=touch, args=(folder,), name="kept", daemon=True)
        thread.start()
        try:
            yield folder
        finally:
            ended.set()
            thread.join()


def _link_base(workspace: Workspace, base: tables.BaseModel, folder: Path, reading: ExitStack) -> None:
    """Make a folder of links to a base's files, as mlx-lm takes it."""
    (folder / "blobs").mkdir()
    files = reading.enter_context(proven_files(workspace, base, folder / "blobs", anew=True))
    lay_out(files, folder / "base")


@contextmanager
def _fused_folder(
    workspace: Workspace, request: ServeRequest, reading: ExitStack, say: Say
) -> Iterator[Path]:
    from fusery.storage.watching import verified

    from ..fusion.fuse import FuseRequest, fuse_to_read
    from ..fusion.words import cautions

    if len(request.references) != 1 or request.models:
        raise BadInputError(
            "a fused model is served alone", hint="fusery serve REF --fused, or several REFs without --fused"
        )
    (reference,) = request.references
    wanted = FuseRequest(accept_foreign=request.accept_foreign)
    with (
        _kept_folder(workspace) as folder,
        fuse_to_read(workspace, reference, wanted, reporter=Reporter(say)) as fused,
    ):
        for sentence in cautions(workspace, fused, wanted):
            say(sentence)
        manifest = Manifest.of(fused.files)
        files = {entry.path: fused.path / entry.path for entry in manifest}
        reading.enter_context(verified(files, manifest, near=workspace.vouchers.root))
        name = fused.adapter
        for withdrawal in fused.withdrawals:
            say(f"{name}: {withdrawal.told}")
        base = Base(name=name, folder=str(fused.path.absolute()), digest=fused.digest)
        task = name.rpartition("_v")[0]
        routes: dict[str, Any] = {route: name for route in (reference, task) if route != name}
        _write(folder, Document(format=1, base=base, routes=routes))
        yield folder


class Follower:
    """Keeps `serving.json` as the registry has it; the server follows the file."""

    def __init__(
        self,
        workspace: Workspace,
        request: ServeRequest,
        splits: Sequence[Split],
        folder: Path,
        say: Say,
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `start` begins to look."""
        self._workspace, self._request, self._splits = workspace, request, splits
        self._folder, self._say, self._refresh = folder, say, refresh
        self._written: Document | None = None
        self._tokenizer: str | None = None
        self._complaint = ""
        self._told: tuple[str, ...] = ()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Look at the registry every few seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; what it is at may take longer than anybody waits, a database that does not answer for one."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def plan(self) -> ServingPlan:
        """Return what is to be served now."""
        with self._workspace.database.read() as session:
            return plan_serving(session, self._request.references, self._splits)

    def follow(self, plan: ServingPlan) -> None:
        """Fetch what is new in a plan and write the document, if it is another."""
        if plan.told != self._told:
            self._told = plan.told
            for sentence in plan.told:
                self._say(sentence)
        if self._written is None or self._written.adapters != plan.document().adapters:
            self._tokenizer = self._place_tokenizer(plan)
        document = plan.document(tokenizer=self._tokenizer)
        if document == self._written:
            return
        for adapter, entry in zip(plan.adapters, document.adapters, strict=True):
            self._fetch(adapter, entry)
        if self._written is not None:
            self._say(f"now serving {', '.join(entry.name for entry in document.adapters)}")
        _write(self._folder, document)
        self._written = document

    def _place_tokenizer(self, plan: ServingPlan) -> str | None:
        """Place the tokenizer that adapters need instead of the base's, and return its folder; None for the base's.

        Raises:
            BadInputError: the adapters need another tokenizer than the running server has.
        """
        scratch = self._folder / "tokenizers"
        shutil.rmtree(scratch, ignore_errors=True)
        files = unfused_tokenizer(self._workspace, plan.base, plan.adapters, scratch)
        place = self._folder / "tokenizer"
        if self._written is not None:
            there = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if path.is_file()}
            if bool(there) != bool(files) or differences(reader(files), reader(there)):
                raise BadInputError(
                    "cannot change the tokenizer or chat template of a running server: restart the server"
                )
            return self._tokenizer
        for name, path in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / name)
        return place.name if files else None

    def _served(self) -> str:
        """Return what is served, in words."""
        if self._written is None:
            return "nothing"
        return ", ".join(entry.name for entry in self._written.adapters)

    def _fetch(self, adapter: tables.Adapter, entry: Adapter) -> None:
        target = self._folder / entry.folder
        if target.exists():
            return
        self._say(f"fetching {adapter.name}")
        fetched, made = self._folder / "fetched" / adapter.name, self._folder / "made" / adapter.name
        for left in (fetched, made):  # by an attempt that failed
            shutil.rmtree(left, ignore_errors=True)
        files = fetch_form(self._workspace, adapter, "mlx", fetched)
        made.mkdir(parents=True)
        for name in FORM_FILES["mlx"]:
            files[name].replace(made / name)
        target.parent.mkdir(exist_ok=True)
        made.replace(target)

    def _run(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            try:
                self._refresh()
                self.follow(self.plan())
                self._complaint = ""
            except (FuseryError, OSError) as error:
                # What runs goes on: an alias that moved to something yanked, a database that is away for a while.
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    self._say(f"still serving {self._served()}: {error}")


def _write(folder: Path, document: Document) -> None:
    """Write `serving.json` in one step: the server looks at any time."""
    part = folder / "serving.json.part"
    part.write_bytes(document_bytes(document))
    part.replace(folder / "serving.json")
