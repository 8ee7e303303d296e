"""Damaged configurations and metadata, of mlx-lm and of PEFT: findings or one sentence, and what gets in is recorded."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tiny_models
from fuzz.mutate import garble, mutate, text, tree
from hostile.arena import Arena, peft_adapter, require_plain

from fusery.registry.adapters import verdict
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.admission.candidate import BaseFacts, Candidate
from fusery.registry.admission.rules import CODES, examine
from fusery.registry.admission.submission import Submission
from fusery.registry.models.architecture import read_architecture
from fusery.storage.errors import StorageError

METADATA: Mapping[str, Any] = {
    "adapter_name": "course_rec_v1_20260115", "base_model": "tiny", "version": "1",
    "training_date": "2026-01-15", "dataset": "courses", "training_examples": 120, "final_val_loss": 0.61,
    "lora_rank": 8, "lora_alpha": 160.0,
}  # fmt: skip
FILES = ("adapter_config.json", "adapter_metadata.json")


def damaged(document: Any, random: Random) -> bytes:
    parts = tree(document)
    damage = random.random()
    if 0.1 <= damage < 0.9:
        for _ in range(random.choice((1, 1, 1, 2, 3, 5))):
            mutate(parts, random)
    data = text(parts, random, space=random.random() < 0.1).encode("utf-8", "surrogatepass")
    return garble(data, random) if damage >= 0.9 else data


def spoil(folder: Path, template: Path, random: Random) -> None:
    if not folder.exists():
        shutil.copytree(template, folder)
    config = json.loads((template / FILES[0]).read_text())
    which = random.randrange(3)
    (folder / FILES[0]).write_bytes(damaged(config, random) if which != 1 else json.dumps(config).encode())
    (folder / FILES[1]).write_bytes(damaged(METADATA, random) if which != 0 else b"{}")


def hold(folder: Path, base: BaseFacts) -> str:
    try:
        found = read_adapter_folder(folder)
    except StorageError as error:
        _require_sentence(error.message)
        return "unreadable"
    findings = examine(Candidate(found, base, Submission(task="course_rec")))
    assert len(findings) < 200, len(findings)
    for finding in findings:
        assert finding.code in CODES, finding
        _require_sentence(finding.message)
        json.dumps(finding.to_dict()).encode()
    return verdict(findings)


def _require_sentence(message: str) -> None:
    assert message.strip()
    assert len(message) < 4000, len(message)
    # Databases keep neither.
    assert "\0" not in message, message
    message.encode("utf-8")


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


TIMES = 50 if os.environ.get("FUSERY_SOAK") else 1


@pytest.mark.parametrize(("kind", "count"), [("mlx", 200 * TIMES), ("peft", 100 * TIMES)])
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
