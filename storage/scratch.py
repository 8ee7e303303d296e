"""A folder for what is being made, which is gone when it is done with."""

from __future__ import annotations

import shutil
import weakref

from .temporary import make_temporary


class Scratch:
    """A temporary folder that lasts as long as somebody holds this."""

    def __init__(self) -> None:
        self.path = make_temporary("form")
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
