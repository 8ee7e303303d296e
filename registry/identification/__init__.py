"""Identification: what a folder, an archive, a safetensors or a GGUF file is that was found somewhere."""

from .identify import Begun, identify

__all__ = ["Begun", "identify"]
