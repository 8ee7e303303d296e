"""What can be wrong with a backup."""

from __future__ import annotations

from ..errors import RegistryError


class BackupError(RegistryError):
    """A backup is missing, incomplete, damaged, or was changed since it was made."""

    code = "bad_backup"


class NotEmptyError(RegistryError):
    """There is something in the registry that a backup was to be restored into."""

    code = "not_empty"
