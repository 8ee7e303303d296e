"""Backups: everything that is on record and all its bytes in another place, and a registry made of them again.

A backup lies in a blob store of its own, so that it is incremental and every byte of it has a digest:

    backup.json          what there is, written last and as a whole: a backup that was interrupted leaves the former one
    blobs/sha256/...     the rows of each table, one JSON object a line; the list of blobs; and the blobs themselves

It is the same whatever database and store it was made of, and fits any other.
"""

from .backup import BackedUp, backup
from .own import Restored
from .restore import restore

__all__ = ["BackedUp", "Restored", "backup", "restore"]
