"""A tag in an OCI registry: `oci://REGISTRY/REPOSITORY:TAG`, which a bundle of the target `oci` is pushed to.

The protocol is that of the OCI distribution specification 1.1 (push: POST and PUT of each blob, then PUT of the manifest);
oras speaks it, with the tokens that registries hand out.  What oras has for whole uploads reads a file into memory and
writes the manifest anew, which changes its digest, so the blobs are streamed and the manifest is sent as it is.

Credentials are `FUSERY_OCI_USERNAME` and `FUSERY_OCI_PASSWORD`, or else those in docker's configuration for the registry (`docker login`,
`podman login`, a credential helper); `DOCKER_CONFIG` says where that is.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.registry.bundles.delivery import Place, Progress
from fusery.registry.errors import BadInputError, MissingExtraError
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import StoreDeniedError, StoreUnavailableError
from fusery.storage.jsonfile import read_object
from fusery.storage.manifest import Manifest
from fusery.storage.progress import tally
from fusery.storage.secrets import remember, without_secrets

from .oci import ARTIFACT_TYPE, BLOBS, MANIFEST_TYPE

if TYPE_CHECKING:
    from fusery.registry.workspace.workspace import Workspace

_ATTEMPTS = 4
_TIMEOUT = (10, 300)
"""Seconds to connect, and between two signs of life: a registry hashes a large blob before it answers."""
_LARGEST_MANIFEST = 4 << 20
"""What the distribution specification asks registries to take at least, and the most that is read here."""

_ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"


class RegistryClient:
    """One repository of a registry."""

    def __init__(self, registry: str, repository: str) -> None:
        """Find the credentials; no request is made yet."""
        try:
            import oras.client
            import oras.container
            import oras.logger
            import requests
        except ImportError as error:
            raise MissingExtraError("an OCI registry", "oci") from error
        # Its own logger writes to standard error, also what a server said; failures are told in our words.
        oras.logger.setup_logger(quiet=True)
        self._failures = (requests.RequestException, ValueError, KeyError, OSError)
        self._registry, self._repository = registry, repository
        # As docker has it: a registry on this machine needs no certificate.
        host = registry.rpartition(":")[0] or registry
        insecure = host in ("localhost", "127.0.0.1")
        self._client = oras.client.OrasClient(hostname=registry, insecure=insecure)
        # oras tries everything again for minutes, also what was denied; here, what failed is tried again, and by us.
        request = type(self._client).do_request
        self._request: Callable[..., Any] = partial(getattr(request, "__wrapped__", request), self._client)
        # It waits for an answer for ever.
        self._client.session.request = partial(self._client.session.request, timeout=_TIMEOUT)
        self._container = oras.container.Container(f"{registry}/{repository}:latest")
        self._url = f"{'http' if insecure else 'https'}://{registry}/v2/{repository}"
        self._root = f"{'http' if insecure else 'https'}://{registry}/v2/"
        self._log_in()

    def _log_in(self) -> None:
        auth = self._client.auth
        user, password = (os.environ.get(f"FUSERY_OCI_{name}", "") for name in ("USERNAME", "PASSWORD"))
        if user and password:
            auth.set_basic_auth(user, password)
        else:
            folder = os.environ.get("DOCKER_CONFIG")
            own = [str(Path(folder) / "config.json")] if folder else None
            try:
                auth.load_configs(self._container, own)
            except (*self._failures, AttributeError, TypeError) as error:  # not JSON, or not of docker's form
                raise StoreDeniedError(
                    f"docker's configuration has no credentials for {self._registry} that can be read",
                    hint=f"docker login {self._registry}",
                ) from without_secrets(error)
        basic = getattr(auth, "_basic_auth", None)
        remember({"password": password, "basic": basic or ""})
        if self._wants_basic():
            # oras takes every registry for one that hands out tokens.
            self._client.session.headers.update({"Authorization": f"Basic {basic}"} if basic else {})
            self._request = self._plainly

    def _plainly(self, url: str, method: str, **options: Any) -> Any:
        return self._client.session.request(method, url, **options)

    def _wants_basic(self) -> bool:
        try:
            reply = self._client.session.get(self._root)
        except self._failures as error:
            raise self._unavailable(error) from without_secrets(error)
        asked = str(reply.headers.get("Www-Authenticate", ""))
        return bool(reply.status_code == 401) and asked.lower().startswith("basic")

    def manifest(self, tag: str) -> bytes | None:
        """Return a tag's manifest as it is; None if there is no such tag."""
        reply = self._ask("GET", f"/manifests/{tag}", headers={"Accept": _ACCEPT})
        if reply.status_code == 404:
            return None
        self._require(reply, 200, "the manifest")
        content: bytes = reply.content[: _LARGEST_MANIFEST + 1]
        return content

    def has(self, digest: str) -> bool:
        """Tell whether a blob is in the repository."""
        reply = self._ask("HEAD", f"/blobs/{digest}")
        if reply.status_code not in (200, 404):
            self._require(reply, 200, "a blob")
        return bool(reply.status_code == 200)

    def upload(self, path: Path, descriptor: Mapping[str, Any]) -> None:
        """Send a blob, from its file and not from memory; the registry checks its digest."""

        def send() -> Any:
            # An upload that was cut off cannot be gone on with here: it is begun anew.
            reply = self._ask("POST", "/blobs/uploads/", headers={"Content-Length": "0"})
            self._require(reply, 202, "an upload")
            place = reply.headers.get("Location", "")
            url = place if "://" in place else f"{self._root.removesuffix('/v2/')}{place}"
            joined = f"{url}{'&' if '?' in url else '?'}digest={descriptor['digest']}"
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor["size"])}
            with path.open("rb") as file:
                return self._request(joined, "PUT", data=file, headers=headers)

        self._require(self._patiently(send), 201, "a blob")

    def put_manifest(self, tag: str, content: bytes, media_type: str) -> None:
        """Give a tag to a manifest, and make sure that the registry took it for what it is."""
        reply = self._ask("PUT", f"/manifests/{tag}", data=content, headers={"Content-Type": media_type})
        self._require(reply, 201, "the manifest")
        found = self.manifest(tag)
        if found is None or digest_bytes(found) != digest_bytes(content):
            raise StoreUnavailableError(f"the registry {self._registry} changed the manifest that was pushed")

    def _ask(self, method: str, path: str, **options: Any) -> Any:
        return self._patiently(lambda: self._request(f"{self._url}{path}", method, **options))

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """Return a reply; the registry is asked again while it does not answer, or says that the failure is its own."""
        import tenacity

        def may_pass(error: BaseException) -> bool:
            return isinstance(error, self._failures) and not _is_denial(error)

        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(may_pass) | tenacity.retry_if_result(_is_its_own),
            wait=tenacity.wait_exponential(),
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            # The last reply or the last failure, as it is.
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        try:
            return again(ask)
        except self._failures as error:
            raise (self._denied() if _is_denial(error) else self._unavailable(error)) from without_secrets(
                error
            )

    def _require(self, reply: Any, expected: int, what: str) -> None:
        if reply.status_code in (401, 403):
            raise self._denied()
        if reply.status_code != expected:
            raise StoreUnavailableError(
                f"the registry {self._registry} answered {reply.status_code} when it was asked for {what}"
            )

    def _denied(self) -> StoreDeniedError:
        return StoreDeniedError(
            f"the registry {self._registry} does not let this user into {self._repository}",
            hint=f"docker login {self._registry}, or set FUSERY_OCI_USERNAME and FUSERY_OCI_PASSWORD",
        )

    def _unavailable(self, error: BaseException) -> StoreUnavailableError:
        logging.getLogger(__name__).debug("%s", type(error).__name__)
        return StoreUnavailableError(
            f"the registry {self._registry} did not answer: {type(error).__name__}", hint="try again later"
        )


def _is_denial(error: BaseException) -> bool:
    # All that oras says of it.
    return isinstance(error, ValueError) and "authentication" in str(error)


def _is_its_own(reply: Any) -> bool:
    return bool(reply.status_code >= 500)


_REFERENCE = re.compile(
    r"oci://(?P<registry>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?(?::[0-9]{1,5})?)"
    r"/(?P<repository>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r":(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})"
)
"""The names that the distribution specification allows, with a tag that is not left to a default."""


class RegistryPlace(Place):
    """A tag.  A push makes blobs that nothing refers to, until the manifest takes the tag in one step."""

    def __init__(self, workspace: Workspace, url: str) -> None:
        """Name the place; no request is made yet."""
        match = _REFERENCE.fullmatch(url)
        if match is None:
            raise BadInputError(
                "the URL names no tag in an OCI registry",
                hint="give oci://REGISTRY/REPOSITORY:TAG, in lower case",
            )
        self._cache = workspace.cache
        self._registry, self._repository, self._tag = match["registry"], match["repository"], match["tag"]
        self.text, self.name = url, f"{match['repository'].rpartition('/')[2]}:{match['tag']}"

    @cached_property
    def _client(self) -> RegistryClient:
        return RegistryClient(self._registry, self._repository)

    def require_free(self, force: bool) -> None:
        """Refuse a tag of something that is no model; a model may be this very bundle, and is compared later."""
        if force:
            return
        found = self._client.manifest(self._tag)
        if found is not None and _artifact_type(found) != ARTIFACT_TYPE:
            raise self.taken()

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
