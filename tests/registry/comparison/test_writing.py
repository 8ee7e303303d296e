"""Adapters as files become one: module by module, the same bytes however the work is cut; experts; what DARE draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import tiny_models
from tensor_files import load_raw

from fusery.registry.adapters.peft_config import PeftConfig
from fusery.registry.comparison import plan as plans
from fusery.registry.comparison.modules import OpenAdapter, open_adapter
from fusery.registry.comparison.plan import CombineOptions, mask_of, measure, plan, write
from fusery.registry.errors import BadInputError, FusionUnsupportedError

Array = np.ndarray[Any, Any]
LINEAR, EXPERTS = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.switch_mlp.up_proj"


class Open(Protocol):
    def __call__(self, name: str, tensors: dict[str, Array], *, scale: float = 2.0) -> OpenAdapter: ...


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as stack:

        def make(name: str, tensors: dict[str, Array], *, scale: float = 2.0) -> OpenAdapter:
            path = tmp_path / f"{name}.safetensors"
            tiny_models.write_tensors(path, {key: ("F32", value) for key, value in tensors.items()}, None)
            return replace(stack.enter_context(open_adapter(path, scale, name=name)), digest=name[0] * 64)

        yield make


def tensors(seed: int, *, rank: int = 4, wide: int = 3000) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    shapes = {
        f"{LINEAR}.lora_a": (90, rank),
        f"{LINEAR}.lora_b": (rank, wide),
        f"{EXPERTS}.lora_a": (3, rank, 17),
        f"{EXPERTS}.lora_b": (3, 13, rank),
    }
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def read(path: Path) -> dict[str, Array]:
    return {name: value for name, (_, value) in load_raw(path).items()}


CHOICES = {
    "svd": CombineOptions("svd", (0.7, -0.4)),
    "cat": CombineOptions("cat", (0.7, -0.4)),
    "linear": CombineOptions("linear", (0.7, -0.4)),
    "ties": CombineOptions("ties", (0.7, -0.4), density=0.3),
    "dare": CombineOptions("dare", (0.7, -0.4), density=0.3, seed=5),
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_same_bytes(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    sources = [opened("a", tensors(1)), opened("b", tensors(2))]
    made = plan(sources, CHOICES[name])
    figures = write(sources, made, tmp_path / "one")
    monkeypatch.setattr(plans, "WORKERS", 1)
    again = write(sources, made, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert figures == again == measure(sources, made)


@pytest.mark.parametrize(
    "choice", [CHOICES["svd"], CHOICES["ties"], CombineOptions("dare", (0.7, -0.4), density=1.0, seed=0)]
)
def test_an_expert_s_update_is_made_as_a_linear_layer_s(
    opened: Open, tmp_path: Path, choice: CombineOptions
) -> None:
    """The second expert alone, laid out as a linear layer, gives what it gives among the others."""
    both, alone = [tensors(1), tensors(2)], []
    for part in both:
        a, b = part[f"{EXPERTS}.lora_a"][1], part[f"{EXPERTS}.lora_b"][1]
        alone.append({f"{LINEAR}.lora_a": a.T.copy(), f"{LINEAR}.lora_b": b.T.copy()})
    found = []
    for kind, held in (("stack", both), ("lone", alone)):
        sources = [opened(f"{number}{kind}", part) for number, part in enumerate(held)]
        write(sources, plan(sources, choice), tmp_path / kind)
        found.append(read(tmp_path / kind))
    for part in ("lora_a", "lora_b"):
        assert np.array_equal(found[0][f"{EXPERTS}.{part}"][1].T, found[1][f"{LINEAR}.{part}"])


def test_factors_of_peft_have_their_own_rank_and_scale(opened: Open) -> None:
    """mlx-lm's form pads the rank and multiplies another scale into B."""
    rendered = opened("a", tensors(1, rank=6), scale=1.0)
    config = PeftConfig.model_validate({"peft_type": "LORA", "r": 4, "lora_alpha": 8})
    whole, own = rendered.read(LINEAR), replace(rendered, config=config).read(LINEAR)
    assert (own.scale, own.a.shape[1], own.b.shape[0]) == (2.0, 4, 4)
    assert np.array_equal(own.a, whole.a[:, :4]) and np.array_equal(own.b, whole.b[:4] / 2)
    same = replace(rendered, config=config.model_copy(update={"lora_alpha": 4})).read(LINEAR)
    assert (same.scale, np.array_equal(same.b, whole.b[:4])) == (1.0, True)


def test_a_module_that_one_lacks_is_the_other_s(opened: Open, tmp_path: Path) -> None:
    first, second = tensors(1), tensors(2)
    lacking = {name: value for name, value in second.items() if name.startswith(EXPERTS)}
    sources = [opened("a", first), opened("b", lacking, scale=3.0)]
    write(sources, plan(sources, CombineOptions("svd", (0.5, 1.0))), tmp_path / "new")
    new = read(tmp_path / "new")
    update = new[f"{LINEAR}.lora_a"] @ new[f"{LINEAR}.lora_b"]
    expected = 0.5 * 2.0 * first[f"{LINEAR}.lora_a"] @ first[f"{LINEAR}.lora_b"]
    assert np.abs(update - expected).max() < 1e-5 * np.abs(expected).max()


def test_numbers_that_are_not_finite_or_would_not_be_are_refused(opened: Open, tmp_path: Path) -> None:
    bad = tensors(1)
    bad[f"{LINEAR}.lora_a"][0, 0] = np.nan
    sources = [opened("a", bad), opened("b", tensors(2))]
    with pytest.raises(FusionUnsupportedError):
        write(sources, plan(sources, CHOICES["svd"]), tmp_path / "new")
    large = {name: value * np.float32(1e18) for name, value in tensors(1).items()}
    sources = [opened("c", large, scale=1e30), opened("d", tensors(2))]
    with pytest.raises(BadInputError):
        write(sources, plan(sources, CHOICES["cat"]), tmp_path / "other")


def test_what_dare_draws_is_the_same_everywhere() -> None:
    """The stream is fixed: what a seed keeps today it keeps with every NumPy and on every machine."""
    kept = mask_of(7, ["0" * 64], 0.5, "model.layers.0.self_attn.q_proj#0")(0, "lora_a", (4, 5))
    assert kept.astype(int).ravel().tolist() == [0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0]
