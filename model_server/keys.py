"""API keys: the tenants of a file, which a thread reads again when it changes.

While the file is invalid or names none, no request is admitted.  Removing a key ends its running answers.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..registry.runtime.document import Tenant, check_tenants, read_file, reason
from ..registry.runtime.errors import DocumentError, Refusal

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 0.25  # between two looks at the file
STALE_SECONDS = 10.0  # until the file counts as unreadable: a network's file system may hang

HINT = 'a table for each tenant: [acme]  key_sha256 = ["..."]  models = ["course_rec#prod"]'


@dataclass(frozen=True, slots=True)
class Access:
    """The tenant of a request's key."""

    tenant: Tenant | None
    mark: bytes = field(default=b"", repr=False)

    @property
    def owner(self) -> str:
        """Return the name of the tenant; empty without keys."""
        return self.tenant.name if self.tenant else ""


class Keys:
    """The current keys of a file: TOML with a table for each tenant, or `tenants` of a `serving.json`."""

    def __init__(self, path: Path, *, document: bool = False) -> None:
        self._path, self._document = path, document
        self._secret = secrets.token_bytes(32)
        self._marks: Mapping[bytes, Tenant] = {}
        self.complaint, self.tenants = "", tuple[Tenant, ...]()
        self.count: Callable[[str], None] = lambda outcome: None
        self._data = read_file(path)
        self._take(self._parsed(self._data))
        self._looked = time.monotonic()
        self._reading = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)

    def start(self) -> None:
        """Begin to read the file again when it changes."""
        self._looked = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Stop reading the file."""
        self._ended.set()

    @property
    def usable(self) -> bool:
        """Return whether requests can be authenticated."""
        running = self._thread.is_alive()
        return not self.complaint and not (running and time.monotonic() - self._looked > STALE_SECONDS)

    def authenticate(self, header: str | None) -> Access:
        """Return the access of the key in an `Authorization` header; the HMAC of the lookup lets its time reveal nothing."""
        if not self.usable:
            raise _unusable()
        if not self.tenants:
            return Access(None)
        scheme, _, key = (header or "").partition(" ")
        mark = self._mark(hashlib.sha256(key.strip().encode("utf-8", "surrogatepass")).hexdigest())
        tenant = self._marks.get(mark)
        if tenant is None or scheme.lower() != "bearer":
            raise _unknown(given=bool(key))
        return Access(tenant, mark)

    def objection(self, access: Access, model: str | None) -> Refusal | None:
        """Return the refusal that ends a running answer; None if it may go on."""
        if not self.usable:
            return _unusable()
        if access.tenant is None and not self.tenants:
            return None
        tenant = self._marks.get(access.mark)
        if tenant is None or access.tenant is None or tenant.name != access.tenant.name:
            return _unknown(given=True)
        if model is not None and tenant.models is not None and model not in tenant.models:
            return Refusal(403, f"the model {model[:100]!r} was taken from this key", code="forbidden")
        return None

    def look(self) -> None:
        """Read and apply the file; a lock keeps an older reading from replacing a newer one."""
        with self._reading:
            try:
                data = read_file(self._path)
                if data != self._data or self.complaint:
                    tenants = self._parsed(data)
                    if self.tenants and not tenants:
                        raise DocumentError(f"{self._path} has no tenants; restart the server to admit all")
                    self._take(tenants)
                    level = logging.WARNING if self.complaint else logging.INFO
                    LOG.log(level, "the keys of %s have changed: %d tenants", self._path, len(tenants))
                    self._data, self.complaint = data, ""
                    self.count("done")
            except Exception as error:  # noqa: BLE001 - no error may admit a request
                why = str(error) if isinstance(error, DocumentError) else type(error).__name__
                if self.tenants and why != self.complaint:
                    self.complaint = why
                    LOG.error("all requests are refused: cannot read the keys: %s", why)
                    self.count("refused")
            self._looked = time.monotonic()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look()

    def _parsed(self, data: bytes) -> list[Tenant]:
        try:
            if self._document:
                document = json.loads(data)
                if not isinstance(document, dict):
                    raise TypeError("it is not a JSON object")
                values = document.get("tenants", [])
            else:
                tables = tomllib.loads(data.decode())
                values = [{"name": name, **table} for name, table in tables.items()]
                if not values:
                    raise ValueError("it names no tenant, so that every request would be refused")
            return check_tenants(TypeAdapter(list[Tenant]).validate_python(values))
        except (ValueError, TypeError, RecursionError) as error:
            why = reason(error) if isinstance(error, ValidationError) else error
            raise DocumentError(f"{self._path} is no file of tenants: {why}") from error

    def _take(self, tenants: list[Tenant]) -> None:
        self._marks = {self._mark(key): tenant for tenant in tenants for key in tenant.key_sha256}
        self.tenants = tuple(tenants)

    def _mark(self, digest: str) -> bytes:
        return hmac.digest(self._secret, digest.encode(), "sha256")


def _unusable() -> Refusal:
    return Refusal(
        503,
        "the server cannot read its keys, and refuses requests until it can; its log says why",
        code="keys_unavailable",
        headers={"Retry-After": "1"},
    )


def _unknown(*, given: bool) -> Refusal:
    return Refusal(
        401,
        "incorrect API key provided" if given else "no API key provided: send Authorization: Bearer KEY",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
