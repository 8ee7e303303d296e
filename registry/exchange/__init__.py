"""Push, pull, export, back up and restore: copy records and everything that they need between registries.

`exchange` copies documents from an origin to a destination: `checks` refuses invalid ones, `planning` lists what is
missing, `receiving` examines and records files; `served` and `uploads` are the server's half.  A backup is a package
with the exact rows besides.
"""

from ..records.transfer import Moved
from .exchange import Exchanged, pull, push

__all__ = ["Exchanged", "Moved", "pull", "push"]
