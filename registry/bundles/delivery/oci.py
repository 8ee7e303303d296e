"""A tag in an OCI registry: `oci://REGISTRY/REPOSITORY:TAG`, which a bundle of the target `oci` is pushed to.

The protocol is that of the OCI distribution specification 1.1 (push: POST and PUT of each blob, then PUT of the manifest);
oras speaks it, with the tokens that registries hand out.  What oras has for whole uploads reads a file into memory and
writes the manifest anew, which changes its digest, so the blobs are streamed and the manifest is sent as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import digest_bytes
from fusery.storage.jsonfile import read_object
from fusery.storage.manifest import Manifest
from fusery.storage.progress import tally

from ...errors import BadInputError
from ..targets.oci import ARTIFACT_TYPE, BLOBS, MANIFEST_TYPE
from .place import Place, Progress

if TYPE_CHECKING:
    from ...workspace import Workspace
    from .oci_client import RegistryClient

SCHEME = "oci://"
_REFERENCE = re.compile(
    r"oci://(?P<registry>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?(?::[0-9]{1,5})?)"
    r"/(?P<repository>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r":(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})"
)
"""The names that the distribution specification allows, with a tag that is not left to a default."""


class RegistryPlace(Place):
    """A tag.  A push makes blobs that nothing refers to, until the manifest takes the tag in one step."""

    single = False

    def __init__(self, workspace: Workspace, url: str) -> None:
        """Name the place; no request is made yet.

        Raises:
            BadInputError: it is no tag.
        """
        match = _REFERENCE.fullmatch(url)
        if match is None:
            raise BadInputError(
                "the URL names no tag in an OCI registry",
                hint="give oci://REGISTRY/REPOSITORY:TAG, in lower case",
            )
        self._cache = workspace.cache
        self._client_made: RegistryClient | None = None
        self._registry, self._repository, self._tag = match["registry"], match["repository"], match["tag"]
        self.text, self.name = url, f"{match['repository'].rpartition('/')[2]}:{match['tag']}"

    @property
    def _client(self) -> RegistryClient:
        from .oci_client import RegistryClient

        if self._client_made is None:
            self._client_made = RegistryClient(self._registry, self._repository)
        return self._client_made

    def refuse_ours(self, workspace: Workspace) -> None:
        """Do nothing: nothing of fusery's registry is in a registry of images."""

    def require_free(self, force: bool) -> None:
        """Refuse a tag of something that is no model; a model may be this very bundle, and is compared later."""
        if force:
            return
        found = self._client.manifest(self._tag)
        if found is not None and _artifact_type(found) != ARTIFACT_TYPE:
            raise self.taken()

    @contextmanager
    def building(self) -> Iterator[Path]:
        """Yield an empty folder in the cache."""
        with self._cache.scratch() as scratch:
            folder = scratch / "bundle"
            folder.mkdir()
            yield folder

    def occupied(self) -> bool:
        """Tell whether the tag is taken."""
        return self._client.manifest(self._tag) is not None

    def holds(self, manifest: Manifest) -> bool:
        """Tell whether the tag's manifest is the bundle's, and its blobs are there: a registry takes none with another digest."""
        found = self._client.manifest(self._tag)
        if found is None or f"{BLOBS}{digest_bytes(found)}" not in {entry.path for entry in manifest}:
            return False
        return all(self._client.has(each["digest"]) for each in _descriptors(json.loads(found)))

    def publish(
        self, folder: Path, manifest: Manifest, *, replace: bool, progress: Progress | None = None
    ) -> None:
        """Push the blobs that the registry lacks, then the manifest under the tag."""
        (top,) = read_object(folder / "index.json")["manifests"]
        content = (folder / BLOBS / top["digest"].removeprefix("sha256:")).read_bytes()
        told = tally(progress, manifest.size)
        for each in _descriptors(json.loads(content)):
            if not self._client.has(each["digest"]):
                self._client.upload(folder / BLOBS / each["digest"].removeprefix("sha256:"), each)
            if told:
                told(each["size"])
        self._client.put_manifest(self._tag, content, MANIFEST_TYPE)


def _descriptors(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [manifest["config"], *manifest["layers"]]


def _artifact_type(content: bytes) -> Any:
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found.get("artifactType") if isinstance(found, dict) else None
