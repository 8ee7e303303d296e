"""Ports, schema versions and configurations that cannot be are sentences, with the exit code of bad input."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fixture_types import Fusery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusery.registry.engine.config import MOST, absurdity

HOST = "postgresql://ann@host"
DATABASES = (
    *(f"{HOST}:{port}/x" for port in ("nine", "", "99999", "0", "-1")),
    "postgresql://ann@[::1/x",
    "postgresql://ann@127.0.0.1/x?port=nine",
)
ENDPOINTS = ("http://host:nine", "http://host:99999", "host:9000", "http://[::1", 5, "", ["x"])
STORES: tuple[tuple[str, dict[str, Any]], ...] = (
    *((f"sftp://host:{port}/x", {}) for port in ("nine", "99999", "0")),
    *(("s3://bucket/x", {"endpoint_url": value}) for value in ENDPOINTS),
    *(("s3://bucket/x", {"client_kwargs": {"endpoint_url": value}}) for value in ENDPOINTS),
)


@pytest.fixture(autouse=True)
def no_raising(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_FUSERY_RAISES", raising=False)


def require_reported(ran: Any, named: str, words: object = None) -> None:
    """Require one error that names a thing, and is no surprise."""
    assert (ran.code, named in ran.err, "Traceback" in ran.err) == (2, True, False), (words, ran.out, ran.err)
    assert "internal error" not in ran.err


def test_malformed_urls(stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in DATABASES:
        monkeypatch.setenv("FUSERY_DATABASE_URL", url)
        require_reported(stocked("list"), "database URL", url)
    monkeypatch.delenv("FUSERY_DATABASE_URL")
    for url, options in STORES:
        monkeypatch.setenv("FUSERY_STORE_URL", url)
        monkeypatch.setenv("FUSERY_STORE_OPTIONS", json.dumps(options))
        named = "endpoint_url" if options else "is not the URL of a"
        require_reported(stocked("--registry", "new", "admin", "init"), named, (url, options))
    for port in ("nine", "99999", "-1", "1.5", ""):
        require_reported(stocked("serve", "course_rec@1", "--port", port), "'--port'", port)


def test_a_schema_version_that_is_no_text(stocked: Fusery, tmp_path: Path) -> None:
    for value in ("x'30303131'", "x'ff00'", "11", "1e400", "'0011' || char(0)", "CAST(x'ff' AS TEXT)"):
        with closing(sqlite3.connect(tmp_path / "home" / "fusery.db")) as connection, connection:
            connection.execute(f"UPDATE alembic_version SET version_num = {value}")
        for words in ("list", "admin db upgrade", "admin db check", "init", "audit"):
            require_reported(stocked(*words.split()), "Hint: ", (value, words))


ABSURD: list[tuple[str, Any]] = [
    ("num_hidden_layers", -5),
    ("vocab_size", 10**12),
    ("hidden_size", 10**30),
    ("hidden_size", 0),
    *((name, value) for name in MOST for value in (-1, 10**15, 1.5, "many", True, {}, [-1])),
    *((name, value) for name in ("rope_theta", "rms_norm_eps") for value in (-5, 0, 10**400, "x", True, [])),
    *(("quantization", value) for value in (5, "4bit", [4])),
    ("text_config", {"num_hidden_layers": -5}),
]


def test_an_absurd_configuration_is_no_base(tiny_base: Path, fusery: Fusery, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "absurd"))
    text = (folder / "config.json").read_text()
    assert all(absurdity({**json.loads(text), name: value}) for name, value in ABSURD)
    texts = [json.dumps({**json.loads(text), name: value}) for name, value in ABSURD[:4]]
    for value in ("NaN", "Infinity", "-Infinity", "1e999", "[" * 100_000):
        texts.append(text.replace('"hidden_size": 128', f'"hidden_size": {value}'))
        assert texts[-1] != text
    for changed in texts:
        (folder / "config.json").write_text(changed)
        require_reported(fusery("base", "add", folder), "config.json", changed[:200])
    assert "tiny" not in fusery("base", "list").out


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from([*MOST, "rope_theta", "rms_norm_eps", "quantization", "text_config"]), _JSON
    )
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_configuration_is_sensible_or_told_of(config: dict[str, Any]) -> None:
    found = absurdity(config)
    assert found is None or len(found) < 200
    if found is None:
        for name in MOST:
            values = config.get(name)
            for value in values if isinstance(values, list) else [values]:
                assert value is None or 0 <= int(value) <= MOST[name]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"head_dim": None, "num_key_value_heads": None, "quantization": None},
        {"intermediate_size": [8192, 16384], "num_key_value_heads": [8, 4, 0]},
        {"max_position_embeddings": 131072.0, "vocab_size": 262_208, "num_hidden_layers": 126},
        {"text_config": {"hidden_size": 2560}, "vision_config": {"num_hidden_layers": 27}},
    ],
)
def test_what_real_models_have_is_sensible(config: dict[str, Any]) -> None:
    assert absurdity(config) is None
