"""Servers that load adapters while they run: vLLM 0.33.0, SGLang 0.5.23, and fusery's own (`model_server/loading.py`)."""

from __future__ import annotations

import json
import os
import shlex
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusery.registry.adapters.render import Form
from fusery.registry.errors import BadInputError, ServerRefusedError
from fusery.registry.remote.address import ServerAddress, bearer_token, is_loopback
from fusery.registry.remote.client import HttpClient
from fusery.storage.digest import digest_bytes
from fusery.storage.errors import FuseryError
from fusery.storage.failures import os_failures
from fusery.storage.jsonfile import parse_json

from .folders import DiskFolders, bundle_root
from .plan import Desired, Standing, SyncRequest

if TYPE_CHECKING:
    from fusery.registry.workspace.workspace import Workspace

KEY = "FUSERY_SYNC_KEY"
"""The environment variable with the key of a server; `FUSERY_SYNC_KEY_FILE` names a file that has it."""

LOADING = 600.0  # seconds to load an adapter, or to finish the answers of one that is unloaded
KEPT = 3600.0  # seconds for which files stay after an unload, if the server may read them again
_LISTING = 30.0  # seconds to list the models
_MOST = 100_000  # models in a list


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of server; one that `rereads` may read an adapter's files again after it unloaded the adapter."""

    form: Form
    hint: str
    prefix: str = "/v1"
    rereads: bool = False


KINDS: Mapping[str, Kind] = {
    # It reads an evicted adapter from its folder again during a step, even for running answers of an unloaded adapter;
    # without the files, the engine ends.
    "vllm": Kind(
        "peft",
        "it has to be started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=true and --enable-lora",
        rereads=True,
    ),
    # It unloads an adapter after its answers, but a request for an unloaded one reads it again.
    "sglang": Kind("peft", "it has to be started with --enable-lora", prefix=""),
    "fusery": Kind("mlx", "--folder has to be the folder that it was started with: --adapters-from FOLDER"),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """The list of `/v1/models`: names and digest of the base model, and each adapter's folder and digest, if listed."""

    bases: frozenset[str]
    digest: str | None
    adapters: Mapping[str, tuple[str | None, str | None]]


class _Client(HttpClient):
    secret = "key"
    attempts = 3
    unavailable_hint = "check that it runs, and its address"
    login_hint = f"{KEY}, or {KEY}_FILE, has its key"


class ModelServer:
    """A server, and the folder that it loads adapters from."""

    def __init__(self, workspace: Workspace, kind: str, request: SyncRequest) -> None:
        self._kind, self._base_name = KINDS[kind], request.base_name
        key = bearer_token(variable=KEY)
        url = request.to.partition("=")[2].rstrip("/").removesuffix("/v1")
        # Without a key, plain HTTP reveals no secret.
        address = ServerAddress.parse(url, insecure=request.insecure or not key, variable=KEY)
        self.text = request.place or _place(kind, address)
        # One folder for each registry and server: it holds only adapters that this registry synced to this server.
        own = f"{kind}-{digest_bytes(f'{workspace.identity} {self.text}'.encode())[:12]}"
        if request.seen_as is not None and not request.seen_as.startswith("/"):
            raise BadInputError("--seen-as must be an absolute path", hint="such as /adapters")
        if request.folder is not None:
            root = bundle_root(workspace, request.folder)
        else:
            root = workspace.settings.home.resolve() / "synced"
        self._folders = DiskFolders(workspace, root / own, self._kind.form, request.base_name)
        self._seen_as = f"{(request.seen_as or str(root)).rstrip('/')}/{own}"
        self._client = _Client(address, key)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def require_base(self, desired: Desired) -> None:
        """Refuse adapters of another base model than the server's."""
        base = desired.base
        if base is None:
            return
        listed = self._listed()
        if listed.digest is not None:
            if listed.digest != base.digest:
                names = _some(listed.bases)
                raise BadInputError(f"the adapters were trained on {base.name}, and {self.text} has {names}")
            return
        base_names = base.called | ({self._base_name} if self._base_name else set())
        if not base_names & listed.bases and not any(base.lies_in(name) for name in listed.bases):
            hint = f"if that is the same model: --base-name {shlex.quote(min(listed.bases, key=len))}"
            message = f"the adapters were trained on {base.name}, and {self.text} has {_some(listed.bases)}"
            raise BadInputError(message, hint=hint)

    def standing(self, names: Collection[str]) -> Mapping[str, Standing]:
        """Return the adapters that the server lists."""
        standings = {}
        for name, (folder, digest) in self._listed().adapters.items():
            if folder is None:
                # fusery's own server lists the digest that the request to load it declared.
                standings[name] = Standing(digest, brought=digest is not None)
                continue
            # Others list the folder, whose name is unique to this registry and server, and whose files are compared.
            ours = folder.rstrip("/") == self._seen(name)
            digest = self._folders.digest_of(name) if ours and name in names else None
            standings[name] = Standing(digest, brought=ours, ours=ours)
        return standings

    def in_the_way(self, name: str) -> str:
        """Return the reason that another adapter has the name."""
        folder, _ = self._listed().adapters.get(name, (None, None))
        if folder is None:
            return "something else has its name there: other bytes"
        return f"another --folder has brought it, or somebody else: it was loaded from {folder[:200]}"

    def _seen(self, name: str) -> str:
        return f"{self._seen_as}/{name}"

    def bring(self, name: str, digest: str, *, announce: Callable[[], None]) -> None:
        """Write the adapter's folder, and request that the server loads it."""
        wrote = self._folders.digest_of(name) != digest
        if wrote:
            self._folders.bring(name, digest, announce=lambda: None)
        self._touch(name)
        if name in self._listed().adapters:
            self._drop(name)
        announce()
        body: dict[str, str] = {"lora_name": name, "lora_path": self._seen(name)}
        if self._kind.form == "mlx":
            body["digest"] = digest
        try:
            self._post("load", body)
        except ServerRefusedError:
            # If the response to the first attempt was lost, the second is refused because it is loaded.
            if not self._has(name, digest):
                if wrote:
                    self._folders.take_away(name)
                raise
        if not self._has(name, digest):
            raise ServerRefusedError(f"{self.text} says that it has loaded {name}, and does not name it")

    def _has(self, name: str, digest: str) -> bool:
        state = self.standing((name,)).get(name)
        return state is not None and state.brought and state.digest == digest

    def take_away(self, name: str) -> None:
        """Unload it; its files are removed at once, or later if the server may read them again."""
        if name in self._listed().adapters:
            self._drop(name)
        if self._kind.rereads:
            self._touch(name)
        else:
            self._folders.take_away(name)

    def sweep(self, stay: Collection[str]) -> None:
        """Remove the files of adapters that were unloaded long ago."""
        self._folders.sweep(stay)
        standing = self._listed().adapters
        for name in self._folders.standing(()):
            if name in stay or name in standing:
                continue
            path = self._folders.root / name
            with os_failures(f"read {path}", near=self._folders.root):
                since = path.stat().st_mtime
            if time.time() - since > KEPT:
                self._folders.take_away(name)

    def _touch(self, name: str) -> None:
        """Record in the folder's time that the server has or had the adapter."""
        path = self._folders.root / name
        if path.is_dir():
            with os_failures(f"write {path}", near=self._folders.root):
                os.utime(path)

    def _drop(self, name: str) -> None:
        try:
            self._post("unload", {"lora_name": name})
        except FuseryError:
            # It is unloaded already, by another program or by an attempt whose response was lost.
            if name in self._listed().adapters:
                raise

    def _post(self, act: str, body: Mapping[str, Any]) -> None:
        path = f"{self._kind.prefix}/{act}_lora_adapter"
        try:
            self._client.request("POST", path, json.dumps(body).encode(), timeout=LOADING, whole=LOADING)
        except ServerRefusedError as error:
            # No such path or folder: it was started with other options.
            if error.message.endswith(" 404") or "may load adapters from" in error.message:
                error.hint = error.hint or self._kind.hint
            raise

    def _listed(self) -> Listed:
        data = self._client.request("GET", "/v1/models", timeout=_LISTING, whole=_LISTING)
        url, key = self._client.url, self._client.token
        if key and key.encode() in data:
            raise ServerRefusedError(f"{url} repeats the key among the names of its models")
        try:
            answer = parse_json(data, "the list of models")
            cards = answer["data"]
            if len(cards) > _MOST:
                raise ServerRefusedError(f"{url} names more than {_MOST:,} models")
            if self._kind.form != "mlx":
                if any(card.get("owned_by") == "fusery" for card in cards):
                    raise ServerRefusedError(f"{url} is fusery's own server", hint=f"--to fusery={url}")
                return _listed_by_others(cards)
            if "loads" not in answer:
                hint = "--to vllm=URL, or sglang=URL"
                raise ServerRefusedError(f"{url} is not a server of fusery's", hint=hint)
            if answer["loads"] is not True:
                hint = f"start it with --adapters-from FOLDER; with keys, {KEY} needs loads = true"
                raise ServerRefusedError(f"{url} refuses adapters from requests", hint=hint)
            return _listed_by_ours(cards)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            hint = "check the address"
            raise ServerRefusedError(f"{url}/v1/models lists no models", hint=hint) from error


def _listed_by_others(cards: list[Any]) -> Listed:
    """Return the list of vLLM or SGLang: an adapter has a parent, and as its root the folder that it was loaded from."""
    bases, adapters = set(), {}
    for card in cards:
        name, root, parent = _text(card["id"]), card.get("root"), card.get("parent")
        if parent is None:
            bases |= {name} | ({root} if isinstance(root, str) else set())
        else:
            adapters[name] = (_text(root), None)
    if not bases:
        raise KeyError("no base")
    return Listed(frozenset(bases), None, adapters)


def _listed_by_ours(cards: list[Any]) -> Listed:
    """Return the list of fusery's own server: `versions` of an adapter's full name is that name alone."""
    bases, adapters, digest = set(), {}, None
    for card in cards:
        name, root = _text(card["id"]), _text(card["root"])
        bases.add(root)
        if name == root:
            digest = card["digest"]
        elif card["versions"] == [name]:
            adapters[name] = (None, card["digest"])
    return Listed(frozenset(bases), digest, adapters)


def _place(kind: str, address: ServerAddress) -> str:
    """Return a server's name in deployments, the same for each name of this machine."""
    if is_loopback(address.host):
        path = f":{address.port or (443 if address.secure else 80)}{address.path}"
        return f"{kind}={'https' if address.secure else 'http'}://{socket.gethostname()}{path}"
    return f"{kind}={address.url.lower()}"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _some(names: Collection[str]) -> str:
    return ", ".join(repr(name[:100]) for name in sorted(names)[:4])
