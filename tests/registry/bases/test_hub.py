"""A hub that does not answer, asked by the real client."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.errors import BadInputError


def test_a_hub_that_is_away_is_said_in_plain_words(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(BadInputError) as caught:
        registry.bases.add("team/no-such-model")
    assert "team/no-such-model" in caught.value.message
