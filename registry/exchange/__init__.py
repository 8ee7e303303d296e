"""Moving between registries: one thing with all that it needs, copied as far as the other side lacks it.

`place` opens the other registry, `package` reads what is to go, `plan` says what of it is missing there, `carrying` brings
the bytes, `receiving` records them, and `exchange` does these one after the other.
"""

from .exchange import Exchanged, Moved, pull, push

__all__ = ["Exchanged", "Moved", "pull", "push"]
