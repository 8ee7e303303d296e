"""Push, pull, export, back up and restore: documents go from an origin to a destination.

`checks` refuses invalid ones, `planning` lists what is missing, `receiving` examines the files, and `recording` records them.
"""

from ..records.transfer import Moved
from .exchange import Exchanged, pull, push

__all__ = ["Exchanged", "Moved", "pull", "push"]
