"""`push` and `pull` with the URL of a server: the same output, one sentence for what is wrong, and the token nowhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny_models
from fixture_types import Fusery
from page_server import pages_of

from fusery.registry import Registry
from fusery.web.auth import Proxies, TokenAuth


@pytest.mark.slow
@pytest.mark.timing
def test_many_at_once_get_one_version_each(
    stocked: Fusery, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a declared version, a client that loses the race for one takes the next."""
    folders = [
        tiny_models.make_adapter(tmp_path / str(seed), tiny_base, seed=seed, rank=4) for seed in (30, 31, 32)
    ]
    with Registry.open(tmp_path / "home") as there:
        monkeypatch.setenv("FUSERY_TOKEN", there.tokens.create("ci", "publisher").secret)
        with pages_of(there, TokenAuth(there, Proxies())) as url, Registry.open(url) as own:

            def register(folder: Path) -> int:
                return own.adapters.register(folder, base="tiny", task="new").version

            with ThreadPoolExecutor(len(folders)) as pool:
                assert sorted(pool.map(register, folders)) == [1, 2, 3]
        assert there.upkeep.audit().ok
