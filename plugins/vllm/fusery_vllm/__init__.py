"""vLLM asks a fusery registry for the adapters that requests name: `course_rec_v2_20261124`, or `course_rec@2`.

vLLM calls `register` in every process (vllm 0.32.0 and 0.33.0: vllm/plugins/__init__.py, vllm/lora/resolver.py,
vllm/entrypoints/openai/models/serving.py), so nothing is imported before a request names what vLLM does not know.
"""

from __future__ import annotations


def register() -> None:
    """Tell vLLM of the resolver."""
    from vllm.lora.resolver import LoRAResolverRegistry

    from .resolver import FuseryResolver

    LoRAResolverRegistry.register_resolver("fusery", FuseryResolver())
