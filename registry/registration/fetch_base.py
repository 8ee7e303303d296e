"""Fetching the source of a base model: a folder, a hub id or a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fusery.storage.digest import digest_file
from fusery.storage.errors import MissingFileError

from ..errors import BadInputError, MissingExtraError
from ..names import is_hub_id

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
        yield _from_hub(source, revision, say)
    else:
        raise MissingFileError(
            f"file or folder not found: {source}",
            hint="give a model folder, a GGUF file, or a hub id such as mlx-community/Qwen2-0.5B-4bit",
        )


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


def _from_hub(source: str, revision: str | None, say: Callable[[str], None]) -> FetchedBase:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError(f"{source} is not a local path, and fetching it from a hub", "hub") from error
    say(f"fetching {source}")
    patterns = ["*.json", "model*.safetensors", "*.jinja", "tokenizer*", "*.txt", "*.model", "LICENSE*"]
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except transport_errors() as error:
        raise BadInputError(
            f"{source} could not be fetched from the hub: {reason_of(error)}",
            hint=f"if a local folder is meant, it does not exist: {source}; check the name, HF_TOKEN and the network",
        ) from error
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
