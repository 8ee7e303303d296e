"""Where an adapter's folder can lie besides this machine: in a repository of the hub, and in a team's bucket.

Only what an adapter or a run is made of is fetched, into a folder with the place's name that goes away afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.errors import FuseryError, MissingFileError

from ..adapters.files import CHECKPOINT, CONFIG, LOG_NAME, METADATA, PEFT_WEIGHTS, RUN_RECORD, WEIGHTS
from ..adapters.tokenizer_files import is_tokenizer_file
from ..errors import BadInputError, MissingExtraError
from ..training.trainer_state import STATE

if TYPE_CHECKING:
    from ..workspace import Workspace

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
_MOST_BYTES = 256 << 30
"""More is a mistake: checkpoints of a large adapter are some gigabytes each."""


def _is_tokenizer_file(name: str) -> bool:
    return is_tokenizer_file(name[match.end() :] if (match := _CHECKPOINT.match(name)) else name)


def is_wanted(name: str) -> bool:
    """Tell whether a path in a folder is one that an adapter or a run has."""
    return bool(_WANTED.fullmatch(name) or LOG_NAME.fullmatch(name)) or _is_tokenizer_file(name)


@contextmanager
def adapter_at(workspace: Workspace, source: str | Path) -> Iterator[Path]:
    """Yield a local folder with what lies at a path, at `hf://OWNER/NAME[@REVISION]` or at a bucket's URL.

    Args:
        workspace: the registry's parts; the options of its store go to the same server.
        source: the place.

    Raises:
        BadInputError: it is a URL of no such place, there is no adapter, or the hub does not give it.
        MissingExtraError: the packages for it are not installed.
        StorageError: the bucket cannot be read, or there is no room here.
    """
    text = str(source)
    if isinstance(source, Path) or _SCHEME.fullmatch(text) is None:
        yield Path(text).expanduser()
        return
    from fusery.storage.locate import local_path

    from ..records.scratch import scratch_folder

    if text.lower().startswith("hf://"):
        with scratch_folder(workspace) as scratch:
            yield _from_hub(text, scratch)
    elif (local := local_path(text)) is not None:
        yield local
    else:
        with scratch_folder(workspace) as scratch:
            yield _from_bucket(workspace, text if text.endswith("://") else text.rstrip("/"), scratch)


def _from_hub(url: str, scratch: Path) -> Path:
    match = _HUB.fullmatch(url)
    if match is None or ".." in url:
        raise BadInputError(
            "the URL names no model's repository", hint="give hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
        )
    from fusery.storage.secrets import remember, without_secrets

    from ..bases.hub import reason_of, transport_errors

    try:
        from huggingface_hub import HfApi, get_token
    except ImportError as error:
        raise MissingExtraError("a hub", "hub") from error
    remember({"token": get_token() or ""})
    repository, folder = match["id"], scratch / match["id"].rpartition("/")[2]
    try:
        api = HfApi()
        # One answer has it all: pages would be asked for wherever the hub says that the next one is.
        told = api.model_info(repository, revision=match["revision"], files_metadata=True)
        commit = told.sha
        sizes = {each.rfilename: each.size for each in told.siblings or ()}
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise BadInputError(
                f"the hub does not say at which commit {repository} is", hint="try again later"
            )
        for name in wanted(sizes, url, scratch):
            api.hf_hub_download(repository, name, revision=commit, local_dir=folder)
    except FuseryError:
        raise
    except transport_errors() as error:
        raise BadInputError(
            f"{repository} could not be fetched from the hub: {reason_of(error)}",
            hint="check the name, the revision, HF_TOKEN and the network",
        ) from without_secrets(error)
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
    """Return the names that are to be fetched; each is one that an adapter or a run has, and leads nowhere else.

    Args:
        sizes: of what lies there, in bytes, by path in the folder.
        shown: the place, for messages.
        scratch: the folder that they are fetched into.

    Raises:
        BadInputError: there is no adapter, absurdly much, or it is not said how much.
        OutOfSpaceError: there is no room for them.
    """
    from fusery.storage.room import Need, require_rooms

    names = sorted(name for name in sizes if isinstance(name, str) and is_wanted(name))
    if not all(isinstance(sizes[name], int) and sizes[name] >= 0 for name in names):
        raise BadInputError(f"it is not said how large the files at {shown} are", hint="try again later")
    if not any(name.endswith((WEIGHTS, PEFT_WEIGHTS)) for name in names):
        raise BadInputError(
            f"there is no adapter at {shown}: neither {WEIGHTS} nor {PEFT_WEIGHTS}",
            hint="give the folder that holds them, or that of a run with its checkpoints",
        )
    total = sum(sizes[name] for name in names)
    if len(names) > _MOST_FILES or total > _MOST_BYTES:
        raise BadInputError(
            f"there are {len(names):,} files with {total:,} bytes at {shown}",
            hint="give the folder of one run",
        )
    require_rooms([Need(scratch, [sizes[name] for name in names])])
    return names
