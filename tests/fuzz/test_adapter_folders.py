"""Damaged configurations and metadata, of mlx-lm and of PEFT: findings or one sentence, and what gets in is recorded."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import tiny_models
from fuzz.adapter_folders import hold, spoil
from hostile.arena import Arena, peft_adapter, require_plain

from fusery.registry.admission.candidate import BaseFacts
from fusery.registry.models.architecture import read_architecture


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_base(
        tmp_path_factory.mktemp("fuzz") / "tiny", layers=2, hidden=64, intermediate=64
    )


@pytest.fixture(scope="module")
def facts(base: Path) -> BaseFacts:
    return BaseFacts("tiny", read_architecture(base), frozenset({"tiny"}))


@pytest.fixture(scope="module")
def mlx(base: Path) -> Path:
    return tiny_models.make_adapter(base.parent / "mlx", base, rank=4, keys=["self_attn.q_proj"])


@pytest.fixture(scope="module")
def peft(base: Path) -> Path:
    return peft_adapter(base.parent / "peft")


TIMES = 30 if os.environ.get("FUSERY_SOAK") else 1


@pytest.mark.parametrize(("kind", "count"), [("mlx", 400 * TIMES), ("peft", 150 * TIMES)])
def test_folders(
    kind: str, count: int, facts: BaseFacts, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    template, random, seen = request.getfixturevalue(kind), Random(count), Counter[str]()
    for _ in range(count):
        spoil(tmp_path / "adapters", template, random)
        seen[hold(tmp_path / "adapters", facts)] += 1
    # The fuzzer must reach both sides to be worth anything.
    assert seen["fail"] > count // 10
    assert seen["pass"] + seen["warn"] > count // 10


@pytest.mark.parametrize("kind", ["mlx", "peft"])
def test_what_gets_in_is_recorded(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    arena, random = Arena(tmp_path / "home", tmp_path), Random(7)
    template, seen = request.getfixturevalue(kind), Counter[int]()
    for number in range(24):
        spoil(tmp_path / "adapters", template, random)
        words = ("--base", "tiny", "--task", f"task{number}", "--json")
        ran = arena.fusery("register", tmp_path / "adapters", *words)
        require_plain(ran)
        assert ran.code in (0, 2), ran
        seen[ran.code] += 1
        if ran.code == 0:
            shown = arena.fusery("show", ran.json["name"])
            require_plain(shown)
            assert shown.code == 0
    assert min(seen[0], seen[2]) >= 3
    assert arena.fusery("audit", "--json").json["ok"]
