from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_a_folder_is_printed_and_nothing_else(stocked: Any) -> None:
    done = stocked("path", "course_rec@1")
    assert done.code == 0
    folder = Path(done.out.strip())
    assert (folder / "adapters.safetensors").is_file()
    assert stocked("path", "course_rec@1", "-q").out == done.out
    found = stocked("path", "course_rec@1", "--format", "peft", "--json").json
    assert (found["kind"], found["format"]) == ("adapter", "peft")
    assert (Path(found["path"]) / "adapter_model.safetensors").is_file()


def test_a_base_has_one_as_well(stocked: Any) -> None:
    assert (Path(stocked("path", "tiny").out.strip()) / "config.json").is_file()


@pytest.mark.slow
def test_what_is_not_here_says_how_to_get_it(stocked: Any) -> None:
    made = stocked("fuse", "course_rec@1", "--accept-loss", "--json").json
    assert stocked("path", made["key"]).out.strip() == made["path"]
    assert stocked("cache", "prune", "0").code == 0
    done = stocked("path", made["key"])
    assert (done.code, done.out) == (2, "")
    assert f"fuse {made['adapter']} --recipe {made['key']}" in done.err
    [command] = [line.partition("fusery ")[2].split() for line in done.err.splitlines() if "Hint" in line]
    assert stocked(*command, "--accept-loss").code == 0
    assert stocked("path", made["key"]).out.strip() == made["path"]
