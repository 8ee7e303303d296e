"""Names of datasets that every database can index."""

from __future__ import annotations

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError

ONE = "course_rec@1"
LONG = "".join(chr(0x20000 + 97 * number) for number in range(490))
"""Four bytes for each character, which PostgreSQL cannot compress."""


def test_a_name_with_too_many_bytes_is_refused(stocked: Registry) -> None:
    stocked.adapters.amend(ONE, dataset=LONG, reason="long, and within the limit")
    with pytest.raises(BadInputError, match="bytes"):
        stocked.adapters.amend(ONE, dataset=LONG, dataset_revision=LONG[:195], reason="too long")
    assert not stocked.adapters.show(ONE).dataset_revision
