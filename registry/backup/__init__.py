"""Back up and restore a registry.

A backup is a complete package in a store of its own (`packages.container`), with the exact rows besides.  It is
incremental, every byte has a digest, and its format does not depend on the database or the store.
"""

from .backup import BackedUp, backup
from .filling import Restored
from .restore import restore

__all__ = ["BackedUp", "Restored", "backup", "restore"]
