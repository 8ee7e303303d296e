"""Types of fixtures that tests name in their signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Fusery = Callable[..., Any]
