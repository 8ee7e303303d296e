"""What the environment of whoever delivers says: the secret that signs, and whether private networks may be reached.

Neither is ever read from a database or a home folder, which may be somebody else's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fusery.storage.opening import opened

from ..errors import BadInputError

SECRET, SECRET_FILE, PRIVATE = (
    "FUSERY_WEBHOOK_SECRET",
    "FUSERY_WEBHOOK_SECRET_FILE",
    "FUSERY_WEBHOOK_PRIVATE",
)

_SHORTEST = 32
_LARGEST = 64 << 10
_MOST = 4
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


class NoWebhookSecretError(BadInputError):
    """The secret that webhooks are signed with is not in the environment."""

    code = "no_webhook_secret"


@dataclass(frozen=True, slots=True)
class Deliverer:
    """What whoever delivers knows and may do.

    Attributes:
        secrets: of which signing keys are made, the one that counts first; those before it sign too while receivers change over.
        private: addresses of private networks may be reached by webhooks that were added for them.
    """

    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    private: bool = False

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None) -> Deliverer:
        """Read the environment.

        Args:
            environment: instead of the process's own.

        Raises:
            BadInputError: a secret is too short, or a value is none.
            StorageError: the file with the secret cannot be read.
        """
        said = os.environ if environment is None else environment
        words = said.get(PRIVATE, "").strip().casefold()
        if words not in (*_YES, *_NO):
            raise BadInputError(f"{PRIVATE} is neither 1 nor 0", hint=f"export {PRIVATE}=1")
        return cls(_secrets(said), words in _YES)

    def require_secrets(self) -> tuple[bytes, ...]:
        """Return the secrets.

        Raises:
            NoWebhookSecretError: there are none.
        """
        if not self.secrets:
            raise NoWebhookSecretError(
                "there is no secret to sign webhooks with in this environment",
                hint=f"export {SECRET_FILE}=FILE, made by: openssl rand -hex 32",
            )
        return self.secrets


def _secrets(said: Mapping[str, str]) -> tuple[bytes, ...]:
    given, file = said.get(SECRET, ""), said.get(SECRET_FILE, "")
    if given.strip() and file:
        raise BadInputError(f"{SECRET} and {SECRET_FILE} are both set", hint=f"unset {SECRET}")
    if file:
        with opened(Path(file)) as content:
            given = content.read(_LARGEST).decode(errors="replace")
    secrets = tuple(os.fsencode(word) for word in given.split())
    if any(len(secret) < _SHORTEST for secret in secrets) or len(secrets) > _MOST:
        raise BadInputError(
            f"the secret of webhooks should have {_SHORTEST} characters or more, and there should be at most {_MOST}",
            hint="make one: openssl rand -hex 32",
        )
    return secrets
