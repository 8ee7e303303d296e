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
from fusery.registry.engine import calibration
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.storage.errors import FormatError, FuseryError

QUERY = "model.layers.0.self_attn.q_proj"
SWITCH = "model.layers.0.mlp.switch_mlp.up_proj"


@dataclass(frozen=True)
class Ways:
    """A registry with a base, another one, and what copies the base there."""

    theirs: Registry
    ours: Registry
    bring: Callable[[], object]


@pytest.fixture(params=["pull", "push"])
def ways(
    request: pytest.FixtureRequest, sqlite_registry: Registry, other: Registry, other_home: Path
) -> Ways:
    """Either way."""
    if request.param == "pull":
        return Ways(other, sqlite_registry, lambda: sqlite_registry.exchange.pull("four", other_home))
    return Ways(sqlite_registry, other, lambda: sqlite_registry.exchange.push("four", other_home))


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
def test_one_that_does_not_fit_is_refused(widths: dict[str, int], ways: Ways, tmp_path: Path) -> None:
    based(ways.theirs, tmp_path, experts=SWITCH in widths)
    put_calibration(ways.theirs, "four", widths)
    with pytest.raises(BadInputError) as caught:
        ways.bring()
    assert [*widths][-1] in caught.value.message
    assert caught.value.hint
    assert not ways.ours.bases.show("four").calibrations
    assert ways.ours.upkeep.audit().ok


def test_numbers_that_none_has_are_refused(
    ways: Ways, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    based(ways.theirs, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(calibration, "MOST_ENERGY", float("inf"))
        put_calibration(ways.theirs, "four", {QUERY: 128}, size=2e18)
    with pytest.raises(FormatError) as caught:
        ways.bring()
    assert caught.value.hint
    assert not ways.ours.bases.show("four").calibrations


@pytest.mark.parametrize("bits", [4, None], ids=["quantised", "plain"])
def test_one_that_fits_is_taken(bits: int | None, ways: Ways, tmp_path: Path) -> None:
    """What it knows besides, of a module that the record does not have or of plain numbers, hurts nobody."""
    based(ways.theirs, tmp_path, bits=bits)
    made = put_calibration(
        ways.theirs, "four", {QUERY: 128, "elsewhere": 3} if bits else {QUERY: 99, "elsewhere": 3}
    )
    ways.bring()
    assert [each.digest for each in ways.ours.bases.show("four").calibrations] == [made]


def test_an_unfit_calibration_on_record_is_reported_when_it_is_used(
    sqlite_registry: Registry, tmp_path: Path
) -> None:
    """As one has it who pulled with an earlier version; what needs none of it is made."""
    based(sqlite_registry, tmp_path)
    made = tiny_models.make_adapter(tmp_path / "made", tmp_path / "base", update=0.01, num_layers=1)
    sqlite_registry.adapters.register(made, base="four", task="lessons")
    put_calibration(sqlite_registry, "four", {QUERY: 160})
    with pytest.raises(FuseryError) as caught:
        sqlite_registry.fused.fuse("lessons@1", FuseRequest("dither"))
    assert caught.value.hint and caught.value.exit_code == 2
    assert sqlite_registry.fused.fuse("lessons@1", FuseRequest("keep", accept_loss=True))
