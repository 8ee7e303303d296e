"""The fixtures of the command line."""

from cli.conftest import fusery, stocked, stocked_home, tiny_base

__all__ = ["fusery", "stocked", "stocked_home", "tiny_base"]
