"""The law of waiting: it doubles, it is bounded, and chance makes it shorter only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.webhooks.delivering import Backoff

ATTEMPTS = st.integers(1, 10_000)
CHANCES = st.floats(0, 1)


@given(ATTEMPTS, CHANCES)
def test_it_is_between_three_quarters_and_all_of_what_doubling_gives(attempts: int, chance: float) -> None:
    law = min(3600.0, 2.0 ** min(attempts - 1, 20))
    assert 0.75 * law <= Backoff(chance=lambda: chance).after(attempts) <= law


def test_it_goes_from_a_second_to_an_hour() -> None:
    law = Backoff(chance=lambda: 0.0)
    assert [law.after(number) for number in (0, 1, 2, 3, 12, 13, 1 << 70)] == [1, 1, 2, 4, 2048, 3600, 3600]
