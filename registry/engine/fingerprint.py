"""What the results of mlx-lm's own classes depend on: its version, MLX's, and the platform."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from ..errors import MissingExtraError


def fingerprint() -> str:
    """Name what loads a base that cannot be taken by name, without importing it.

    Raises:
        MissingExtraError: mlx-lm is not installed.
    """
    try:
        versions = [f"{package} {version(package)}" for package in ("mlx-lm", "mlx")]
    except PackageNotFoundError:
        raise MissingExtraError("a base whose tensors mlx-lm rearranges", "mlx") from None
    return ", ".join([*versions, f"{platform.system()}-{platform.machine()}"])
