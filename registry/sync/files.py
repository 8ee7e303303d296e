"""One adapter's files as servers load them: a folder with two files, and `fusery.json`, which says what it is."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import parse_digest
from fusery.storage.errors import FuseryError
from fusery.storage.jsonfile import parse_json
from fusery.storage.manifest import FileEntry, Manifest, safe_relative_path

from ..adapters.render import Form
from ..bundles.record import bundle_record, sealed_bytes
from ..bundles.servers import base_architecture, named_base, require_shared_names, served_adapters, write_peft
from ..bundles.sources import adapters_source
from ..bundles.writing import BundleFolder
from ..documents import CHECKSUM, RECORD, checksum_of

if TYPE_CHECKING:
    from ..bundles.source import BundleSource
    from ..workspace import Workspace

TARGET = "adapter"
"""What `fusery.json` says that the folder is for."""

MOST_RECORD = 4 << 20
"""Bytes of a `fusery.json` that are read."""

_SERVERS = "a server"


def write_adapter(
    workspace: Workspace, name: str, folder: Path, form: Form, *, base_name: str | None = None
) -> Manifest:
    """Fill an empty folder with an adapter and its record; the same adapter gives the same bytes.

    Args:
        workspace: the registry's parts.
        name: of the adapter.
        folder: exists and is empty.
        form: `mlx` for our server, `peft` for all others: then as every one of them computes it alike, each of its modules
            held against the base.
        base_name: what the base is called where it is served; None for its own name.

    Returns:
        What was written.

    Raises:
        BadInputError: the adapter is yanked, or one that servers pass over or compute otherwise: they would say nothing.
    """
    with adapters_source(workspace, [name], form, with_base=False) as gathered:
        source = gathered.source
        source.check()
        bundle = BundleFolder(folder)
        if form == "mlx":
            bundle.copy(source.adapters[0].files)
        else:
            write_plain(source, bundle, base_name)
        bundle.write(RECORD, sealed_bytes(_record(source, bundle), bundle.manifest()))
        return bundle.manifest()


def write_plain(source: BundleSource, bundle: BundleFolder, base_name: str | None) -> int:
    """Write an adapter's two files as every server computes them alike; return how many modules of the base it changes.

    Raises:
        BadInputError: it is one that servers pass over or compute otherwise, or has a module that the base does not have.
    """
    base = base_architecture(source)
    require_shared_names(base, _SERVERS)
    (served,) = served_adapters(source, base)
    write_peft(bundle, served, named_base(source, base, base_name, _SERVERS).name, under="")
    return len(served.plain.modules)


def _record(source: BundleSource, bundle: BundleFolder) -> dict[str, Any]:
    record = bundle_record(source, TARGET, None)
    files = [entry.to_dict() for entry in bundle.manifest()]
    return {**record, "adapters": [{**record["adapters"][0], "path": ".", "files": files}]}


def recorded_adapter(data: bytes) -> tuple[str, Manifest] | None:
    """Return the digest of the adapter that a `fusery.json` is about, and the files that it lists; None if it is not ours.

    What it says is a claim: whoever can write to the folder can write it.
    """
    with suppress(FuseryError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        record = parse_json(data, RECORD)
        (adapter,) = record["adapters"]
        if record["target"] == TARGET and record[CHECKSUM] == checksum_of(record):
            listed = [_entry(each) for each in record["contents"]]
            return parse_digest(adapter["digest"]), Manifest.of(listed)
    return None


def _entry(told: Any) -> FileEntry:
    return FileEntry(safe_relative_path(told["path"]), int(told["size"]), parse_digest(told["sha256"]))
