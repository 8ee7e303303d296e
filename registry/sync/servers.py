"""Servers that take adapters while they run: vLLM, SGLang, and ours.

All three load an adapter from a folder that they see too, name it in `/v1/models`, and drop it.  How each does it was read
in its source: vLLM 0.33.0, vllm/entrypoints/serve/lora/ and openai/models/serving.py; SGLang 0.5.23,
srt/entrypoints/http_server.py and srt/managers/tokenizer_manager.py; ours, `registry/server/loading.py`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusery.storage.errors import FuseryError
from fusery.storage.failures import os_failures

from ..adapters.render import Form
from ..errors import BadInputError, ServerRefusedError
from ..exchange.http_calls import HttpCalls, parsed
from ..exchange.server_address import ServerAddress, bearer_token
from .desired import Desired
from .destinations import Destination, DestinationOptions
from .folders import DiskFolders
from .plan import Standing

if TYPE_CHECKING:
    from ..workspace import Workspace

KEY = "FUSERY_SYNC_KEY"
"""The environment variable with the key of a server; `FUSERY_SYNC_KEY_FILE` names a file that has it."""

LOADING = 600.0
"""Seconds for which a server may be at loading an adapter, or wait for the answers of one that goes."""

KEPT = 3600.0
"""Seconds for which the files of an adapter stay after a server was told to drop it, where it may yet read them again."""

_MOST = 100_000
"""Models that a server may name."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of server.

    Attributes:
        form: of an adapter's files.
        prefix: of the paths that load and unload.
        rereads: it reads an adapter's files again while answers need it, also after it was told to drop it.
    """

    form: Form
    prefix: str = "/v1"
    rereads: bool = False


KINDS: Mapping[str, Kind] = {
    # An adapter that was pushed out of memory is read from its folder again in the middle of a step, also for answers
    # that are still being written when it has been unloaded; without its files the whole engine ends.
    "vllm": Kind("peft", rereads=True),
    # Waits with unloading until nobody needs the adapter.  But a request for one that was unloaded reads it again.
    "sglang": Kind("peft", prefix=""),
    "fusery": Kind("mlx"),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """What `/v1/models` says of a server.

    Attributes:
        bases: what the server calls its base, by every name.
        digest: of the base; None where the server does not tell.
        adapters: names, each with the folder it was loaded from and the digest that it is registered under; None where the
            server does not tell.
    """

    bases: frozenset[str]
    digest: str | None
    adapters: Mapping[str, tuple[str | None, str | None]]


class ModelServer(Destination):
    """A server, and the folder that it loads adapters from."""

    def __init__(
        self, kind: str, calls: HttpCalls, folders: DiskFolders, seen_as: str, base_name: str | None
    ) -> None:
        self.text = f"{kind}={calls.address.url}"
        self._kind, self._calls, self._folders = KINDS[kind], calls, folders
        self._seen_as, self._base_name = seen_as.rstrip("/"), base_name

    @classmethod
    def at(cls, workspace: Workspace, kind: str, options: DestinationOptions) -> ModelServer:
        """Return the server that is meant.

        Raises:
            BadInputError: that is no address of one, or the folder cannot be one.
        """
        key = bearer_token(variable=KEY)
        url = options.to.partition("=")[2].rstrip("/").removesuffix("/v1")
        # Without a key there is nothing on the way that others might use.
        address = ServerAddress.parse(url, insecure=options.insecure or not key)
        calls = HttpCalls(address, key, patience=3, hint=f"{KEY}, or {KEY}_FILE, has the key that it takes")
        form = KINDS[kind].form
        if options.folder is not None:
            folders = DiskFolders.at(workspace, options.folder, options.base_name)
            folders = DiskFolders(workspace, folders.root, form, options.base_name)
        else:
            name = f"{kind}-{address.host}-{address.port or 0}"
            root = workspace.settings.home.resolve() / "synced" / name.replace(":", "_")
            folders = DiskFolders(workspace, root, form, options.base_name)
        return cls(kind, calls, folders, options.seen_as or str(folders.root), options.base_name)

    def close(self) -> None:
        """Hang up."""
        self._calls.__exit__()

    def require_base(self, desired: Desired) -> None:
        """Refuse adapters of another base than the server has.

        Ours tells the digest of its base.  Others tell what they call it: that has to be one of the names that the base has
        here, a hub id or a folder among them, a folder of this machine with its files, or what the user says that it is called.
        """
        base = desired.base
        if base is None:
            return
        listed = self._listed()
        if listed.digest is not None:
            if listed.digest != base.digest:
                raise BadInputError(
                    f"the adapters stand on {base.name}, and {self.text} has another base ({_some(listed.bases)})"
                )
            return
        known = base.called | ({self._base_name} if self._base_name else set())
        if not known & listed.bases and not any(base.lies_in(name) for name in listed.bases):
            raise BadInputError(
                f"the adapters stand on {base.name}, and {self.text} calls its base {_some(listed.bases)}",
                hint=f"if that is the same model: --base-name {min(listed.bases, key=len)}",
            )

    def standing(self, names: Collection[str]) -> Mapping[str, Standing]:
        """Return the adapters that the server names."""
        found = {}
        for name, (folder, digest) in self._listed().adapters.items():
            # Ours tells the digest that it was given, others the folder; of that, the files tell.
            brought = digest is not None if folder is None else folder.rstrip("/") == self._seen(name)
            if name in names and brought and folder is not None:
                digest = self._folders.digest_of(name)
            found[name] = Standing(digest, brought)
        return found

    def _seen(self, name: str) -> str:
        return f"{self._seen_as}/{name}"

    def bring(self, name: str, digest: str, *, announce: Callable[[], None]) -> None:
        """Write the adapter's folder, and have it loaded from there."""
        if self._folders.digest_of(name) != digest:
            self._folders.bring(name, digest, announce=lambda: None)
        self._touch(name)
        if name in self._listed().adapters:
            self._drop(name)
        announce()
        body: dict[str, Any] = {"lora_name": name, "lora_path": self._seen(name)}
        if self._kind.form == "mlx":
            body["digest"] = digest
        try:
            self._post("load", body)
        except FuseryError:
            # The answer to the first attempt was lost, and to the second it says that it has it.
            if not self._has(name, digest):
                raise
        if not self._has(name, digest):
            raise ServerRefusedError(f"{self.text} says that it has loaded {name}, and does not name it")

    def _has(self, name: str, digest: str) -> bool:
        return self.standing((name,)).get(name) == Standing(digest, brought=True)

    def take_away(self, name: str) -> None:
        """Have it dropped; its files go at once, or later where the server may read them again."""
        if name in self._listed().adapters:
            self._drop(name)
        if self._kind.rereads:
            self._touch(name)
        else:
            self._folders.take_away(name)

    def sweep(self, stay: Collection[str]) -> None:
        """Remove the files of adapters that were dropped long ago."""
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
        """Note that the server has the adapter, or had it until now."""
        path = self._folders.root / name
        if path.is_dir():
            with os_failures(f"write {path}", near=self._folders.root):
                os.utime(path)

    def _drop(self, name: str) -> None:
        try:
            self._post("unload", {"lora_name": name})
        except FuseryError:
            # Somebody else was quicker, or the answer to the first attempt was lost.
            if name in self._listed().adapters:
                raise

    def _post(self, act: str, body: Mapping[str, Any]) -> None:
        path = f"{self._kind.prefix}/{act}_lora_adapter"
        self._calls.json("POST", path, json.dumps(body).encode(), timeout=LOADING)

    def _listed(self) -> Listed:
        data = self._calls.json("GET", "/v1/models")
        url = self._calls.address.url
        with _reading(url):
            told = parsed(data, url, "no server of models")["data"]
            if len(told) > _MOST:
                raise ServerRefusedError(f"{url} names more than {_MOST:,} models")
            if self._kind.form == "mlx":
                return _listed_by_ours(told)
            return _listed_by_others(told)


def _listed_by_others(told: list[Any]) -> Listed:
    """Read the cards of vLLM and SGLang: an adapter has a parent, and as its root the folder it was loaded from."""
    bases, adapters = set(), {}
    for each in told:
        name, root, parent = _text(each["id"]), each.get("root"), each.get("parent")
        if parent is None:
            bases |= {name} | ({root} if isinstance(root, str) else set())
        else:
            # vLLM's parent is the name of the base; the folder is what it was loaded from.
            adapters[name] = (_text(root), None)
    if not bases:
        raise KeyError("no base")
    return Listed(frozenset(bases), None, adapters)


def _listed_by_ours(told: list[Any]) -> Listed:
    """Read the cards of our server: what answers a name is in `versions`, and an adapter's own name leads to itself."""
    bases, adapters, digest = set(), {}, None
    for each in told:
        name, root = _text(each["id"]), _text(each["root"])
        bases.add(root)
        if name == root:
            digest = each["digest"]
        elif each["versions"] == [name]:
            adapters[name] = (None, each["digest"])
    return Listed(frozenset(bases), digest, adapters)


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """What is read of an answer has the form that it should have."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerRefusedError(
            f"{url}/v1/models answers what no server of models does", hint="is that its address?"
        ) from error


def _text(told: Any) -> str:
    if not isinstance(told, str):
        raise TypeError("no text")
    return told


def _some(names: Collection[str]) -> str:
    return ", ".join(repr(name[:100]) for name in sorted(names)[:4])
