"""Rows of one pass, each with its own adapter: what each gets is what mlx-lm computes for that adapter alone."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import adapters_by_class
import mlx.core as mx
import numpy as np
import pytest
import tiny_architectures
import tiny_models
from mlx_lm import load
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from safetensors.numpy import load_file, save_file

from fusery.registry.runtime.errors import AdapterError
from fusery.registry.runtime.stacked import RowsError, Stacked
from fusery.registry.runtime.switching import Resident, Switchboard

BASES: dict[str, dict[str, Any]] = {
    "quantised": {"bits": 4},
    "tied": {"tied": True},
    "bfloat16": {"dtype": "bfloat16"},
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "rank 8": {},
    "rank 8 again": {},
    "rank 8, other layers": {"keys": ["self_attn.q_proj", "self_attn.v_proj"]},
    "rank 1": {"rank": 1},
    "rank 48, all blocks": {"rank": 48, "num_layers": -1},
    "part of the layers missing": {"skip": ["model.layers.3.mlp.up_proj"]},
}
LENGTH = 7


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_base(tmp_path_factory.mktemp("base") / "model", dtype="float32")


def rows_of(board: Switchboard, residents: list[Resident | None], tokens: mx.array) -> np.ndarray:
    with board.rows.of(tuple(each.number if each is not None else None for each in residents)):
        board.rows.require(*tokens.shape)
        found = board.model(tokens)
        mx.eval(found)
    return np.array(found.astype(mx.float32))


def words(count: int, length: int = LENGTH) -> mx.array:
    return mx.array(np.random.default_rng(count).integers(5, 250, (count, length)))


def close(found: np.ndarray, expected: Any, *, bound: float = 2e-5) -> None:
    wanted = np.array(expected.astype(mx.float32))
    assert np.abs(found - wanted).max() <= bound * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("kind", BASES)
def test_each_row_has_its_own_adapter(kind: str, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "base", **{"dtype": "float32"} | BASES[kind])
    board = Switchboard(load(str(base))[0])
    folders = [
        tiny_models.make_adapter(
            tmp_path / str(number), base, seed=number, update=0.5, **{"num_layers": 2} | settings
        )
        for number, settings in enumerate(ADAPTERS.values())
    ]
    residents = [board.load(folder.name, folder, by_row=True) for folder in folders]
    assert all(resident.by_row for resident in residents)
    alone = [load(str(base))[0], *(load(str(base), adapter_path=str(folder))[0] for folder in folders)]
    everybody: list[Resident | None] = [None, *residents]
    # In bfloat16 a sum may round otherwise when a batch is as wide as this.
    bound = 2e-2 if kind == "bfloat16" else 2e-5
    rng = np.random.default_rng(0)
    for _ in range(3):
        chosen = rng.integers(0, len(everybody), rng.integers(1, 9))
        tokens = words(len(chosen))
        found = rows_of(board, [everybody[number] for number in chosen], tokens)
        for row, number in enumerate(chosen):
            close(found[row : row + 1], alone[number](tokens[row : row + 1]), bound=bound)
    tokens = words(3)
    assert np.array_equal(rows_of(board, [None] * 3, tokens), np.array(alone[0](tokens).astype(mx.float32)))


@pytest.mark.parametrize(
    ("kind", "length"),
    [("qwen3_moe", 40), ("qwen3_moe", 3), ("gemma3_text", 3), ("deepseek_v2", 40), ("qwen3_next", 3)],
)
def test_other_architectures(kind: str, length: int, tmp_path: Path) -> None:
    """Experts get their inputs sorted when there are many."""
    base = tiny_architectures.make_architecture(tmp_path / "base", kind, dtype="float32")
    folders = [
        adapters_by_class.make_adapter(tmp_path / f"a{number}", base, rank=4, update=0.5, seed=number)
        for number in (1, 2)
    ]
    board = Switchboard(load_model(base)[0])
    residents = [board.load(folder.name, folder, by_row=True) for folder in folders]
    assert all(resident.by_row for resident in residents)
    alone = [load_model(base)[0] for _ in range(3)]
    for model, folder in zip(alone[1:], folders, strict=True):
        load_adapters(model, str(folder)).eval()
    tokens = words(4, length)
    found = rows_of(board, [residents[1], None, residents[0], residents[1]], tokens)
    for row, number in enumerate((2, 0, 1, 2)):
        close(found[row : row + 1], alone[number](tokens[row : row + 1]), bound=1e-4)
    both = rows_of(board, [residents[1]] * 4, tokens)
    close(both, alone[2](tokens), bound=1e-4)


def test_numbers_that_are_none_stay_in_their_row(base: Path, tmp_path: Path) -> None:
    board = Switchboard(load(str(base))[0])
    good, bad = (
        tiny_models.make_adapter(tmp_path / name, base, seed=seed, update=0.5)
        for seed, name in enumerate(("good", "bad"))
    )
    file = bad / "adapters.safetensors"
    save_file({name: value * np.float32(np.nan) for name, value in load_file(file).items()}, file)
    one, other = (board.load(folder.name, folder, by_row=True) for folder in (good, bad))
    tokens = words(3)
    found = rows_of(board, [other, one, None], tokens)
    assert np.isnan(found[0]).all()
    close(found[1:2], load(str(base), adapter_path=str(good))[0](tokens[1:2]))
    close(found[2:3], load(str(base))[0](tokens[2:3]))


def test_a_dora_is_put_on_as_a_whole_beside_rows(base: Path, tmp_path: Path) -> None:
    board, tokens = Switchboard(load(str(base))[0]), words(2)
    lora = tiny_models.make_adapter(tmp_path / "lora", base, seed=1, update=0.5)
    dora = tiny_models.make_adapter(tmp_path / "dora", base, seed=2, update=0.5, fine_tune_type="dora")
    first, second = (board.load(folder.name, folder, by_row=True) for folder in (dora, lora))
    assert (first.by_row, second.by_row) == (False, True)
    for _ in range(2):
        board.use(first)
        with board.rows.of((None, None)):
            assert mx.array_equal(board.model(tokens), load(str(base), adapter_path=str(dora))[0](tokens))
        board.use(second)
        found = rows_of(board, [second, None], tokens)
        close(found[:1], load(str(base), adapter_path=str(lora))[0](tokens[:1]))
        close(found[1:], load(str(base))[0](tokens[1:]))


def test_what_is_gone_gives_its_place_back(base: Path, tmp_path: Path) -> None:
    told: list[bool] = []
    board = Switchboard(load(str(base))[0], wake=lambda: told.append(True))

    folders = [
        tiny_models.make_adapter(tmp_path / str(seed), base, seed=seed, update=0.5) for seed in range(6)
    ]
    residents = [board.load(folder.name, folder, by_row=True) for folder in folders]
    tokens = words(2)
    expected = [load(str(base), adapter_path=str(folder))[0](tokens[:1]) for folder in folders]
    layer = next(module for module in board.model.modules() if isinstance(module, Stacked))
    held = next(iter(layer._stacks.values()))
    assert held.first.shape[0] >= 6
    for gone in (0, 3, 1, 4):
        residents[gone] = None  # type: ignore[call-overload]
        gc.collect()
        board.sweep()
        for number, resident in enumerate(residents):
            if resident is not None:
                close(rows_of(board, [resident, None], tokens)[:1], expected[number])
    assert len(told) == 4
    assert held.first.shape[0] <= 4
    again = board.load("again", folders[0], by_row=True)
    alone = load(str(base), adapter_path=str(folders[0]))[0]
    close(rows_of(board, [None, again], tokens)[1:], alone(tokens[1:]))
    del again, resident
    residents.clear()
    gc.collect()
    board.sweep()
    assert not any(isinstance(module, Stacked) for module in board.model.modules())


def test_a_class_whose_layers_show_no_rows_keeps_its_lanes(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows may come one behind the other, but not mixed up."""
    from mlx_lm.models import llama

    folder, plain = tiny_models.make_adapter(tmp_path / "a", base, update=0.5), llama.MLP.__call__
    for call, by_row in (
        (lambda self, x: plain(self, x.swapaxes(0, 1)).swapaxes(0, 1), False),
        (lambda self, x: plain(self, x.reshape(-1, x.shape[-1])).reshape(x.shape), True),
    ):
        monkeypatch.setattr(llama.MLP, "__call__", call)
        board, tokens = Switchboard(load(str(base))[0]), words(2)
        resident = board.load("a", folder, by_row=True)
        assert resident.by_row == by_row
        expected = load(str(base), adapter_path=str(folder))[0](tokens)
        if by_row:
            close(rows_of(board, [None, resident], tokens)[1:], expected[1:])
        else:
            board.use(resident)
            assert mx.array_equal(board.model(tokens), expected)


def test_a_pass_that_nobody_announced_is_none(base: Path) -> None:
    board = Switchboard(load(str(base))[0])
    with board.rows.of((None, None)), pytest.raises(RowsError):
        board.rows.require(3, 1)


def test_many_ranks_are_few_products(base: Path, tmp_path: Path) -> None:
    """Who registers adapters of all ranks makes a pass no slower for the others: ranks are filled up with zeros."""
    board = Switchboard(load(str(base))[0])
    folders = [
        tiny_models.make_adapter(tmp_path / str(rank), base, seed=rank, rank=rank, update=0.5)
        for rank in range(1, 34)
    ]
    residents: list[Resident | None] = [board.load(folder.name, folder, by_row=True) for folder in folders]
    tokens = words(len(residents))
    found = rows_of(board, residents, tokens)
    layer = next(module for module in board.model.modules() if isinstance(module, Stacked))
    with board.rows.of(tuple(each.number for each in residents if each is not None)):
        assert [len(part.scales.tolist()) for part in layer.parts()] == [8, 8, 16, 1]
    for row in (0, 7, 8, 20, 32):
        close(found[row : row + 1], load(str(base), adapter_path=str(folders[row]))[0](tokens[row : row + 1]))


def test_a_scale_that_is_no_number_leaves_nothing_behind(base: Path, tmp_path: Path) -> None:
    folder = tiny_models.make_adapter(tmp_path / "a", base)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    board = Switchboard(load(str(base))[0])
    for scale in (None, "x", [1.0], {}):
        config["lora_parameters"]["scale"] = scale
        path.write_text(json.dumps(config))
        with pytest.raises(AdapterError):
            board.load("a", folder, by_row=True)
        assert not any(isinstance(module, Stacked) for module in board.model.modules())
