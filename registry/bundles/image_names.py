"""Names of container images."""

from __future__ import annotations

import re

from ..errors import BadInputError

_IMAGE = re.compile(
    r"(?:[A-Za-z0-9.-]{1,120}(?::[0-9]{1,5})?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
"""A reference to an image: the grammar of distribution/reference/reference.go, a little narrower."""


def is_image(reference: str) -> bool:
    """Tell whether a text is a reference to an image."""
    return _IMAGE.fullmatch(reference) is not None


def checked_image(reference: str, example: str) -> str:
    """Return a reference to an image.

    Args:
        reference: what the user gave.
        example: of one, for the error.

    Raises:
        BadInputError: it is none.
    """
    if not is_image(reference):
        raise BadInputError(
            f"{reference[:60]!r} is not the name of an image", hint=f"for example: --base-image {example}"
        )
    return reference
