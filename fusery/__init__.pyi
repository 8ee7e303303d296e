"""The names of the Python API, for type checkers."""

from fusery.registry import *

__version__: str
