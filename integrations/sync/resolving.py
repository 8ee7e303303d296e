"""Resolve names of adapters for servers, and fetch the files once for all servers of a machine."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import platformdirs

from fusery.registry import Registry
from fusery.registry.bundles.delivery import LocalFolder
from fusery.registry.bundles.writing import BundleFolder
from fusery.registry.documents import document_bytes
from fusery.registry.errors import BadInputError, UnknownReferenceError
from fusery.registry.names import Reference
from fusery.storage.digest import digest_file, digest_json
from fusery.storage.errors import FuseryError, StorageError
from fusery.storage.failures import os_failures
from fusery.storage.jsonfile import read_object

from .sources import AdapterSource, SourceAdapter

LOG = logging.getLogger(__name__)
_FILES = "adapter"
_NOTE = "fusery.json"
_MOST_REFUSED = 1_000  # refusals that one server records


class NotServedError(BadInputError):
    """A registered adapter must not be served."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """An adapter that a server can load."""

    name: str
    digest: str
    folder: Path
    modules: int
    rank: int
    nbytes: int


@dataclass(eq=False)
class Resolver:
    """Resolves adapters for one server; with `aliases`, an alias keeps its first adapter."""

    source: AdapterSource
    root: Path  # of the files, which the servers of a machine may share
    _: KW_ONLY
    place: str = ""  # the server's name in deployments; empty to record none
    via: str = "resolver"
    aliases: bool = False
    base: str | None = None  # the registry's name or digest of the server's base model, if it has another
    _begun: bool = field(default=False, init=False)
    _refused: set[tuple[str, str]] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _beginning: threading.Lock = field(default_factory=threading.Lock, init=False)

    def resolve(
        self, asked: str, base_called: str, *, max_rank: int | None = None, max_bytes: int | None = None
    ) -> Resolved | None:
        """Return the adapter of a name for a server's base model, None if unknown; NotServedError if it must not be served."""
        reference = self._reference(asked)
        if reference is None:
            return None
        try:
            adapter = self.source.look(reference)
        except UnknownReferenceError:
            return None
        try:
            self._require_servable(adapter, base_called)
            resolved = self._fetched(adapter, base_called)
            if max_rank is not None and resolved.rank > max_rank:
                hint = (
                    f"start the server with --max-lora-rank {resolved.rank} or the next value that it accepts"
                )
                message = f"{resolved.name}: rank {resolved.rank} > --max-lora-rank {max_rank}"
                raise NotServedError(message, hint=hint)
            if max_bytes is not None and resolved.nbytes > max_bytes:
                raise NotServedError(f"{resolved.name}: {resolved.nbytes:,} bytes (allowed: {max_bytes:,})")
        except BadInputError as error:
            self._record_refusal(adapter, error)
            if isinstance(error, NotServedError):
                raise
            # Servers do not support it, or no module matches: another attempt changes nothing.
            raise NotServedError(error.message, hint=error.hint) from error
        self._record(adapter)
        return resolved

    def close(self) -> None:
        """Record that the server ends, with all its adapters."""
        if self._begun:
            self._begun = False
            self._end("the server ended")
        self.source.close()

    def _reference(self, asked: str) -> str | None:
        try:
            reference = Reference.parse(asked)
        except BadInputError:
            return None
        if reference.kind in ("name", "version"):
            # A server loads an adapter once for each name: more spellings would fill its memory.
            named = reference.value if reference.kind == "name" else f"{reference.task}@{reference.value}"
            return named if asked == named else None
        if reference.kind in ("alias", "latest"):
            if self.aliases:
                return reference.text
            hint = "request the full name or TASK@VERSION, or resolve aliases before the server"
            raise NotServedError(f"{asked} is an alias, and a server keeps its first adapter", hint=hint)
        return None

    def _require_servable(self, adapter: SourceAdapter, base_called: str) -> None:
        if adapter.yanked is not None:
            raise NotServedError(f"{adapter.name} was withdrawn")
        base = adapter.base
        declared = self.base is not None and self.base in (base.name, base.digest)
        if not declared and base_called not in base.called and not base.lies_in(base_called):
            hint = f"if that is the same model: FUSERY_SERVED_BASE={base.name}"
            message = f"{adapter.name} was trained on {base.name}, and this server has {base_called[:200]!r}"
            raise NotServedError(message, hint=hint)

    def _fetched(self, adapter: SourceAdapter, base_called: str) -> Resolved:
        key = digest_json({"adapter": adapter.digest, "name": adapter.name, "base": base_called})[:32]
        folder = self.root / key
        with self._alone(key):
            if (ready := _read(folder, adapter)) is not None:
                return ready
            LOG.info("fetching %s", adapter.name)
            place = LocalFolder(folder)
            with place.building() as work:
                (work / _FILES).mkdir()
                bundle = BundleFolder(work / _FILES)
                modules = self.source.write(adapter, bundle, base_called)
                files = [entry.to_dict() for entry in bundle.manifest()]
                note = {"name": adapter.name, "digest": adapter.digest, "modules": modules, "files": files}
                (work / _NOTE).write_bytes(document_bytes(note))
                place.publish(work, bundle.manifest(), replace=place.occupied())
            ready = _read(folder, adapter)
        if ready is None:
            raise StorageError(f"{folder} does not hold what was written to it")
        return ready

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Hold the lock of one adapter's folder on this machine."""
        locks = self.root / ".locks"
        with os_failures(f"write {locks}", near=self.root):
            locks.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(locks / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _record(self, adapter: SourceAdapter) -> None:
        """Record that it runs; the server works without the record."""
        if not self.place:
            return
        try:
            with self._beginning:
                # The first of several requests ends the deployments of a killed server.
                if not self._begun:
                    self._begun = self._end("the server restarted")
            self.source.registry.deployments.record(f"adapter:{adapter.name}", self.place, via=self.via)
        except FuseryError as error:
            LOG.warning("that %s runs here is not on record: %s", adapter.name, error)

    def _record_refusal(self, adapter: SourceAdapter, error: BadInputError) -> None:
        """Record that it was not served, once for each reason: repeated requests must not fill the log."""
        refusal = (adapter.digest, str(error))
        with self._lock:
            if refusal in self._refused or not self.place or len(self._refused) >= _MOST_REFUSED:
                return
            self._refused.add(refusal)
        try:
            self.source.registry.deployments.refuse(
                f"adapter:{adapter.name}", self.place, reason=str(error), via=self.via
            )
        except FuseryError as problem:
            LOG.warning("that %s was refused here is not on record: %s", adapter.name, problem)
            with self._lock:
                self._refused.discard(refusal)

    def _end(self, reason: str) -> bool:
        """Record that nothing runs here any more; return whether that succeeded."""
        try:
            self.source.registry.deployments.end([self.place], reason=reason, via=self.via)
        except UnknownReferenceError:
            return True  # no deployment was ever recorded
        except FuseryError as error:
            LOG.warning("what ran here is not ended on record: %s", error)
            return False
        return True


def _read(folder: Path, adapter: SourceAdapter) -> Resolved | None:
    """Return the adapter in a folder, after hashing its files; None if it is not the adapter."""
    try:
        note = read_object(folder / _NOTE)
        files = {str(entry["path"]): (entry["sha256"], entry["size"]) for entry in note["files"]}
        inside = folder / _FILES
        if (note["name"], note["digest"]) != (adapter.name, adapter.digest):
            return None
        if {path.name for path in inside.iterdir()} != set(files):
            return None
        if any((inside / name).is_symlink() or digest_file(inside / name) != files[name] for name in files):
            return None
        rank = int(read_object(inside / "adapter_config.json")["r"])
        nbytes = sum(size for _, size in files.values())
        return Resolved(adapter.name, adapter.digest, inside, int(note["modules"]), rank, nbytes)
    except (OSError, StorageError, KeyError, TypeError, ValueError):
        return None


_MAX_LORA_RANK = 16  # vLLM's default for `--max-lora-rank` (vllm/config/lora.py)


def resolver_of_environment(environment: Mapping[str, str], via: str, place: str) -> Resolver:
    """Return the resolver of a server, from the variables that docs/reference/live-servers.md lists."""
    variable = f"FUSERY_{via.upper()}_ALIASES"
    aliases = environment.get(variable, "")
    if aliases not in ("", "pin"):
        raise BadInputError(f"{variable} is {aliases[:40]!r}", hint=f"{variable}=pin, or unset it")
    folder = environment.get("FUSERY_SERVED_FILES") or f"{platformdirs.user_cache_dir('fusery')}/served"
    at = environment.get("FUSERY_SERVED_AT") or place
    return Resolver(
        AdapterSource(Registry.open(environment.get("FUSERY_SERVER"))),
        Path(folder).expanduser().absolute(),
        place="" if at == "-" else at,
        via=via,
        aliases=aliases == "pin",
        base=environment.get("FUSERY_SERVED_BASE") or None,
    )


def max_lora_rank(arguments: Sequence[str]) -> int | None:
    """Return the largest rank that vLLM loads, from its command line; None if it is not known."""
    words = [part for argument in arguments for part in argument.split("=", 1)]
    names = [word.replace("_", "-") for word in words]
    given = [value for name, value in zip(names, words[1:], strict=False) if name == "--max-lora-rank"]
    if "--max-lora-rank" in names:
        return int(given[-1]) if given and given[-1].isdecimal() else None
    # A configuration file may set it.
    return _MAX_LORA_RANK if "--enable-lora" in names and "--config" not in names else None
