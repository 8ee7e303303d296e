"""Fetching base models and adapters: from folders, the hub, GGUF files, a team's bucket, and uploads to a server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fusery.storage.copying import copy_file
from fusery.storage.digest import Digest, digest_file, parse_digest
from fusery.storage.errors import FuseryError, MissingFileError, UnsafePathError
from fusery.storage.folder import scan
from fusery.storage.interface import Blob
from fusery.storage.manifest import safe_relative_path

from ..adapters import CHECKPOINT, CONFIG, LOG_NAME, METADATA, PEFT_WEIGHTS, RUN_RECORD, STATE, WEIGHTS
from ..adapters.tokenizer_files import is_tokenizer_file
from ..errors import BadInputError, BlobsMissingError, MissingExtraError
from ..names import is_hub_id
from ..parsing import plural
from ..workspace.workspace import Workspace

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*", re.DOTALL)
_HUB = re.compile(
    r"hf://(?P<id>[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})(?:@(?P<revision>[A-Za-z0-9][\w./-]{0,99}))?"
)
_CHECKPOINT = re.compile(r"(?:checkpoint-[0-9]{1,10}|best)/")
_WANTED = re.compile(
    rf"(?:{_CHECKPOINT.pattern})?(?:{'|'.join(map(re.escape, (WEIGHTS, PEFT_WEIGHTS, CONFIG, METADATA, STATE, RUN_RECORD)))})"
    r"|[0-9]{7,10}_adapters\.safetensors"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_FILES = 10_000
_MOST_BYTES = 256 << 30  # more is a mistake: checkpoints of a large adapter are some gigabytes each


def is_wanted(name: str) -> bool:
    """Tell whether a path in a folder is one that an adapter or a run has."""
    own = name[match.end() :] if (match := _CHECKPOINT.match(name)) else name
    return bool(_WANTED.fullmatch(name) or LOG_NAME.fullmatch(name)) or is_tokenizer_file(own)


@contextmanager
def adapter_at(workspace: Workspace, source: str | Path) -> Iterator[Path]:
    """Yield a local folder with the files at a path, at `hf://OWNER/NAME[@REVISION]` or at a bucket's URL."""
    text = str(source)
    if isinstance(source, Path) or _SCHEME.fullmatch(text) is None:
        yield Path(text).expanduser()
        return
    from fusery.storage.locate import local_path

    if text.lower().startswith("hf://"):
        with workspace.scratch() as scratch:
            yield _from_hub(text, scratch)
    elif (local := local_path(text)) is not None:
        yield local
    else:
        with workspace.scratch() as scratch:
            yield _from_bucket(workspace, text if text.endswith("://") else text.rstrip("/"), scratch)


def _from_hub(url: str, scratch: Path) -> Path:
    match = _HUB.fullmatch(url)
    if match is None or ".." in url:
        hint = "give hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
        raise BadInputError("the URL names no model's repository", hint=hint)
    from fusery.storage.secrets import remember, without_secrets

    try:
        from huggingface_hub import HfApi, get_token
    except ImportError as error:
        raise MissingExtraError("a hub", "hub") from error
    remember({"token": get_token() or ""})
    repository, folder = match["id"], scratch / match["id"].rpartition("/")[2]
    try:
        api = HfApi()
        # One answer has it all: pages would be asked for wherever the hub says that the next one is.
        model_info = api.model_info(repository, revision=match["revision"], files_metadata=True)
        commit = model_info.sha
        sizes = {sibling.rfilename: sibling.size for sibling in model_info.siblings or ()}
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            message = f"the hub does not say at which commit {repository} is"
            raise BadInputError(message, hint="try again later")
        for name in wanted(sizes, url, scratch):
            api.hf_hub_download(repository, name, revision=commit, local_dir=folder)
    except FuseryError:
        raise
    except transport_errors() as error:
        message = f"{repository} could not be fetched from the hub: {reason_of(error)}"
        hint = "check the name, the revision, HF_TOKEN and the network"
        raise BadInputError(message, hint=hint) from without_secrets(error)
    return folder


def _from_bucket(workspace: Workspace, url: str, scratch: Path) -> Path:
    from fusery.storage.locate import display_url, open_tree

    tree = open_tree(url, options=workspace.settings.options_at(url))
    shown = display_url(url)
    sizes = tree.sizes()
    if not sizes:
        raise MissingFileError(f"there is nothing at {shown}", hint="give the URL of an adapter's folder")
    # The name of a checkpoint's folder says nothing of the adapter; that of the run's does.
    parts = shown.split("/")[-2:]
    folder = scratch.joinpath(*parts) if CHECKPOINT.fullmatch(parts[-1]) else scratch / parts[-1]
    for name in wanted(sizes, shown, scratch):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        tree.fetch(name, sizes[name], place)
    return folder


def wanted(sizes: Mapping[str, Any], shown: str, scratch: Path) -> list[str]:
    """Return the names that are to be fetched; each is a file of an adapter or a run, within the folder."""
    from fusery.storage.transfer import Need, require_rooms

    names = sorted(name for name in sizes if isinstance(name, str) and is_wanted(name))
    if not all(isinstance(sizes[name], int) and sizes[name] >= 0 for name in names):
        raise BadInputError(f"it is not said how large the files at {shown} are", hint="try again later")
    if not any(name.endswith((WEIGHTS, PEFT_WEIGHTS)) for name in names):
        hint = "give the folder that holds them, or that of a run with its checkpoints"
        message = f"there is no adapter at {shown}: neither {WEIGHTS} nor {PEFT_WEIGHTS}"
        raise BadInputError(message, hint=hint)
    total = sum(sizes[name] for name in names)
    if len(names) > _MOST_FILES or total > _MOST_BYTES:
        message = f"there are {len(names):,} files with {total:,} bytes at {shown}"
        raise BadInputError(message, hint="give the folder of one run")
    require_rooms([Need(scratch, [sizes[name] for name in names])])
    return names


LOG = "log/"  # the prefix of a training log that is outside the folder
_MOST_SENT = 1_000
_MOST_SENT_BYTES = 8 << 30


def files_to_send(folder: Path, log: Path | None) -> dict[str, Path]:
    """Return the files of a folder that `register` reads, by relative path, and the training log."""
    if not folder.is_dir():
        from ..adapters.folder import read_adapter_folder

        read_adapter_folder(folder)  # raises the error
    files = {file.path: file.real for file in scan(folder) if is_wanted(file.path)}
    return files if log is None else {**files, f"{LOG}{log.name}": log}


@contextmanager
def uploaded(workspace: Workspace, name: str, files: Mapping[str, str]) -> Iterator[tuple[Path, Path | None]]:
    """Yield a temporary folder with uploaded files, and the training log if it was uploaded."""
    from fusery.storage.transfer import Need, require_rooms

    digests = _checked(name, files)
    blobs = _blobs(workspace, set(digests.values()))
    if missing := [path for path, digest in digests.items() if digest not in blobs]:
        message = f"{plural(len(missing), 'file')} of this adapter not uploaded, such as {missing[0]}"
        raise BlobsMissingError(message, hint="run the command again")
    sizes = [blob.size for blob in blobs.values()]
    if sum(sizes) > _MOST_SENT_BYTES:
        raise BadInputError("adapter folder is too large (at most 8 GiB)", hint="give the folder of one run")
    with workspace.scratch() as scratch:
        require_rooms([Need(scratch, sizes)])
        folder, log = scratch / "sent" / name, None
        written = dict[Digest, Path]()
        folder.mkdir(parents=True)
        for path, digest in digests.items():
            place = folder / path
            if path.startswith(LOG):
                place = log = scratch / "log" / path.removeprefix(LOG)
            place.parent.mkdir(parents=True, exist_ok=True)
            if digest in written:  # a client may name one blob a thousand times
                copy_file(written[digest], place, link=True)
                continue
            blob = blobs[digest]
            workspace.store.fetch(digest, place, generation=blob.generation, size=blob.size)
            written[digest] = place
        yield folder, log


def _checked(name: str, files: Mapping[str, str]) -> dict[str, Digest]:
    if not _is_plain(name) or len(files) > _MOST_SENT:
        message = f"invalid adapter folder (its name is invalid, or it has more than {_MOST_SENT:,} files)"
        raise BadInputError(message, hint="give the folder of one run")
    digests = {}
    for path, digest in files.items():
        if not (is_wanted(path) or (path.startswith(LOG) and _is_plain(path.removeprefix(LOG)))):
            raise BadInputError(f"unexpected file: {path[:80]!r}", hint="update the client")
        try:
            digests[path] = parse_digest(digest)
        except ValueError as error:
            raise BadInputError(f"invalid digest: {digest[:80]!r}", hint="update the client") from error
    return digests


def _is_plain(name: str) -> bool:
    """Return whether a text is a valid name of a file or folder, without a path."""
    try:
        return "/" not in safe_relative_path(name) and len(name) <= 200
    except UnsafePathError:
        return False


def _blobs(workspace: Workspace, digests: set[Digest]) -> dict[Digest, Blob]:
    from sqlalchemy import select

    from .. import tables
    from ..database.engine import batches

    row, blobs = tables.BlobRow, dict[Digest, Blob]()
    query = select(row.digest, row.size, row.generation).where(row.state == "ready")
    with workspace.database.read() as session:
        for some in batches(digests):
            for digest, size, generation in session.execute(query.where(row.digest.in_(some))):
                blobs[Digest(digest)] = Blob(Digest(digest), size, generation)
    return blobs


Scratch = Callable[[], AbstractContextManager[Path]]


@dataclass(frozen=True, slots=True)
class FetchedBase:
    """A base model's files on this machine; a `durable` folder is the user's and stays, another is temporary."""

    folder: Path
    source: str  # as recorded: `folder:NAME`, `hub:ORG/NAME` or `gguf:FILE`
    revision: str  # the hub's commit, the SHA-256 of a GGUF file, or empty
    name: str  # the default name
    durable: bool


@contextmanager
def fetched(
    source: str, *, revision: str | None, scratch: Scratch, say: Callable[[str], None]
) -> Iterator[FetchedBase]:
    """Yield a source's files as a local folder; temporary files are removed afterwards."""
    path = Path(source).expanduser()
    is_hub = not path.exists() and is_hub_id(source)
    if revision and not is_hub:
        raise BadInputError("--revision is for hub ids only", hint="leave it out for a local folder or file")
    if path.is_dir():
        resolved = path.resolve()
        yield FetchedBase(path.absolute(), f"folder:{resolved.name}", "", resolved.name, durable=True)
    elif path.is_file():
        yield from _from_gguf(path, scratch, say)
    elif is_hub:
        yield _base_from_hub(source, revision, say)
    else:
        hint = "give a model folder, a GGUF file, or a hub id such as mlx-community/Qwen2-0.5B-4bit"
        raise MissingFileError(f"file or folder not found: {source}", hint=hint)


def _from_gguf(path: Path, scratch: Scratch, say: Callable[[str], None]) -> Iterator[FetchedBase]:
    from ..models.gguf_convert import convert_gguf, is_gguf

    if not is_gguf(path):
        raise BadInputError(f"{path.name} is not a GGUF file", hint="give the folder that holds config.json")
    for package in ("gguf", "tokenizers"):
        # Said before minutes of reading, and before anything about the file itself.
        if find_spec(package) is None:
            raise MissingExtraError("reading a GGUF file", "gguf")
    with scratch() as folder:
        say(f"converting {path.name}")
        convert_gguf(path, folder)
        stem = re.sub(r"\.(Q\d[\w]*|F16|F32|BF16|gguf)$", "", path.stem, flags=re.IGNORECASE)
        # By which the file is known again: it is the base's source, though none of its bytes are kept.
        digest, _ = digest_file(path)
        yield FetchedBase(folder, f"gguf:{path.name}", digest, stem, durable=False)


def _base_from_hub(source: str, revision: str | None, say: Callable[[str], None]) -> FetchedBase:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError(f"{source} is not a local path, and fetching it from a hub", "hub") from error
    say(f"fetching {source}")
    patterns = ["*.json", "model*.safetensors", "*.jinja", "tokenizer*", "*.txt", "*.model", "LICENSE*"]
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except transport_errors() as error:
        message = f"{source} could not be fetched from the hub: {reason_of(error)}"
        hint = f"there is no local folder {source}; check the name, HF_TOKEN and the network"
        raise BadInputError(message, hint=hint) from error
    # A snapshot's folder is named by its commit.
    return FetchedBase(folder, f"hub:{source}", folder.name, source, durable=True)


def transport_errors() -> tuple[type[Exception], ...]:
    """Return the base class of what huggingface_hub's HTTP library raises, whichever that is, and what the client itself does."""
    from huggingface_hub.errors import HfHubHTTPError

    names = ("HTTPError", "RequestException")
    theirs = tuple(error_class for error_class in HfHubHTTPError.__mro__[1:] if error_class.__name__ in names)
    # The last are what an answer of another shape than the client expects ends in.
    return (OSError, RuntimeError, ValueError, *theirs, LookupError, TypeError, AttributeError, OverflowError)


def reason_of(error: Exception) -> str:
    """Return in a few words why something could not be fetched; texts of theirs may hold a token."""
    name = type(error).__name__
    # What the client raises where it got no answer, and looked for a copy that it had fetched before.
    return "it was not reached" if name == "LocalEntryNotFoundError" else name
