"""The note on the speed of quantised weights has the number of this machine, and the command that avoids the cost."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery

from fusery.registry.fusion import request, speed

COST = "times slower with quantised weights"


def register_small(fusery: Fusery, tmp_path: Path, **config: object) -> Fusery:
    """Register `small@1`, an adapter of a base of 4 bits."""
    base = tiny_models.make_base(tmp_path / "tiny4", bits=4, layers=2)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=2)
    document = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(document | config))
    assert fusery("base", "add", base, "--name", "tiny4").code == 0
    words = ("--base", "tiny4", "--task", "small", "--date", "20260115")
    assert fusery("register", adapter, *words).code == 0
    return fusery


@pytest.mark.slow
def test_fuse_and_materialize_name_the_command_for_16_bits(
    fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "times_faster", lambda cache, form: 7.4 if form else 1.0)
    monkeypatch.setattr(request, "times_faster", lambda cache, form: 7.4)
    quantised = register_small(fusery, tmp_path)
    ran = quantised("fuse", "small@1", "--as", "mixed")
    assert ran.code == 0 and f"7.4 {COST}" in ran.err
    command = shlex.split(ran.err.partition(COST)[2].partition(": ")[2].partition("\n")[0])
    dense = quantised(*command[1:])
    assert "-o scale=19 --as 16bit" in quantised("fuse", "small@1", "-o", "scale=19").err
    assert dense.code == 0 and COST not in dense.err
    assert COST not in quantised("fuse", "small@1", "--as", "mixed", "--json").err
    ran = quantised("materialize", "small@1", "docker", "--target", "docker", "--as", "mixed")
    assert ran.code == 0 and "add --as 16bit --force" in ran.err
    gguf = quantised("materialize", "small@1", "file", "--target", "gguf", "--as", "mixed")
    assert COST not in gguf.err
    assert COST in (tmp_path / "docker" / "README.md").read_text()
    card = (tmp_path / "docker" / "model" / "README.md").read_text()
    assert COST in card
    assert "\nfusery materialize small_v1_20260115 DEST --as 16bit\n" in card
    dense = quantised("materialize", "small@1", "dense", "--as", "16bit")
    assert dense.code == 0 and COST not in dense.err + (tmp_path / "dense" / "README.md").read_text()
