"""The fixtures of the registry."""

from registry.conftest import fill, open_registry, registry, stocked, templates, tiny_base

__all__ = ["fill", "open_registry", "registry", "stocked", "templates", "tiny_base"]
