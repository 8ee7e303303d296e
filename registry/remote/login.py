"""Store tokens of servers in the system's keyring, or in a file that only this user can read."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from fusery.storage.failures import os_failures

from ..errors import BadInputError
from .address import bearer_token, checked_token

_SERVICE = "fusery"


def token_for(url: str) -> str:
    """Return the token for a server: from `FUSERY_TOKEN`, from `FUSERY_TOKEN_FILE`, or the stored one.

    Raises:
        BadInputError: the token is missing or invalid.
    """
    if found := bearer_token() or _stored(url):
        return found
    raise BadInputError(f"token not found for {url}", hint=f"fusery login {url}")


def store_token(url: str, token: str) -> str:
    """Store or replace the token for a server, and return its location.

    Raises:
        BadInputError: the token is invalid.
    """
    checked_token(token)
    keyring = _keyring()
    if keyring is not None:
        keyring.set_password(_SERVICE, url, token)
        _write({each: value for each, value in _read().items() if each != url})
        return "the system's keyring"
    _write({**_read(), url: token})
    return str(tokens_file())


def forget_token(url: str) -> bool:
    """Remove the stored token for a server, and return whether there was one."""
    there = _read()
    found = there.pop(url, None) is not None
    if found:
        _write(there)
    keyring = _keyring()
    if keyring is not None and keyring.get_password(_SERVICE, url) is not None:
        keyring.delete_password(_SERVICE, url)
        found = True
    return found


def tokens_file() -> Path:
    """Return the path of the file with tokens."""
    import platformdirs

    return Path(platformdirs.user_config_dir("fusery", appauthor=False)) / "tokens.json"


def _stored(url: str) -> str:
    if found := _read().get(url):
        return found
    keyring = _keyring()
    return (keyring.get_password(_SERVICE, url) or "") if keyring is not None else ""


def _read() -> dict[str, str]:
    path = tokens_file()
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise BadInputError(f"invalid token file: {path}", hint="remove it, and run fusery login URL again")
    return found


def _write(tokens: dict[str, str]) -> None:
    path = tokens_file()
    if not tokens:
        path.unlink(missing_ok=True)
        return
    with os_failures(f"write {path}", near=path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(tokens, file)
        part.replace(path)


def _keyring() -> Any:
    """Return the system's keyring; None where there is none, or the extra `keyring` is not installed.

    The library's own choice would import every backend, and some start compilers to look for libraries.
    """
    try:
        if sys.platform == "darwin":
            from keyring.backends.macOS import Keyring
        else:
            from keyring.backends.SecretService import Keyring
    except ImportError:
        return None
    return Keyring() if Keyring.viable else None
