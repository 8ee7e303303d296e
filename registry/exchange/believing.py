"""What has to hold of a package from elsewhere before any of its files is fetched, wherever it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from ..errors import BadInputError
from .arriving import require_names
from .bounds import require_sound
from .claims import check
from .moments import require_moments
from .package import Item

_ID = re.compile(r"[0-9A-Za-z.-]{1,36}")
"""The id of a registry."""


def require_believable(package: Iterable[Item]) -> None:
    """Refuse a package with something in it that no registry could have recorded.

    Raises:
        BadInputError: there is.
    """
    now = datetime.now(UTC)
    for item in package:
        require_sound(item)
        require_moments(item, now)
        check(item)
        require_names(item)


def require_identity(found: str) -> str:
    """Return the id of another registry.

    Raises:
        BadInputError: it cannot be one.
    """
    if not _ID.fullmatch(found):
        raise BadInputError("the other registry has no id that is one", hint="fusery doctor, there")
    return found
