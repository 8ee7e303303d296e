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

from fusery.registry.engine.sizes import MOST, absurdity

DATABASES = {
    "a word": ("postgresql://ann@host:nine/x", "the port in the database URL is not a number"),
    "nothing": ("postgresql://ann@host:/x", "the port in the database URL is not a number"),
    "too large": ("postgresql://ann@host:99999/x", "there are 1 to 65535"),
    "zero": ("postgresql://ann@host:0/x", "there are 1 to 65535"),
    "negative": ("postgresql://ann@host:-1/x", "there are 1 to 65535"),
    "half an address": ("postgresql://ann@[::1/x", "database URL is not"),
    "in an option": (
        "postgresql://ann@127.0.0.1/x?port=nine",
        "an option in the database URL is not acceptable",
    ),
}
STORES = {
    "a word": ("sftp://host:nine/x", {}, "is not the URL of a store"),
    "too large": ("sftp://host:99999/x", {}, "is not the URL of a store"),
    "zero": ("sftp://host:0/x", {}, "is not the URL of a store"),
    **{
        f"endpoint {value!r}": ("s3://bucket/x", {where: value} if where else {"client_kwargs": {"endpoint_url": value}}, "is not the URL of a server")
        for where in ("endpoint_url", "")
        for value in ("http://host:nine", "http://host:99999", "host:9000", "http://[::1", 5, "", ["x"])
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_raising(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_FUSERY_RAISES", raising=False)


def require_sentence(ran: Any, sentence: str) -> None:
    assert ran.code == 2, ran.out
    assert sentence in ran.err, ran.err
    assert "Traceback" not in ran.err
    assert "does not know" not in ran.err


@pytest.mark.parametrize("case", DATABASES)
def test_a_port_of_the_database(case: str, stocked: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    url, sentence = DATABASES[case]
    monkeypatch.setenv("FUSERY_DATABASE_URL", url)
    require_sentence(stocked("list"), sentence)
    require_sentence(stocked("pull", "x@1", "--database", url, "--store", "s3://bucket/x"), sentence)


@pytest.mark.parametrize("case", STORES)
def test_a_port_of_the_store(case: str, fusery: Fusery, monkeypatch: pytest.MonkeyPatch) -> None:
    url, options, sentence = STORES[case]
    monkeypatch.setenv("FUSERY_STORE_URL", url)
    monkeypatch.setenv("FUSERY_STORE_OPTIONS", json.dumps(options))
    require_sentence(fusery("init"), sentence)


@pytest.mark.parametrize("port", ["nine", "99999", "-1", "1.5", ""])
def test_a_port_to_serve_on(port: str, stocked: Fusery) -> None:
    require_sentence(stocked("serve", "course_rec@1", "--port", port), "'--port'")


@pytest.mark.parametrize(
    "value", ["x'30303131'", "x'ff00'", "11", "1e400", "'0011' || char(0)", "CAST(x'ff' AS TEXT)"]
)
@pytest.mark.parametrize(
    "words", [["list"], ["db", "upgrade"], ["db", "check"], ["init"], ["audit"]], ids=" ".join
)
def test_a_version_of_the_schema_that_is_no_text(
    value: str, words: list[str], stocked: Fusery, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "home" / "fusery.db")) as connection, connection:
        connection.execute(f"UPDATE alembic_version SET version_num = {value}")
    require_sentence(stocked(*words), "Hint: ")


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


@pytest.mark.parametrize(("name", "value"), ABSURD, ids=lambda value: str(value)[:20])
def test_an_absurd_configuration_is_no_base(
    name: str, value: Any, tiny_base: Path, fusery: Fusery, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "absurd"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: value}))
    require_sentence(fusery("base", "add", folder), "Error: config.json ")
    assert "tiny" not in fusery("base", "list").out


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "[" * 100_000])
def test_a_number_that_is_none(text: str, tiny_base: Path, fusery: Fusery, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "absurd"))
    config = (folder / "config.json").read_text().replace('"hidden_size": 128', f'"hidden_size": {text}')
    assert text in config
    (folder / "config.json").write_text(config)
    require_sentence(fusery("base", "add", folder), "config.json")


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
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
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
