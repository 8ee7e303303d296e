"""Back up and restore a registry.

A backup is a separate blob store.  It is incremental, and every byte has a digest:

    backup.json          the catalogue, replaced atomically at the end: interruptions leave the previous one
    blobs/sha256/...     the rows of each table as JSON lines; the list of blobs; the blobs themselves

The format does not depend on the database or the store.
"""

from .backup import BackedUp, backup
from .own import Restored
from .restore import restore

__all__ = ["BackedUp", "Restored", "backup", "restore"]
