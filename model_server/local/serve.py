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
from typing import TYPE_CHECKING

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
from fusery.storage.errors import FuseryError, typed
from fusery.storage.manifest import Manifest
from fusery.storage.progress import SILENT, Reporter

if TYPE_CHECKING:
    from fusery.registry import Registry
    from fusery.registry.workspace.workspace import Workspace

POLL_SECONDS = 3.0  # between two looks at the registry
TOUCH_SECONDS = 600.0  # between two updates of the time of the served folder
STOP_SECONDS = 5.0  # to wait for the last look

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ServeRequest(ServerOptions):
    """The options of `fusery serve`."""

    port: int = 8080
    references: Sequence[str] = ()
    models: Sequence[str] = ()  # additional names, as `Split.parse` reads them
    fused: bool = False  # serve the fused model of the one adapter
    request: FuseRequest = field(default_factory=FuseRequest)  # for `fused`; also `base` without it


class Serving(Record, kw_only=False):
    """A running server."""

    url: str = described("for OpenAI's clients: `base_url`")
    base: str = described("name of the base")
    adapters: tuple[str, ...] = described("full names of the adapters in memory")
    models: tuple[str, ...] = described("all names that a request may ask for")
    routes: Mapping[str, str | Mapping[str, float]] = described(
        "public names, each with the name that it leads to, or with several and their weights"
    )


def serve(
    registry: Registry,
    request: ServeRequest,
    *,
    ready: Callable[[Serving], None],
    reporter: Reporter = SILENT,
) -> int:
    """Serve until SIGTERM or Ctrl-C, in the main thread; a server's registry is fetched before each look at the aliases."""
    names = [name for text in request.models for name, _ in Split.parse(text).parts]

    def refresh() -> None:
        base = [] if request.request.base is None else [request.request.base]
        with registry.bases.here(*request.references, *names, *base):
            pass

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
        hint = f"mkdir {typed(request.adapters_from)}"
        raise BadInputError(f"folder not found: {request.adapters_from}", hint=hint)
    if request.api_keys is None and request.host not in ("127.0.0.1", "::1", "localhost"):
        say(f"every client that reaches {request.host} is served: there is no --api-keys")

    # Files are hashed before they are loaded, and must not have changed afterwards.
    with ExitStack() as reading, _folder(workspace, request, reading, say, refresh) as (folder, follower):
        path = folder / "serving.json"

        def listening(url: str) -> None:
            document = read_document(path)
            names = tuple(adapter.name for adapter in document.adapters)
            models = (document.base.name, *names, *document.routes)
            ready(Serving(f"{url}/v1", document.base.name, names, models, document.routes))
            if follower is not None:
                follower.start()

        try:
            return serve_document(path, request, loaded=reading.close, ready=listening, say=say)
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
    """Refuse if a package is missing, before files are fetched."""
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
    """Yield a folder with `serving.json`, and its follower; close `reading` when all files are loaded."""
    if not request.fused and replace(request.request, base=None) != FuseRequest():
        raise BadInputError("options of a fuse go with --fused", hint="fusery serve REF --fused")
    refresh()
    if request.fused:
        with _fused_folder(workspace, request, reading, say) as folder:
            yield folder, None
        return
    with _kept_folder(workspace) as folder:
        follower = Follower(workspace, request, folder, say, refresh)
        plan = follower.plan()
        say(f"fetching {plan.base.name}")
        files = reading.enter_context(proven_files(workspace, plan.base, folder, rehash_all=True))
        lay_out(files, folder / "base")
        follower.follow(plan)
        yield folder, follower


@contextmanager
def _kept_folder(workspace: Workspace) -> Iterator[Path]:
    """Yield a folder in the cache, and update its time: old ones are swept."""
    ended = threading.Event()

    def touch(folder: Path) -> None:
        while not ended.wait(TOUCH_SECONDS):
            with suppress(OSError):  # such as a full disk
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
        raise BadInputError("a fused model is served alone", hint="fusery serve REF --fused")
    (reference,) = request.references
    wanted = request.request
    if wanted.prefer is None and wanted.may_prefer:
        wanted = replace(wanted, prefer="speed")  # it runs on this machine
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
        routes: dict[str, str | dict[str, float]] = {key: name for key in (reference, task) if key != name}
        _write(folder, ServingDocument(format=1, base=base, routes=routes))
        yield folder


class Follower:
    """Updates `serving.json` when the registry changes; the server follows the file."""

    def __init__(
        self,
        workspace: Workspace,
        request: ServeRequest,
        folder: Path,
        say: Say,
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self._workspace, self._request = workspace, request
        self._splits = [Split.parse(text) for text in request.models]
        self._folder, self._say, self._refresh = folder, say, refresh
        self._written: ServingDocument | None = None
        self._tokenizer: str | None = None
        self._complaint = ""
        self._notices: tuple[str, ...] = ()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Look at the registry every few seconds."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; do not wait long for a running look, such as one at a database that does not answer."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def plan(self) -> ServingPlan:
        """Return the current serving plan."""
        with self._workspace.database.read() as session:
            base = self._request.request.base
            plan = plan_serving(session, self._request.references, self._splits, base=base)
        require_forms(self._workspace, plan)
        return plan

    def follow(self, plan: ServingPlan) -> None:
        """Fetch the new adapters of a plan, and write the document if it changes."""
        if plan.notices != self._notices:
            self._notices = plan.notices
            for sentence in plan.notices:
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
        """Write the adapters' own tokenizer, and return its folder; None if they use the base model's."""
        scratch = self._folder / "tokenizers"
        shutil.rmtree(scratch, ignore_errors=True)
        files = unfused_tokenizer(self._workspace, plan.base, plan.adapters, scratch)
        place = self._folder / "tokenizer"
        if self._written is not None:
            paths = [path for path in place.rglob("*") if path.is_file()]
            placed = {path.relative_to(place).as_posix(): path for path in paths}
            if bool(placed) != bool(files) or differences(reader(files), reader(placed)):
                raise BadInputError("a new tokenizer or chat template needs a restart of the server")
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
        files = fetch_form(self._workspace, adapter, "mlx", fetched, own_server=True)
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
                # Such as an alias that moved to a yanked adapter, or an unreachable database.
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    served = self._written.adapters if self._written is not None else ()
                    names = ", ".join(entry.name for entry in served) or "nothing"
                    self._say(f"still serving {names}: {error}")


def _write(folder: Path, document: ServingDocument) -> None:
    part = folder / "serving.json.part"
    part.write_bytes(document_bytes(document))
    part.replace(folder / "serving.json")
