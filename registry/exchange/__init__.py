"""Push and pull: copy a record and everything it needs from one registry to another.

`exchange` copies from an origin to a destination: registries on this machine or behind a server (`over_http`).  What travels
are the documents of `fusery.registry.packages`.  `checks` refuses invalid ones, `planning` tells what is missing, `carrying`
brings the files, `receiving` examines and records them, and `updates` adds to records that are there.
`served` and `uploads` are what a server does.
"""

from ..records.transfer import Moved
from .exchange import Exchanged, pull, push

__all__ = ["Exchanged", "Moved", "pull", "push"]
