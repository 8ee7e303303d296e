"""Whole tensors and rows that an adapter brings: in the format of the base's numbers, written once, and measured."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
from tensor_files import load_raw, rewrite

from fusery.registry.engine.arithmetic import BF16, Array, encode
from fusery.registry.engine.base import Base, read_base
from fusery.registry.engine.whole import REPLACED, ReplacedTensors
from fusery.registry.errors import FusionUnsupportedError
from fusery.storage.errors import OutOfSpaceError
from fusery.storage.safetensors import read_header

_UP, _EMBEDDING, _HEAD = "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight"


def opened(folder: Path) -> Base:
    files = {"model.safetensors": folder / "model.safetensors"}
    return read_base(files, json.loads((folder / "config.json").read_text()))


def numbers(*shape: int) -> Array:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    (tmp_path / "trained").mkdir()
    path = tmp_path / "trained" / "adapter_model.safetensors"
    raw = {"up": numbers(256, 128), "rows": numbers(2, 128), "head": numbers(320, 128)}
    tiny_models.write_tensors(path, {name: ("F32", value) for name, value in raw.items()}, None)
    return path


def whole(trained: Path, names: dict[str, str], **options: Any) -> ReplacedTensors:
    given = read_header(trained).tensors
    tensors = {name: given[of] for name, of in names.items()}
    more = {"rows": {}, "untied": None, "vocabulary": None} | options
    return ReplacedTensors(trained, tensors, place=trained.parent / "made.safetensors", **more)


@pytest.mark.parametrize("bits", [None, 4])
def test_tensors_and_rows_are_replaced(bits: int | None, trained: Path, tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layers=2, bits=bits)
    rows = {_EMBEDDING: ((3, 7), read_header(trained).tensors["rows"])}
    changes = whole(trained, {_UP: "up"}, rows=rows)
    base, sums = changes.put_on(opened(folder))
    made = load_raw(changes.place)
    np.testing.assert_array_equal(made[_UP][1], encode(numbers(256, 128), BF16))
    np.testing.assert_array_equal(made[_EMBEDDING][1][[3, 7]], encode(numbers(2, 128), BF16))
    if bits is None:
        others = np.delete(np.arange(320), [3, 7])
        np.testing.assert_array_equal(made[_EMBEDDING][1][others], load_raw(folder)[_EMBEDDING][1][others])
    else:  # what was quantised is in plain numbers
        assert base.config["quantization"]["model.embed_tokens"] is False
        assert not {
            name for name in base.tensors if name.startswith(("model.embed_tokens.s", _UP[:-6] + "s"))
        }
    assert {name for name, source in base.tensors.items() if source.file == REPLACED} == made.keys()
    assert [path.name for path in trained.parent.iterdir() if path.suffix == ".part"] == []
    assert len(sums) == 2
    for each in sums.values():
        assert each.inner / each.intended == pytest.approx(1, abs=0.01)
    before = changes.place.stat().st_mtime_ns
    assert changes.put_on(opened(folder))[0].tensors == base.tensors
    assert changes.place.stat().st_mtime_ns == before, "it is written once"


def test_a_head_of_its_own_and_another_vocabulary(trained: Path, tmp_path: Path) -> None:
    tied = tiny_models.make_base(tmp_path / "base", kind="qwen2", tied=True, layers=1)
    changes = whole(trained, {_HEAD: "head"}, untied=_EMBEDDING, vocabulary=320)
    base, _ = changes.put_on(opened(tied))
    assert (base.config["tie_word_embeddings"], base.config["vocab_size"]) == (False, 320)
    assert base.tensors[_HEAD].file == REPLACED != base.tensors[_EMBEDDING].file
    own = opened(tied)
    same = replace(changes, vocabulary=None).put_on(own)[0].config
    assert same["vocab_size"] == own.config["vocab_size"]
    for text, expected in (({"vocab_size": 9}, {"vocab_size": 320}), ({"dtype": "x"}, {"dtype": "x"})):
        config = {**own.config, "text_config": text, "quantization": {"model.embed_tokens": {"bits": 4}}}
        del config["vocab_size"]
        nested = changes.put_on(replace(own, config=config))[0].config
        assert nested["text_config"] == expected and "vocab_size" not in nested
        assert nested["quantization"]["lm_head"] == {"bits": 4}
        both = changes.put_on(replace(own, config={**config, "vocab_size": 9}))[0].config
        assert both["vocab_size"] == 320


def test_a_full_disk_is_noticed_before_tensors_are_written(
    trained: Path, dense: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    with pytest.raises(OutOfSpaceError):
        whole(trained, {_UP: "up"}).put_on(opened(dense))
    assert list(trained.parent.iterdir()) == [trained]


def test_numbers_that_are_not_finite_and_other_tensors_are_refused(trained: Path, dense: Path) -> None:
    with pytest.raises(FusionUnsupportedError):
        whole(trained, {"model.layers.9.mlp.up_proj.weight": "up"}).put_on(opened(dense))
    rewrite(trained.parent, lambda t: t["up"][1].fill(np.inf))
    with pytest.raises(FusionUnsupportedError):
        whole(trained, {_UP: "up"}).put_on(opened(dense))
