"""Bits module by module under a budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusery.registry.engine.allocate import Sampled, allocate
from fusery.registry.engine.fidelity import Fidelity, ModuleFidelity


def sampled(retained: dict[str, float], numbers: dict[str, int], error: float = 0.5) -> Sampled:
    modules = tuple(ModuleFidelity(path, 1.0, share, 0.5, error) for path, share in retained.items())
    return Sampled(Fidelity("PASS", 1.0, 1.0, 1.0, 0.0, 0.0, modules), 0, numbers)


NUMBERS = {"large": 8000, "small": 800}
SAMPLES = {
    4: sampled({"large": 0.1, "small": 0.1}, NUMBERS),
    5: sampled({"large": 0.05, "small": 0.05}, NUMBERS),  # worse than 4 bits: it must be stepped over
    8: sampled({"large": 1.0, "small": 1.0}, NUMBERS),
}


def test_nothing_fits() -> None:
    assert allocate(SAMPLES, 0) == {"large": 4, "small": 4}


def test_what_brings_most_per_byte_goes_first() -> None:
    assert allocate(SAMPLES, 400) == {"large": 4, "small": 8}
    assert allocate(SAMPLES, 4000) == {"large": 4, "small": 8}
    assert allocate(SAMPLES, 4400) == {"large": 8, "small": 8}


def test_a_module_that_keeps_everything_gets_no_more_bits() -> None:
    samples = {
        4: sampled({"a": 1.0, "b": 0.2}, {"a": 800, "b": 800}, 0.0),
        8: sampled({"a": 1.0, "b": 0.9}, {}, 0.1),
    }
    assert allocate(samples, 1e9) == {"a": 4, "b": 8}


@given(
    st.dictionaries(
        st.sampled_from("abcdefgh"),
        st.tuples(st.integers(8, 10_000), st.lists(st.floats(-1, 2), min_size=4, max_size=4)),
        min_size=1,
    ),
    st.floats(0, 50_000),
)
def test_the_budget_is_never_exceeded(modules: dict[str, tuple[int, list[float]]], room: float) -> None:
    numbers = {path: count for path, (count, _) in modules.items()}
    samples = {
        bits: sampled({path: shares[place] for path, (_, shares) in modules.items()}, numbers)
        for place, bits in enumerate((4, 5, 6, 8))
    }
    bits = allocate(samples, room)
    assert bits.keys() == modules.keys()
    spent = sum(numbers[path] * (wide - 4) // 8 for path, wide in bits.items())
    assert spent <= room + 2 * len(bits)
