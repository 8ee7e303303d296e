"""The projects that there are manifests for."""

from __future__ import annotations

from .aibrix import AIBRIX
from .kserve import KSERVE
from .llm_d import LLM_D
from .production_stack import PRODUCTION_STACK

PROJECTS = (KSERVE, PRODUCTION_STACK, AIBRIX, LLM_D)
"""In the order in which a README tells of them."""
