"""Stores by URL: which protocols there are, what they need, and what a URL may not hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from .errors import StorageError, StoreUnavailableError
from .interface import BlobStore
from .local import LocalStore

if TYPE_CHECKING:
    from .plugins import Plugin
    from .remote import RemoteTree


class StoreUrlError(StorageError):
    """The URL of a store is invalid or not supported."""

    code = "bad_store_url"


@dataclass(frozen=True, slots=True)
class Protocol:
    """A kind of store, or with a plugin a scheme, beyond a local folder; the user's options override `options`.

    `maker` is the module of `file_system` (`.NAME`: in this package; empty: fsspec's own); `has_host`: the URL begins with a host.
    """

    package: str
    install: str
    options: Mapping[str, Any]
    maker: str = ""
    has_host: bool = False
    plugin: Plugin | None = None


# A cached listing is a stale answer, and fsspec shares instances with everybody else in the process.
_FRESH = {"use_listings_cache": False, "skip_instance_cache": True}
_S3 = Protocol("obstore", "pip install 'fusery[s3]'", {"protocol": "s3"}, maker=".cloud")
_GCS = Protocol("obstore", "pip install 'fusery[gcs]'", {"protocol": "gs"}, maker=".cloud")
_AZURE = Protocol("obstore", "pip install 'fusery[azure]'", {"protocol": "az"}, maker=".cloud")
_SFTP = Protocol(
    "sshfs",
    "pip install 'fusery[sftp]'",
    {"connect_timeout": 10, "login_timeout": 20, "keepalive_interval": 10, "keepalive_count_max": 2},
    maker=".sftp",
    has_host=True,
)

PROTOCOLS: Mapping[str, Protocol] = {
    "memory": Protocol("fsspec", "pip install fsspec", _FRESH),
    "s3": _S3,
    "gs": _GCS,
    "gcs": _GCS,
    "az": _AZURE,
    "abfs": _AZURE,
    "sftp": _SFTP,
}
"""Fusery's own protocols that a store's URL may have besides `file`."""

_GROUP: Literal["fusery.backends"] = "fusery.backends"


def find_protocol(scheme: str) -> Protocol | None:
    """Return the protocol of a scheme: one of fusery's own, or a plugin's; None if it is unknown."""
    if scheme in PROTOCOLS or scheme == "file":
        return PROTOCOLS.get(scheme)
    from .plugins import find_plugin  # here, since every command comes by, and few have one

    plugin = find_plugin(_GROUP, scheme)
    return None if plugin is None else protocol_of(plugin)


def protocol_of(plugin: Plugin) -> Protocol:
    """Return the protocol that a plugin adds."""
    from importlib.util import find_spec

    from .plugins import blaming, load_plugin

    protocol = load_plugin(plugin, own=("file", *PROTOCOLS))
    with blaming(plugin, "cannot be imported"):
        if not isinstance(protocol, Protocol):
            raise plugin.wrong(f"is no Protocol, which {plugin.value} has to be")
        is_maker_installed = not protocol.maker or find_spec(protocol.maker) is not None
    if not is_maker_installed:
        raise plugin.wrong(f"names a module that is not there: {protocol.maker}")
    return replace(protocol, plugin=plugin)


_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_LETTERS = "a scheme has letters, digits, + . and -; a folder of that name is ./NAME:/..."
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
_HOST = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*)(:(?P<port>[0-9]{1,5}))?")


def open_store(url: str, *, options: Mapping[str, Any] | None = None) -> BlobStore:
    """Open the store at a URL; nothing is written, and nothing is read yet."""
    local = local_path(url)
    if local is not None:
        return LocalStore(local)
    from .remote import FsspecStore

    *place, plugin = _open_remote(url, options or {})
    return FsspecStore(*place, plugin=plugin)


def open_tree(url: str, *, options: Mapping[str, Any] | None = None) -> RemoteTree:
    """Open a folder of files at a URL that is no local one; nothing is written, and nothing is read yet."""
    from .remote import RemoteTree

    *place, plugin = _open_remote(url, options or {})
    return RemoteTree(*place, plugin=plugin)


def local_path(url: str) -> Path | None:
    """Return the path that a URL of this machine, or a path, means; None for one beyond it."""
    _require_plain(url)
    match = _SCHEME.fullmatch(url)
    if match is None:
        if re.match(r"[^/]+://", url):
            raise StoreUrlError("the store's URL begins with no scheme that there could be", hint=_LETTERS)
        return Path(url)
    if match["scheme"].lower() != "file":
        return None
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise StoreUrlError("a file URL has no host", hint="use file:///absolute/path")
    return Path(unquote(parts.path))


def same_server(url: str, other: str) -> bool:
    """Tell whether the options of a store at one URL may be sent to the server of another URL."""
    one, two = _SCHEME.fullmatch(url), _SCHEME.fullmatch(other)
    if one is None or two is None:
        return False
    protocols = [find_protocol(match["scheme"].lower()) for match in (one, two)]
    if protocols[0] is None or protocols[0] != protocols[1]:
        return False
    # The first part of a plugin's URL may be a host.
    hosts = [match["rest"].partition("/")[0].casefold() for match in (one, two)]
    return not protocols[0].has_host and protocols[0].plugin is None or hosts[0] == hosts[1]


def display_url(url: str) -> str:
    """Return a store's URL for people: a local one as a path, any other without user, password, query or fragment."""
    match = _SCHEME.fullmatch(url)
    if match is None:
        return url
    if match["scheme"].lower() == "file":
        return unquote(urlsplit(url).path)
    place = re.split(r"[?#]", match["rest"], maxsplit=1)[0]
    host, slash, path = place.partition("/")
    return f"{match['scheme'].lower()}://{host.rpartition('@')[2]}{slash}{path.rpartition('@')[2]}"


def _require_plain(url: str) -> None:
    if not url.strip() or "::" in url or not url.isprintable():
        problem = "the store's URL is empty, or has '::' or a control character in it"
        raise StoreUrlError(problem, hint="set FUSERY_STORE_URL to a folder or an s3:// URL")


def _bucket_and_prefix(scheme: str, protocol: Protocol, rest: str) -> str:
    if "@" in rest or "?" in rest or "#" in rest:
        # Nothing of the URL is repeated: what stands there may be a secret.
        problem = f"the {scheme} URL of the store has a user, a query or a fragment in it"
        raise StoreUrlError(problem, hint="give credentials in FUSERY_STORE_OPTIONS")
    parts = rest.strip("/").split("/")
    first = (_HOST if protocol.has_host else _PART).fullmatch(parts[0])
    if (
        not first
        or rest.startswith("/")
        or protocol.has_host
        and (len(parts) == 1 or not 0 < int(first["port"] or 1) < 65536)
        or not all(map(_PART.fullmatch, parts[1:]))
    ):
        form = "HOST/FOLDER" if protocol.has_host else "NAME/PREFIX"
        hint = f"use {scheme}://{form} with letters, digits, dots, dashes and underscores"
        raise StoreUrlError(f"{scheme}://{rest[:80]} is not the URL of a store", hint=hint)
    return "/".join(parts)


def _open_remote(url: str, options: Mapping[str, Any]) -> tuple[Any, str, str, Plugin | None]:
    """Return the file system at a URL, the prefix in it, the URL for people, and the plugin that brings it."""
    from .secrets import remember, without_secrets

    _require_plain(url)
    match = _SCHEME.fullmatch(url)
    scheme = match["scheme"].lower() if match else "file"
    protocol = find_protocol(scheme)
    if match is None or protocol is None:
        from .plugins import plugins

        names = dict.fromkeys(["file", *PROTOCOLS, *(plugin.name for plugin in plugins(_GROUP))])
        hint = f"use a path or one of: {', '.join(names)}"
        raise StoreUrlError(f"unknown kind of store: {scheme[:20]!r}", hint=hint)
    place = _bucket_and_prefix(scheme, protocol, match["rest"])
    remember(options)
    _require_endpoint(options)
    try:
        from .remote_calls import describe, foreign_errors

        file_system = _file_system(scheme, protocol, place, options)
    except ImportError as error:
        problem = f"a store at {scheme}:// needs the package {protocol.package}"
        raise StorageError(problem, hint=f"run: {protocol.install}") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        # The text of the error may repeat an option, and an option may be a secret.
        problem = f"invalid options for the {scheme} store"
        hint = "check FUSERY_STORE_OPTIONS; --debug shows the error of its package"
        raise StorageError(problem, hint=hint) from without_secrets(error)
    except foreign_errors() as error:
        problem = f"cannot open the store {scheme}://{place}: {describe(error)}"
        hint = "check the credentials in the environment, and FUSERY_STORE_OPTIONS"
        raise StoreUnavailableError(problem, hint=hint) from without_secrets(error)
    prefix = place.partition("/")[2] if protocol.has_host else place
    return file_system, prefix, f"{scheme}://{place}", protocol.plugin


def _file_system(scheme: str, protocol: Protocol, place: str, options: Mapping[str, Any]) -> Any:
    fixed = protocol.options if "protocol" in protocol.options else {}
    merged = {**protocol.options, **options, **fixed}
    if protocol.has_host:
        host, _, port = place.partition("/")[0].partition(":")
        merged |= {"host": host, **({"port": int(port)} if port else {})}
    if not protocol.maker:
        import fsspec

        return fsspec.filesystem(scheme, **merged)
    if protocol.plugin is None:
        return import_module(protocol.maker, __package__).file_system(**merged)
    from fsspec import AbstractFileSystem

    from .plugins import blaming

    with blaming(protocol.plugin, "cannot be opened"):
        file_system = import_module(protocol.maker).file_system(**merged)
        if not isinstance(file_system, AbstractFileSystem):
            raise protocol.plugin.wrong("makes no file system of fsspec")
    return file_system


def _require_endpoint(options: Mapping[str, Any]) -> None:
    """Refuse an endpoint that is no URL, which libraries report in many ways; it may contain a password."""
    inner = options.get("client_kwargs")
    for option_group in (options, inner if isinstance(inner, Mapping) else {}):
        if (endpoint := option_group.get("endpoint_url")) is None:
            continue
        try:
            parts = urlsplit(endpoint)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except (ValueError, TypeError, AttributeError):  # an invalid port, half of an address, no text
            good = False
        if not good:
            hint = "write it as https://HOST or http://HOST:PORT, with a port from 1 to 65535"
            raise StoreUrlError("invalid endpoint_url in the options of the store", hint=hint)
