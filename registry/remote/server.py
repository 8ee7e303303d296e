"""A server for a registry, as its clients ask it: one operation is one request, and its record or its error comes back.

Certificates are verified, and no redirect is followed.  The token is in one header and in no message.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fusery.storage.errors import FuseryError

from ..errors import ServerRefusedError, ServerUnavailableError
from ..record import Record
from ..wire import decode, encode
from .address import ServerAddress, trusted_certificates
from .failures import failure

if TYPE_CHECKING:
    import httpx2 as httpx


API = "/api/v1"

ATTEMPTS = 5
"""How often a request is sent that did not reach the server, or for which it had no time."""

TIMEOUT = 60.0
"""Seconds without any byte after which a connection is given up."""

LONG = 900.0
"""Seconds that a server may take for an operation."""

_LATER = frozenset({429, 502, 503, 504})
_LARGEST = 256 << 20


class Server:
    """A server, its address and the token for it.

    Args:
        address: of the server.
        token: sent with each request; empty for none.
    """

    def __init__(self, address: ServerAddress, token: str) -> None:
        self.address, self.token = address, token
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its address, as messages show it."""
        return self.address.url

    def ask(self, path: str, arguments: Mapping[str, Any], returns: Any, *, writes: bool) -> Any:
        """Have an operation done, and return its record.

        Args:
            path: of the operation, `RESOURCE/NAME`.
            arguments: by name.
            returns: the type of what it returns.
            writes: it changes what is on record, and is not asked for a second time if its answer does not come.

        Raises:
            FuseryError: of the class that the same call raises on a registry of this machine.
            ServerUnavailableError: the server did not answer.
            ServerRefusedError: it wants another token, or answers what no server of fusery does.
        """
        given = {name: _sent(value) for name, value in arguments.items() if name != "reporter"}
        if writes:
            body = json.dumps(given).encode()
            response = self.send("POST", f"{API}/{path}", body, timeout=LONG, again=False)
        else:
            response = self.send("GET", f"{API}/{path}", params=_query(given), timeout=LONG)
        try:
            return decode(returns, response.json())
        except (ValueError, RecursionError) as error:
            raise self._strange() from error

    def send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        params: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
        again: bool = True,
    ) -> httpx.Response:
        """Send a request, and return its answer with all of its bytes.

        Args:
            method: of HTTP.
            path: below the server's address.
            content: JSON to be sent.
            params: of the query.
            headers: besides the usual ones.
            timeout: seconds that the server may think.
            again: it may be sent once more, after an answer that did not come in full.

        Raises:
            FuseryError: the server refused it; see `ask`.
        """
        import httpx2 as httpx
        import tenacity

        kind = {"Content-Type": "application/json"} if content is not None else {}
        lasting = httpx.Timeout(TIMEOUT, read=timeout)

        def once() -> httpx.Response:
            try:
                answer = self.client.request(
                    method,
                    path,
                    content=content,
                    params=list(params),
                    headers={**kind, **(headers or {})},
                    timeout=lasting,
                )
            except httpx.ConnectError as error:
                raise _LaterError(self._unreached(error)) from error
            except httpx.TransportError as error:
                told = self._unavailable(f"the answer breaks off ({type(error).__name__})")
                raise (_LaterError(told) if again else told) from error
            if answer.status_code in _LATER:
                raise _LaterError(self._failure(answer))
            if answer.status_code >= 300 and not self._is_record(answer):
                raise self._failure(answer)
            return answer

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_LaterError),
            wait=tenacity.wait_random_exponential(multiplier=0.25, max=10),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            reraise=True,
        )
        try:
            return retrying(once)
        except _LaterError as later:
            raise later.error from later

    @cached_property
    def client(self) -> httpx.Client:
        """Connections to the server, for any thread."""
        import httpx2 as httpx

        with self._lock:
            if "client" in self.__dict__:
                found: httpx.Client = self.__dict__["client"]
                return found
            headers = {"Accept": "application/json", "User-Agent": "fusery"}
            if self.token:
                headers["Authorization"] = f"Bearer {self.token}"
            verified = trusted_certificates() if self.address.secure else True
            made = httpx.Client(
                base_url=self.address.url, headers=headers, verify=verified, timeout=TIMEOUT, trust_env=True
            )
            self.__dict__["client"] = made
            return made

    def close(self) -> None:
        """Close its connections."""
        if "client" in self.__dict__:
            self.__dict__.pop("client").close()

    def _is_record(self, answer: httpx.Response) -> bool:
        """Tell whether a refusal is a record: a promotion that the rules do not allow says which of them do not hold."""
        if answer.status_code != 409:
            return False
        with suppress(ValueError):
            return "error" not in answer.json()
        return False

    def _failure(self, answer: httpx.Response) -> FuseryError:
        status = answer.status_code
        if 300 <= status < 400:
            return ServerRefusedError(
                f"{self.url} sends elsewhere ({status}), and the token goes nowhere else",
                hint="give the address that it leads to",
            )
        if status == 401:
            said = "does not take this token" if self.token else "needs a token"
            return ServerRefusedError(f"{self.url} {said}", hint=f"fusery login {self.url}")
        try:
            told = answer.json()["error"]
            return failure(told, self.token)
        except (ValueError, KeyError, TypeError):
            if status in _LATER:
                return self._unavailable(f"it says {status}")
            return self._strange()

    def _unreached(self, error: Exception) -> FuseryError:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return ServerUnavailableError(
                f"the certificate of {self.url} is not trusted",
                hint="FUSERY_CA_FILE names the certificates that are",
            )
        return self._unavailable("it cannot be reached")

    def _unavailable(self, why: str) -> FuseryError:
        hint = f"check that a server runs at {self.url}, then run the command again"
        return ServerUnavailableError(f"{self.url} does not answer: {why}", hint=hint)

    def _strange(self) -> FuseryError:
        return ServerRefusedError(
            f"{self.url} answers what no server of this version does", hint="is that its address?"
        )


class _LaterError(Exception):
    """Something that may be over when it is tried again.

    Attributes:
        error: what it is if it is not.
    """

    def __init__(self, error: FuseryError) -> None:
        super().__init__()
        self.error = error


def _sent(value: Any) -> Any:
    """Return an argument as JSON: of a record, the reference to it."""
    if isinstance(value, Record) and value.REFERENCE:
        return getattr(value, value.REFERENCE)
    if isinstance(value, list | tuple | set | frozenset):
        return [_sent(each) for each in value]
    return encode(value)


def _query(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return arguments as a query: lists as repeated values, mappings as `NAME=VALUE`."""
    found: list[tuple[str, str]] = []
    for name, value in given.items():
        several = value if isinstance(value, list) else [value]
        if isinstance(value, Mapping):
            several = [f"{key}={each}" for key, each in value.items()]
        found += [
            (name, each if isinstance(each, str) else json.dumps(each))
            for each in several
            if each is not None
        ]
    return found
