"""A model's repository on a hub: `hf://OWNER/NAME`, which a bundle of the target `hub` is uploaded to in one commit.

huggingface_hub does the requests and finds the token: `HF_TOKEN`, or the one of `hf auth login`.  A repository that does not
exist is created as private, since publishing is a decision of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.errors import StoreDeniedError, StoreUnavailableError
from fusery.storage.manifest import Manifest
from fusery.storage.secrets import remember, without_secrets

from ...bases.hub import transport_errors
from ...documents import RECORD
from ...errors import BadInputError, MissingExtraError
from .place import Place, Progress

if TYPE_CHECKING:
    from ...workspace import Workspace

_REPOSITORY = re.compile(r"hf://(?P<id>[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})")
_THEIRS = frozenset({".gitattributes"})
"""What a hub puts into a repository itself."""


class HubPlace(Place):
    """A repository's main branch."""

    single = False

    def __init__(self, workspace: Workspace, url: str) -> None:
        """Name the place; no request is made yet.

        Raises:
            BadInputError: it is no repository.
            MissingExtraError: huggingface_hub is not installed.
        """
        match = _REPOSITORY.fullmatch(url)
        if match is None or ".." in url:
            raise BadInputError("the URL names no model's repository", hint="give hf://OWNER/NAME")
        try:
            from huggingface_hub import HfApi, get_token
        except ImportError as error:
            raise MissingExtraError("a hub", "hub") from error
        self._cache, self._api, self._id = workspace.cache, HfApi(), match["id"]
        self._built: Path | None = None
        self.text, self.name = url, match["id"].rpartition("/")[2]
        remember({"token": get_token() or ""})

    def refuse_ours(self, workspace: Workspace) -> None:
        """Do nothing: nothing of the registry is on a hub."""

    def require_free(self, force: bool) -> None:
        """Refuse a repository that holds something, and no bundle."""
        found = self._files()
        if found and not force and RECORD not in found:
            raise self.taken()

    @contextmanager
    def building(self) -> Iterator[Path]:
        """Yield an empty folder in the cache."""
        with self._cache.scratch() as scratch:
            self._built = scratch / "bundle"
            self._built.mkdir()
            yield self._built

    def occupied(self) -> bool:
        """Tell whether there are files."""
        return bool(self._files())

    def holds(self, manifest: Manifest) -> bool:
        """Compare sizes and digests: a large file has its SHA-256 there, a small one that of git, which is computed here."""
        found = self._files()
        if found.keys() != {entry.path for entry in manifest}:
            return False
        for entry in manifest:
            there = found[entry.path]
            if there.lfs is not None:
                if there.lfs.sha256 != entry.sha256:
                    return False
            elif self._built is None or there.blob_id != git_digest(self._built / entry.path):
                return False
        return True

    def publish(
        self, folder: Path, manifest: Manifest, *, replace: bool, progress: Progress | None = None
    ) -> None:
        """Make the repository if need be, and put all files into it by one commit, which also removes what was there."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        paths = {entry.path for entry in manifest}
        operations: list[Any] = [
            CommitOperationDelete(path_in_repo=path) for path in sorted(self._files().keys() - paths)
        ]
        operations += [
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=folder / path) for path in sorted(paths)
        ]
        with self._told():
            self._api.create_repo(self._id, private=True, exist_ok=True)
            self._api.create_commit(self._id, operations, commit_message=f"fusery: {self.name}")

    def _files(self) -> dict[str, Any]:
        """Return the repository's files by path, none if there is no such repository."""
        from huggingface_hub.errors import RepositoryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        with self._told():
            try:
                tree = list(self._api.list_repo_tree(self._id, recursive=True))
            except RepositoryNotFoundError:
                return {}  # or one that this user may not see: making it will tell
        return {each.path: each for each in tree if isinstance(each, RepoFile) and each.path not in _THEIRS}

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what a hub or the network says into a sentence of ours, without the URLs and headers in it."""
        from huggingface_hub.errors import HfHubHTTPError

        others = transport_errors()
        try:
            yield
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            if status in (401, 403, 404):
                raise StoreDeniedError(
                    f"the hub does not let this user write to {self._id}",
                    hint="hf auth login, or set HF_TOKEN to a token that may write",
                ) from without_secrets(error)
            raise StoreUnavailableError(f"the hub answered {status} for {self._id}") from without_secrets(
                error
            )
        except others as error:
            raise StoreUnavailableError(
                f"the hub did not take {self._id}: {type(error).__name__}", hint="try again later"
            ) from without_secrets(error)


def git_digest(path: Path) -> str:
    """Return the name that git gives to a file's content: SHA-1 of its kind, its size and itself."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
