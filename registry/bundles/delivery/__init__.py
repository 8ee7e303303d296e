"""Where a bundle goes: a folder, a file, or a URL; there it appears whole or not at all."""

from .deliver import Delivered, deliver
from .place import Place
from .places import place_at

__all__ = ["Delivered", "Place", "deliver", "place_at"]
