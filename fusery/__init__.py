"""fusery keeps, compares, fuses and ships LoRA adapters.

Its Python API are the names of `fusery.registry`, which can be had here as well: `from fusery import Registry`.  The parts of
the program lie beside this folder and are installed within it; the links are for tools that read files.  `__init__.pyi` has
the same names for type checkers.
"""

from __future__ import annotations


def __getattr__(name: str) -> object:
    # `fusery --help` imports this, and nothing that it does not need.
    if name == "__version__":
        from importlib.metadata import version

        return version("fusery")
    if name.startswith("__") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    registry = import_module("fusery.registry")
    return ["__version__", *registry.__all__] if name == "__all__" else getattr(registry, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__getattr__("__all__")])
