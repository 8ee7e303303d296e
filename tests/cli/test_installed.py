"""Hints that install fusery, or an extra of it, work where they are read: from a clone, an archive or an index."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from fusery.cli.hints import as_installed


@pytest.mark.parametrize(
    ("said", "source"),
    [
        ({}, "'fusery[mlx]'"),
        ({"url": "file://FOLDER", "dir_info": {}}, "'FOLDER[mlx]'"),
        ({"url": "file://FOLDER", "dir_info": {"editable": True}}, "--editable 'FOLDER[mlx]'"),
        ({"url": "https://x.org/f.whl", "archive_info": {}}, "'fusery[mlx] @ https://x.org/f.whl'"),
        ({"url": "https://x.org/f", "vcs_info": {"vcs": "git"}}, "'fusery[mlx] @ git+https://x.org/f'"),
    ],
)
def test_it_comes_from_where_it_came_from(
    said: dict[str, object], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(said).replace("FOLDER", str(tmp_path))
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: text))
    hint = as_installed("it needs more: pip install 'fusery[mlx]'")
    assert hint.startswith("it needs more: ")
    assert hint.endswith(f"pip install {source.replace('FOLDER', str(tmp_path))}")
    options = as_installed("pip install --force-reinstall --no-binary fusery fusery")
    assert " install --force-reinstall --no-binary fusery " in options


def test_other_instructions_are_left_alone() -> None:
    for text in ("pip install mlx-lm", "pip install fusery-tools", "fusery list"):
        assert as_installed(text) == text
