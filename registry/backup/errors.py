"""Errors of backup and restore."""

from __future__ import annotations

from ..errors import RegistryError


class BackupError(RegistryError):
    """A backup is missing, incomplete, damaged or edited."""

    code = "bad_backup"


class NotEmptyError(RegistryError):
    """The registry to restore into is not empty."""

    code = "not_empty"
