"""Push, pull, export, back up and restore: copy records and everything that they need between registries.

`exchange` copies from an origin to a destination: registries on this machine or behind a server (`over_http`), in the
documents of `registry.remote.documents`.  `checks` refuses invalid ones, `planning` lists what is missing, `receiving`
examines and records files, and `updates` adds to existing records.  `served` and `uploads` are the server's half.
A backup is a complete package in a store of its own, with the exact rows besides.  It is incremental, every byte has a
digest, and its format does not depend on the database or the store.
"""

from ..records.transfer import Moved
from .exchange import Exchanged, pull, push

__all__ = ["Exchanged", "Moved", "pull", "push"]
