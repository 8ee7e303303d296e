"""Folders of adapters on this machine (one rename each) or in a bucket (the configuration last): NIM, vLLM's resolver, Ray Serve."""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.registry.adapters import CONFIG, PEFT_WEIGHTS, WEIGHTS
from fusery.registry.adapters.render import FORM_FILES, Form
from fusery.registry.bundles.delivery import LocalFolder, Place, RemoteFolder
from fusery.registry.bundles.sources import adapters_source
from fusery.registry.bundles.writing import FOLDER_MODE, BundleFolder, bundle_record, sealed_bytes
from fusery.registry.documents import CHECKSUM, RECORD, checksum_of
from fusery.registry.errors import AlreadyExistsError
from fusery.storage.digest import digest_file, parse_digest
from fusery.storage.errors import FuseryError, StorageError, typed
from fusery.storage.failures import opened, os_failures
from fusery.storage.jsonfile import parse_json, read_object
from fusery.storage.locate import open_tree
from fusery.storage.manifest import FileEntry, Manifest, safe_relative_path
from fusery.storage.processes import process_tag, sweep_temporary
from fusery.storage.verified_files import FileState, folder_state

from ..common import base_architecture, named_base, require_shared_names, served_adapters, write_peft
from .plan import Desired, Standing, on_this_machine

if TYPE_CHECKING:
    from fusery.registry.bundles.source import BundleSource
    from fusery.registry.workspace.workspace import Workspace

TARGET = "adapter"  # `target` in `fusery.json`
MOST_RECORD = 4 << 20  # bytes of a `fusery.json` that are read
_SERVERS = "a server"


def write_adapter(
    workspace: Workspace, name: str, folder: Path, form: Form, *, base_name: str | None = None
) -> Manifest:
    """Fill an empty folder with an adapter and its record; the same adapter gives the same bytes."""
    with adapters_source(workspace, [name], form, with_base=False) as (source, _):
        source.check()
        bundle = BundleFolder(folder)
        if form == "mlx":
            bundle.copy(source.adapters[0].files)
        else:
            write_plain(source, bundle, base_name)
        record = bundle_record(source, TARGET, None)
        files = [entry.to_dict() for entry in bundle.manifest()]
        record["adapters"] = [{**record["adapters"][0], "path": ".", "files": files}]
        bundle.write(RECORD, sealed_bytes(record, bundle.manifest()))
        return bundle.manifest()


def write_plain(source: BundleSource, bundle: BundleFolder, base_name: str | None) -> int:
    """Write an adapter's two files in the form that every server computes alike; return the number of adapted modules."""
    base = base_architecture(source)
    require_shared_names(base, _SERVERS)
    (adapter,) = served_adapters(source, base).values()
    write_peft(bundle, adapter, named_base(source, base, base_name, _SERVERS).name, "")
    return len(adapter.modules)


def recorded_adapter(data: bytes) -> tuple[str, Manifest] | None:
    """Return the adapter's digest and the files that a `fusery.json` claims; None if it is not ours."""
    with suppress(FuseryError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        record = parse_json(data, RECORD)
        (adapter,) = record["adapters"]
        if record["target"] == TARGET and record[CHECKSUM] == checksum_of(record):
            listed = [
                FileEntry(safe_relative_path(file["path"]), int(file["size"]), parse_digest(file["sha256"]))
                for file in record["contents"]
            ]
            return parse_digest(adapter["digest"]), Manifest.of(listed)
    return None


_OURS = frozenset((CONFIG, PEFT_WEIGHTS, WEIGHTS, RECORD))
_TEMPORARY = ".fusery-"  # in the names of temporary folders


class AdapterFolders(ABC):
    """Folders of adapters, on this machine or in a bucket."""

    def __init__(self, workspace: Workspace, form: Form, base_name: str | None, text: str) -> None:
        self._workspace, self._form, self._base_name, self.text = workspace, form, base_name, text

    def require_base(self, desired: Desired) -> None:  # noqa: B027
        """Accept adapters of any base model: the server that reads the folders selects."""

    def bring(self, name: str, digest: str, *, announce: Callable[[], None]) -> None:
        """Write the adapter's folder."""
        place = self._place(name)
        with place.building() as folder:
            manifest = write_adapter(self._workspace, name, folder, self._form, base_name=self._base_name)
            # Another program may have written there meanwhile.
            occupied = place.occupied()
            if occupied and not self.standing((name,))[name].brought:
                raise AlreadyExistsError(f"something else has come to {self.text}/{name}")
            announce()
            place.publish(folder, manifest, replace=occupied)

    def in_the_way(self, name: str) -> str:
        """Return why a folder with an adapter's name cannot be replaced."""
        return "something else has its name there: other bytes, or without its fusery.json"

    def sweep(self, stay: Collection[str]) -> None:  # noqa: B027
        """Remove the temporary folders of interrupted commands."""

    def close(self) -> None:  # noqa: B027
        """Do nothing: a folder is no connection."""

    @abstractmethod
    def standing(self, names: Collection[str]) -> Mapping[str, Standing]:
        """Return the folders that hold adapters; those in `names` are compared with their records."""

    @abstractmethod
    def _place(self, name: str) -> Place:
        """Return an adapter's folder, below a folder that exists."""


class DiskFolders(AdapterFolders):
    """Folders below one on this machine."""

    def __init__(
        self,
        workspace: Workspace,
        root: Path,
        form: Form = "peft",
        base_name: str | None = None,
        place: str | None = None,
    ) -> None:
        super().__init__(workspace, form, base_name, place or on_this_machine(str(root)))
        self.root = root
        self._proven: dict[str, tuple[dict[str, FileState], str]] = {}

    def _place(self, name: str) -> Place:
        path = self.root / name
        if path.is_symlink():  # its target belongs to another program
            raise AlreadyExistsError(f"{path} is a symbolic link", hint=f"remove it: rm {typed(path)}")
        with os_failures(f"write {self.root}", near=self.root.parent):
            if not self.root.exists():
                self.root.mkdir(parents=True)
                self.root.chmod(FOLDER_MODE)  # servers read it, whatever this user's umask is
        return LocalFolder(path)

    def standing(self, names: Collection[str]) -> Mapping[str, Standing]:
        """Return the folders that hold adapters; files of those in `names` are hashed once while they do not change."""
        standings = {}
        with os_failures(f"read {self.root}", near=self.root):
            if not self.root.exists():
                return {}
            for path in sorted(self.root.iterdir()):
                try:
                    if path.name.startswith(".") or not path.is_dir():
                        continue
                    if path.name in names:
                        standings[path.name] = self._look(path)
                    elif (path / CONFIG).exists() or (path / RECORD).exists():
                        standings[path.name] = Standing(None, brought=False)
                except PermissionError:  # such as lost+found
                    if path.name in names:
                        raise
        return standings

    def digest_of(self, name: str) -> str | None:
        """Return the digest of the adapter in a folder; None without one, or if its files differ from its record."""
        path = self.root / name
        with os_failures(f"read {path}", near=self.root):
            return self._look(path).digest if path.is_dir() else None

    def _look(self, path: Path) -> Standing:
        record = path / RECORD
        if path.is_symlink() or not record.is_file():
            return Standing(None, brought=False)
        with opened(record) as file:
            recorded = recorded_adapter(file.read(MOST_RECORD) or b"")
        if recorded is None:
            return Standing(None, brought=False)
        digest, manifest = recorded
        if {entry.path for entry in manifest} - {RECORD} != set(FORM_FILES[self._form]):
            return Standing(None, brought=True)  # in the form for another kind of server
        if self._base_name:
            # vLLM's resolver passes over adapters whose configuration names another base.
            named = None
            with suppress(StorageError):
                named = read_object(path / CONFIG).get("base_model_name_or_path")
            if named != self._base_name:
                return Standing(None, brought=True)
        states = folder_state(path) or {}
        if self._proven.get(path.name) != (states, digest):
            listed = {entry.path: entry for entry in manifest if entry.path != RECORD}
            sizes = {name: size for name, (size, *_) in states.items() if name != RECORD}
            if sizes != {name: entry.size for name, entry in listed.items()} or any(
                digest_file(path / name)[0] != entry.sha256 for name, entry in listed.items()
            ):
                return Standing(None, brought=True)
            self._proven[path.name] = states, digest
        return Standing(digest, brought=True)

    def take_away(self, name: str) -> None:
        """Remove the folder in one step."""
        path, prefix = self.root / name, f".{name}{_TEMPORARY}{process_tag()}-"
        if not os.path.lexists(path):
            return
        with os_failures(f"remove {path}", near=self.root):
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self.root))
            removed = folder / "gone"
            try:
                path.rename(removed)
                if not self._look(removed).brought:
                    # Another program has replaced it since it was compared.
                    raise AlreadyExistsError(f"something else has come to {path}")
            except FileNotFoundError:
                pass  # another program has removed it
            except BaseException:
                if removed.exists():
                    removed.rename(path)
                folder.rmdir()
                raise
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, stay: Collection[str]) -> None:
        """Remove the temporary folders of killed commands."""
        sweep_temporary(self.root, f".*{_TEMPORARY}")


class BucketFolders(AdapterFolders):
    """Folders below a URL, judged by names and sizes of files, and by `fusery.json`."""

    def __init__(
        self, workspace: Workspace, url: str, base_name: str | None = None, place: str | None = None
    ) -> None:
        whole = RemoteFolder(workspace, url)
        whole.refuse_ours(workspace)
        super().__init__(workspace, "peft", base_name, place or whole.text)
        self._url = url.rstrip("/")
        self._tree = open_tree(url, options=workspace.settings.options_at(url))

    def _place(self, name: str) -> Place:
        return RemoteFolder(self._workspace, f"{self._url}/{name}")

    def standing(self, names: Collection[str]) -> Mapping[str, Standing]:
        """Return the folders that hold adapters."""
        standings = {}
        for name, sizes in self._listed().items():
            if name in names:
                standings[name] = self._look(name, sizes)
            elif CONFIG in sizes or RECORD in sizes:
                standings[name] = Standing(None, brought=False)
        return standings

    def _listed(self) -> Mapping[str, Mapping[str, int]]:
        listed: dict[str, dict[str, int]] = defaultdict(dict)
        for path, size in self._tree.sizes().items():
            name, slash, inner = path.partition("/")
            if slash:
                listed[name][inner] = size
        return listed

    def _look(self, name: str, sizes: Mapping[str, int]) -> Standing:
        if RECORD not in sizes or sizes[RECORD] > MOST_RECORD:
            # A killed command leaves some files without the record.
            return Standing(None, brought=sizes.keys() <= _OURS)
        with self._workspace.cache.scratch() as scratch:
            path = scratch / RECORD
            self._tree.fetch(f"{name}/{RECORD}", sizes[RECORD], path)
            recorded = recorded_adapter(path.read_bytes())
        if recorded is None:
            return Standing(None, brought=False)
        digest, manifest = recorded
        listed = {entry.path: entry.size for entry in manifest}
        payload_sizes = {inner: size for inner, size in sizes.items() if inner != RECORD}
        return Standing(digest if payload_sizes == listed else None, brought=True)

    def take_away(self, name: str) -> None:
        """Remove the files: the configuration first, by which servers know an adapter, and the record last."""
        inside = self._listed().get(name, {})
        for inner in sorted(inside, key=lambda file: (file != CONFIG, file == RECORD)):
            self._tree.remove(f"{name}/{inner}")


def bundle_root(workspace: Workspace, path: Path) -> Path:
    """Return a folder as an absolute path; refuse the registry's own folders."""
    folder = LocalFolder(path)
    folder.refuse_ours(workspace)
    return folder.path
