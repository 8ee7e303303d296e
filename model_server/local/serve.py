"""Serving adapters from the registry: one base in memory, aliases followed as they move."""

from __future__ import annotations

import importlib.util
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fusery.registry import tables
from fusery.registry.adapters.render import FORM_FILES
from fusery.registry.adapters.tokenizer_files import differences, reader
from fusery.registry.bundles.serving_plan import (
    ServingPlan,
    Split,
    document_bytes,
    plan_serving,
    require_forms,
)
from fusery.registry.errors import BadInputError, MissingExtraError, ModelUnusableError
from fusery.registry.fusion.request import FuseRequest
from fusery.registry.record import Record, described
from fusery.registry.records.bases import lay_out, proven_files
from fusery.registry.records.renderings import fetch_form, unfused_tokenizer
from fusery.registry.runtime.document import (
    ServedAdapter,
    ServedBase,
    ServerOptions,
    ServingDocument,
    read_document,
)
from fusery.registry.runtime.errors import AddressError, DocumentError, ServingError
from fusery.storage.errors import FuseryError
from fusery.storage.manifest import Manifest
from fusery.storage.plaintext import typed
from fusery.storage.progress import SILENT, Reporter

if TYPE_CHECKING:
    from fusery.registry import Registry
    from fusery.registry.workspace.workspace import Workspace

POLL_SECONDS = 3.0  # between two looks at the registry: how long a moved alias takes at most, but for loading the adapter
TOUCH_SECONDS = 600.0  # between two signs of life of the folder that is served from
STOP_SECONDS = 5.0  # for the last look to end

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ServeRequest(ServerOptions):
    """What is to be served, and how."""

    port: int = 8080
    references: Sequence[str] = ()
    models: Sequence[str] = ()  # further names, as `Split.parse` takes them
    fused: bool = False  # serve the fused model of the one adapter instead of base and adapter
    request: FuseRequest = field(default_factory=FuseRequest)  # with `fused`; its `base` counts without, too


class Serving(Record, kw_only=False):
    """A server that answers."""

    url: str = described("for OpenAI's clients: `base_url`")
    base: str = described("name of the base")
    adapters: tuple[str, ...] = described("full names of the adapters in memory")
    routes: Mapping[str, str | Mapping[str, float]] = described(
        "public names, each with the name that it leads to, or with several and their weights"
    )
    KEYS: ClassVar[tuple[str, ...]] = ("url", "base", "adapters", "models", "routes")

    @property
    def models(self) -> tuple[str, ...]:
        """All names that a request may ask for."""
        return (self.base, *self.adapters, *self.routes)


def serve(
    registry: Registry,
    request: ServeRequest,
    *,
    ready: Callable[[Serving], None],
    reporter: Reporter = SILENT,
) -> int:
    """Serve until SIGTERM or Ctrl-C; call it in the main thread.

    On a server's registry, each look at the aliases fetches what changed there first.
    """
    names = [name for text in request.models for name, _ in Split.parse(text).parts]

    def refresh() -> None:
        base = [] if request.request.base is None else [request.request.base]
        with registry.bases.here(*request.references, *names, *base):
            pass

    if registry.server is not None:
        refresh()
    workspace, say = registry.workspace, reporter.say
    require_extras()
    from ..run import serve as serve_document

    if request.api_keys is not None:
        from ..keys import HINT, Keys

        try:
            Keys(request.api_keys)
        except DocumentError as error:
            raise BadInputError(str(error), hint=HINT) from error
    if request.adapters_from is not None and not request.adapters_from.is_dir():
        raise BadInputError(
            f"{request.adapters_from} is no folder", hint=f"mkdir {typed(request.adapters_from)}"
        )
    if request.api_keys is None and request.host not in ("127.0.0.1", "::1", "localhost"):
        say(f"anyone who reaches {request.host} may ask: there is no --api-keys")

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
            return serve_document(path, request, loaded=reading.close, ready=tell, say=say)
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
    """Refuse where a package is missing, before anything is fetched."""
    for extra, modules in (("serve", ("fastapi", "uvicorn", "prometheus_client")), ("mlx", ("mlx_lm",))):
        if any(importlib.util.find_spec(module) is None for module in modules):
            raise MissingExtraError("serving", extra)


@contextmanager
def _folder(
    workspace: Workspace,
    request: ServeRequest,
    reading: ExitStack,
    say: Say,
    refresh: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Path, Follower | None]]:
    """Give a folder with `serving.json`, and who keeps it up to date; `reading` is to be closed when all is loaded."""
    if not request.fused and replace(request.request, base=None) != FuseRequest():
        raise BadInputError("options of a fuse go with --fused", hint="fusery serve REF --fused")
    if request.fused:
        with _fused_folder(workspace, request, reading, say) as folder:
            yield folder, None
        return
    splits = [Split.parse(text) for text in request.models]
    with _kept_folder(workspace) as folder:
        follower = Follower(workspace, request, splits, folder, say, refresh)
        plan = follower.plan()
        say(f"fetching {plan.base.name}")
        (folder / "blobs").mkdir()
        files = reading.enter_context(proven_files(workspace, plan.base, folder / "blobs", rehash_all=True))
        lay_out(files, folder / "base")
        follower.follow(plan)
        yield folder, follower


@contextmanager
def _kept_folder(workspace: Workspace) -> Iterator[Path]:
    """Yield a folder in the cache and keep it from being swept, which happens after a day without changes."""
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


@contextmanager
def _fused_folder(
    workspace: Workspace, request: ServeRequest, reading: ExitStack, say: Say
) -> Iterator[Path]:
    from fusery.registry.fusion.fuse import fuse_to_read
    from fusery.registry.fusion.views import cautions
    from fusery.storage.verified_files import verified

    if len(request.references) != 1 or request.models:
        raise BadInputError(
            "a fused model is served alone", hint="fusery serve REF --fused, or several REFs without --fused"
        )
    (reference,) = request.references
    wanted = request.request
    with (
        _kept_folder(workspace) as folder,
        fuse_to_read(workspace, reference, wanted, reporter=Reporter(say)) as fused,
    ):
        for sentence in cautions(workspace, fused, wanted):
            say(sentence)
        manifest = Manifest.of(fused.files)
        files = {entry.path: fused.path / entry.path for entry in manifest}
        reading.enter_context(verified(files, manifest))
        name = fused.adapter
        for withdrawal in fused.withdrawals:
            say(f"{name}: {withdrawal.summary}")
        base = ServedBase(name=name, folder=str(fused.path.absolute()), digest=fused.digest)
        task = name.rpartition("_v")[0]
        routes: dict[str, str | dict[str, float]] = {
            route: name for route in (reference, task) if route != name
        }
        _write(folder, ServingDocument(format=1, base=base, routes=routes))
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
        self._workspace, self._request, self._splits = workspace, request, splits
        self._folder, self._say, self._refresh = folder, say, refresh
        self._written: ServingDocument | None = None
        self._tokenizer: str | None = None
        self._complaint = ""
        self._told: tuple[str, ...] = ()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Look at the registry every few seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; a running check may take long, such as one of a database that does not answer."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def plan(self) -> ServingPlan:
        """Return what is to be served now."""
        with self._workspace.database.read() as session:
            base = self._request.request.base
            plan = plan_serving(session, self._request.references, self._splits, base=base)
        require_forms(self._workspace, plan)
        return plan

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
        """Place the tokenizer that adapters need instead of the base's, and return its folder; None for the base's."""
        scratch = self._folder / "tokenizers"
        shutil.rmtree(scratch, ignore_errors=True)
        files = unfused_tokenizer(self._workspace, plan.base, plan.adapters, scratch)
        place = self._folder / "tokenizer"
        if self._written is not None:
            placed_files = {
                path.relative_to(place).as_posix(): path for path in place.rglob("*") if path.is_file()
            }
            if bool(placed_files) != bool(files) or differences(reader(files), reader(placed_files)):
                raise BadInputError(
                    "cannot change the tokenizer or chat template of a running server: restart the server"
                )
            return self._tokenizer
        for name, path in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / name)
        return place.name if files else None

    def _fetch(self, adapter: tables.AdapterRow, entry: ServedAdapter) -> None:
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
                    served = self._written.adapters if self._written is not None else ()
                    names = ", ".join(entry.name for entry in served) or "nothing"
                    self._say(f"still serving {names}: {error}")


def _write(folder: Path, document: ServingDocument) -> None:
    """Write `serving.json` in one step: the server looks at any time."""
    part = folder / "serving.json.part"
    part.write_bytes(document_bytes(document))
    part.replace(folder / "serving.json")
