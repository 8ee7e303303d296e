"""Calibrations that come from elsewhere are held against the base that they are of, as it is on record here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_architectures
import tiny_models
from made_calibrations import put_calibration

from fusery.registry import Registry
from fusery.registry.errors import BadInputError

QUERY = "model.layers.0.self_attn.q_proj"
SWITCH = "model.layers.0.mlp.switch_mlp.up_proj"


@dataclass(frozen=True)
class Pull:
    """A registry with a base, ours, and what copies the base here."""

    theirs: Registry
    ours: Registry
    bring: Callable[[], object]


@pytest.fixture
def pull(sqlite_registry: Registry, other: Registry, other_home: Path) -> Pull:
    return Pull(other, sqlite_registry, lambda: sqlite_registry.exchange.pull("four", other_home))


def based(registry: Registry, tmp_path: Path, *, experts: bool = False, bits: int | None = 4) -> None:
    if experts:
        base = tiny_architectures.make_architecture(tmp_path / "base", "qwen3_moe", bits=4, group_size=32)
    else:
        base = tiny_models.make_base(tmp_path / "base", bits=bits, group_size=32, layers=1)
    registry.bases.add(base, name="four")


@pytest.mark.parametrize(
    "widths",
    [{QUERY: 160}, {"model.layers.0.mlp.down_proj": 256, QUERY: 1}, {SWITCH: 64}],
    ids=["wider", "one number", "a switch layer"],
)
def test_one_that_does_not_fit_is_refused(widths: dict[str, int], pull: Pull, tmp_path: Path) -> None:
    based(pull.theirs, tmp_path, experts=SWITCH in widths)
    put_calibration(pull.theirs, "four", widths)
    with pytest.raises(BadInputError) as caught:
        pull.bring()
    assert [*widths][-1] in caught.value.message
    assert caught.value.hint
    assert not pull.ours.bases.show("four").calibrations
    assert pull.ours.upkeep.audit().ok


@pytest.mark.parametrize("bits", [4, None], ids=["quantised", "plain"])
def test_one_that_fits_is_taken(bits: int | None, pull: Pull, tmp_path: Path) -> None:
    """What it knows besides, of a module that the record does not have or of plain numbers, hurts nobody."""
    based(pull.theirs, tmp_path, bits=bits)
    made = put_calibration(
        pull.theirs, "four", {QUERY: 128, "elsewhere": 3} if bits else {QUERY: 99, "elsewhere": 3}
    )
    pull.bring()
    assert [each.digest for each in pull.ours.bases.show("four").calibrations] == [made]
