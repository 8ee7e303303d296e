"""Moving between registries: one thing with all that it needs, copied as far as the other side lacks it.

`place` opens the other registry, `package` reads what is to go, `claims` holds what people said to this registry's limits,
`planning` says what of it is missing, `carrying` brings the bytes, `arriving` looks what they are, `receiving` records that,
`taking` does these one after the other, for small adapters in batches, and `exchange` all of it.

Through a server, `wire` has a package as a document, `served` and `uploads` are what the server does, and `over_http` is what the
client does.
"""

from ..records.transfer import Moved
from .exchange import Exchanged, pull, push

__all__ = ["Exchanged", "Moved", "pull", "push"]
