"""Adapter folders whose JSON files are damaged, drawn from a `random.Random`, and what must hold of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from fuzz.mutate import garble, mutate, text, tree

from fusery.registry.adapters.finding import verdict
from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.admission.candidate import BaseFacts, Candidate, look_around
from fusery.registry.admission.rules import CODES, examine
from fusery.registry.admission.submission import Submission
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
    findings = examine(Candidate(found, base, Submission(task="course_rec"), look_around(folder)))
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
