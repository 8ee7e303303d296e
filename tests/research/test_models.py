"""Models computed by NumPy against the same models computed by mlx itself."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tiny_architectures
import tiny_models
from adapters_by_class import make_adapter
from mlx_lm.utils import load_adapters, load_model
from tensor_files import rewrite

from fusery.registry.errors import ModelUnusableError
from fusery.research.models import BATCH_TOKENS, LoadedModel, batches, load_tokenizer
from fusery.research.prompts import Sample

TOKENS = np.random.default_rng(5).integers(0, 300, (3, 11)).astype(np.int32)


def plain(folder: Path, adapter: Path | None = None) -> np.ndarray[Any, Any]:
    network, _ = load_model(folder)
    if adapter is not None:
        load_adapters(network, str(adapter))
    network.set_dtype(mx.float32)
    network.eval()
    return np.array(network(mx.array(TOKENS)))


def check(folder: Path, adapter: Path | None = None, *, numpy: bool = True) -> None:
    model = LoadedModel.load(folder, numpy=numpy)
    if adapter is not None:
        model.put_on(adapter)
    expected = plain(folder, adapter)
    assert expected.std() > 0.01
    got = model.run(TOKENS).reshape(expected.shape)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * max(1.0, float(np.abs(expected).max())))


FORMS = [
    *((kind, form, True) for kind in ("llama", "qwen2", "qwen3") for form in ("float32", "float16", 4)),
    *(("mistral", "bfloat16", numpy) for numpy in (True, False)),
    *(("llama", 6, numpy) for numpy in (True, False)),
]


@pytest.mark.parametrize(("kind", "form", "numpy"), FORMS)
def test_a_model_gives_what_mlx_lm_gives(kind: Any, form: Any, numpy: bool, tmp_path: Path) -> None:
    quantised = {"bits": form} if isinstance(form, int) else {"dtype": form}
    base = tiny_models.make_base(tmp_path / "base", kind=kind, layers=2, tied=kind == "qwen3", **quantised)
    check(base, numpy=numpy)


@pytest.mark.parametrize(
    ("kind", "bits", "mode"),
    [
        *((kind, bits, "affine") for kind in ("gemma", "gemma2", "mixtral") for bits in (None, 4)),
        *(("mixtral", 3, "affine"), ("mixtral", 4, "mxfp4"), ("gemma", 8, "mxfp8")),
    ],
)
def test_other_architectures_and_formats(kind: str, bits: int | None, mode: str, tmp_path: Path) -> None:
    """With an adapter on every layer where the base is affine or dense, among them the experts of mixtral.

    In 16 bits gemma adds 1 to its norms in 16 bits, and the model to compare with has every number in float32.
    """
    base = tiny_architectures.make_architecture(
        tmp_path / "base", kind, bits=bits, mode=mode, dtype="float32"
    )
    check(base)
    if mode == "affine":
        check(base, make_adapter(tmp_path / "adapter", base))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize(
    ("tied", "bits", "numpy"), [(False, None, True), (True, 4, True), (True, None, False), (False, 4, False)]
)
def test_adapters(dora: bool, bits: int | None, tied: bool, numpy: bool, tmp_path: Path) -> None:
    if dora and bits is not None:
        keys = ["self_attn.q_proj", "mlp.down_proj"]
    else:
        keys = ["self_attn.q_proj", "mlp.down_proj", "model.embed_tokens", *([] if tied else ["lm_head"])]
    dtype: Any = "float32" if dora else "bfloat16"  # in 16 bits mlx takes DoRA's norms in 16 bits
    base = tiny_models.make_base(tmp_path / "base", layers=2, tied=tied, bias=True, bits=bits, dtype=dtype)
    check(
        base,
        make_adapter(tmp_path / "adapter", base, keys=keys, kind="dora" if dora else "lora"),
        numpy=numpy,
    )


def test_blocks_of_a_weight_make_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusery.research import layers

    monkeypatch.setattr(layers, "BLOCK_BYTES", 4 * 128 * 10)
    base = tiny_models.make_base(tmp_path / "base", layers=2, bits=4)
    check(base, make_adapter(tmp_path / "adapter", base))
    dense = tiny_models.make_base(tmp_path / "dense", layers=2, dtype="float32")
    check(dense, make_adapter(tmp_path / "dora", dense, kind="dora"))


def test_a_head_answers_only_where_it_is_asked(tmp_path: Path) -> None:
    for tied in (False, True):
        model = LoadedModel.load(tiny_models.make_base(tmp_path / str(tied), tied=tied, layers=1), numpy=True)
        scored = np.zeros(TOKENS.shape, bool)
        scored[0, 4:7] = scored[2, 1] = True
        np.testing.assert_allclose(
            model.run(TOKENS, scored), model.run(TOKENS)[scored.reshape(-1)], rtol=0, atol=1e-5
        )


def test_padding_changes_nothing_and_batches_hold_every_sample_once(tiny_base: Path) -> None:
    random = np.random.default_rng(1)
    samples = [Sample("", (1,) * int(n), 1) for n in random.integers(2, BATCH_TOKENS + 99, 60)]
    seen = []
    for positions, tokens in batches(samples):
        seen += positions
        assert tokens.size <= BATCH_TOKENS or len(positions) == 1
        assert tokens.shape == (len(positions), max(len(samples[position].tokens) for position in positions))
    assert sorted(seen) == list(range(60))
    model = LoadedModel.load(tiny_base)
    samples = [Sample("", tuple(range(length)), 1) for length in (30, 5, 17, 2)]
    together = dict(model.answers(samples))
    for position, sample in enumerate(samples):
        ((_, alone),) = model.answers([sample])
        assert alone.shape[0] == len(sample.targets)
        np.testing.assert_allclose(together[position], alone, rtol=0, atol=1e-4)


def written(folder: Path, tensors: dict[str, Any], **config: Any) -> Path:
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_a_full_fine_tune_replaces_weights(tiny_base: Path, tmp_path: Path) -> None:
    other = tiny_models.make_base(tmp_path / "other", seed=9)
    model = LoadedModel.load(tiny_base)
    model.put_on(written(tmp_path / "full", mx.load(str(other / "model.safetensors")), fine_tune_type="full"))
    np.testing.assert_array_equal(model.run(TOKENS), LoadedModel.load(other).run(TOKENS))


def set_config(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries), encoding="utf-8")


def test_code_that_a_model_brings_is_never_run(tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layers=1)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    set_config(folder / "config.json", model_file="evil.py")
    with pytest.raises(ModelUnusableError):
        LoadedModel.load(folder)
    set_config(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    with contextlib.suppress(ModelUnusableError):
        load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_models_that_cannot_be_used(tiny_base: Path, tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layers=1, dtype="float32")
    rewrite(folder, lambda t: t["model.norm.weight"][1].fill(np.nan))
    with pytest.raises(ModelUnusableError):
        LoadedModel.load(folder).run(TOKENS)
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelUnusableError):
        LoadedModel.load(folder)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", tiny_models.make_base(tmp_path / "o", hidden=64))
    with pytest.raises(ModelUnusableError):
        LoadedModel.load(tiny_base).put_on(adapter)
