"""Models computed by NumPy against mlx itself, and two models on the same samples."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tiny_architectures
import tiny_models
from adapters_by_class import make_adapter
from altered_models import with_config
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mlx import nn
from mlx_lm.utils import load_adapters, load_model
from tensor_files import rewrite

from fusery.registry.errors import ModelUnusableError
from fusery.research import models as module
from fusery.research.calibrate import Inputs, inputs_of
from fusery.research.layers import functions_in_numpy
from fusery.research.models import (
    BATCH_TOKENS,
    LoadedModel,
    ModelSource,
    TokenScores,
    batches,
    compare,
    load_tokenizer,
    log_softmax,
    losses,
    measure,
    uncompiled,
)
from fusery.research.prompts import Sample
from fusery.storage.errors import OutOfSpaceError

TOKENS = np.random.default_rng(5).integers(0, 300, (3, 11)).astype(np.int32)


def plain(folder: Path, adapter: Path | None = None) -> np.ndarray[Any, Any]:
    network, _ = load_model(folder)
    if adapter is not None:
        load_adapters(network, str(adapter))
    network.set_dtype(mx.float32)
    network.eval()
    with uncompiled(mx):
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


def test_mlx_does_not_compile_if_the_variable_is_set_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def through_numpy(values: Any) -> Any:
        return mx.array(np.asarray(values))

    with monkeypatch.context() as patch:
        patch.delenv("MLX_DISABLE_COMPILE", raising=False)
        with uncompiled(mx):
            pass
        with pytest.raises(ValueError, match="compile"):
            mx.compile(through_numpy)(mx.ones(2))
        patch.setenv("MLX_DISABLE_COMPILE", "1")
        with uncompiled(mx):
            assert mx.compile(through_numpy)(mx.ones(2)).tolist() == [1, 1]
    with uncompiled(mx):
        pass  # for the tests after this one, as the variable was


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_dequantised_rows_equal_those_of_mlx(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusery.research import layers

    monkeypatch.setattr(layers, "_PART", 3 * 128)
    mx.random.seed(bits)
    module = nn.QuantizedLinear(128, 17, bias=False, group_size=32, bits=bits)
    module.set_dtype(mx.bfloat16)
    [(part, numbers)] = layers.blocks(module)
    assert part == slice(0, 17)
    np.testing.assert_array_equal(numbers, np.asarray(layers.widened(module, slice(None))))


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_sigmoid_and_tanh_equal_mlx_forward_and_backward(name: str) -> None:
    x = mx.array([-200.0, -3.0, -0.5, 0.0, 0.25, 4.0, 200.0])

    def both() -> list[Any]:
        function = getattr(mx, name)
        gradient = mx.grad(lambda given: (function(given) * mx.arange(1.0, 8.0)).sum())(x)
        return [np.array(part) for part in (function(x), gradient, function(x.astype(mx.float16)))]

    expected = both()
    with functions_in_numpy():
        got = both()
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=5e-6)


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
    for positions, tokens, _ in batches(samples):
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


def test_code_that_a_model_brings_is_never_run(tmp_path: Path) -> None:
    folder = tiny_models.make_base(tmp_path / "base", layers=1)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    with_config(folder, model_file="evil.py")
    with pytest.raises(ModelUnusableError):
        LoadedModel.load(folder)
    with_config(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
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


RANDOM = np.random.default_rng(2)
SAMPLES = [
    Sample(str(length), tuple(int(token) for token in RANDOM.integers(0, 300, length)), 1 + length // 3)
    for length in (25, 8, 40, 9)
]


def watched(model: LoadedModel, samples: list[Sample]) -> dict[str, list[Inputs]]:
    seen: dict[str, list[Inputs]] = {}
    inputs_of(model, samples, lambda path, inputs: seen.setdefault(path, []).append(inputs))
    return seen


@pytest.fixture(scope="session")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_adapter(tmp_path_factory.mktemp("adapters") / "one", tiny_base, update=0.3)


def test_scores_are_those_of_each_sample_alone(tiny_base: Path, adapter: Path) -> None:
    measured = measure(ModelSource(tiny_base, adapter), ModelSource(tiny_base), SAMPLES, of_base=len(SAMPLES))
    base, adapted = LoadedModel.load(tiny_base), LoadedModel.load(tiny_base)
    adapted.put_on(adapter)
    for sample, scores, of_base in zip(SAMPLES, measured.scores, measured.base_losses, strict=True):
        tokens = np.array([sample.tokens], np.int32)
        a, b = (model.run(tokens)[sample.first - 1 : -1] for model in (adapted, base))
        expected = compare(a, b, sample.targets)
        np.testing.assert_allclose(scores.kl, expected.kl, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(scores.loss_a, expected.loss_a, rtol=1e-4)
        np.testing.assert_allclose(of_base, expected.loss_b, rtol=1e-4)
        assert scores.kl.mean() > 1e-4
    reverse = measure(ModelSource(tiny_base), ModelSource(tiny_base, adapter), SAMPLES).scores[0]
    np.testing.assert_array_equal(measured.scores[0].loss_a, reverse.loss_b)
    assert not np.array_equal(measured.scores[0].kl, reverse.kl)


def test_logits_need_room(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=4096))
    with pytest.raises(OutOfSpaceError):
        measure(ModelSource(tiny_base), ModelSource(tiny_base), SAMPLES)


def test_the_inputs_of_a_layer_are_what_it_multiplies(tiny_base: Path, adapter: Path) -> None:
    path = "model.layers.3.self_attn.q_proj"
    for wrapped in (False, True):
        model = LoadedModel.load(tiny_base, numpy=True)
        if wrapped:
            model.put_on(adapter)
        seen = watched(model, SAMPLES)
        assert len(seen) == 4 * 7 + 1
        assert not any(name.endswith(".linear") for name in seen)
        total = sum(len(sample.tokens) for sample in SAMPLES)
        for name in seen.keys() - {"lm_head"}:
            assert sum(map(len, seen[name])) == total, name
        alone = [inputs for sample in SAMPLES for inputs in watched(model, [sample])[path]]
        lengths = sorted(map(len, alone))
        assert lengths == sorted(len(sample.tokens) for sample in SAMPLES)
        together = np.sort(np.concatenate(seen[path]), axis=0)
        np.testing.assert_allclose(together, np.sort(np.concatenate(alone), axis=0), atol=1e-4)
        assert all("_on_input" not in module.__dict__ for module in model.network.modules())


def test_what_cannot_be_measured_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    other = tiny_models.make_base(tmp_path / "other", vocab=300, layers=1)
    with pytest.raises(ModelUnusableError):
        measure(ModelSource(tiny_base), ModelSource(other), SAMPLES)


SHAPE = (4, 7)
LOGITS = arrays(np.float32, SHAPE, elements=st.floats(-60, 60, width=32))
TARGETS = arrays(np.int64, SHAPE[0], elements=st.integers(0, SHAPE[1] - 1))


@given(LOGITS, LOGITS, TARGETS)
def test_a_divergence_is_that_of_the_definition_and_never_negative(a: Any, b: Any, targets: Any) -> None:
    scores = compare(a, b, targets)
    p = np.exp(log_softmax(a))
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-12)
    np.testing.assert_allclose(scores.loss_a, -log_softmax(a)[np.arange(len(a)), targets], rtol=1e-9)
    expected = (p * (log_softmax(a) - log_softmax(b))).sum(axis=-1)
    assert (scores.kl >= 0).all()
    np.testing.assert_array_equal(scores.loss_b, losses(b, targets))
    np.testing.assert_allclose(scores.kl, expected, rtol=1e-9, atol=1e-12)


@given(LOGITS, TARGETS, st.floats(-50, 50, width=32))
def test_a_model_is_as_itself_also_with_all_logits_shifted(logits: Any, targets: Any, shift: float) -> None:
    same = compare(logits, logits, targets)
    assert not same.kl.any()
    assert same.same.all()
    shifted = compare(logits.astype(np.float32), (logits + np.float32(shift)).astype(np.float32), targets)
    assert shifted.kl.max() < 1e-4


def test_a_small_divergence_is_not_lost_to_cancellation() -> None:
    random = np.random.default_rng(0)
    a = random.standard_normal((1, 50_000)).astype(np.float32)
    step = np.float32(1e-3)
    b = a.copy()
    b[0, ::2] += step
    p = np.exp(log_softmax(a))[0, ::2].sum()
    scores = compare(a, b, np.array([0]))
    np.testing.assert_allclose(scores.kl[0], 0.5 * p * (1 - p) * float(step) ** 2, rtol=0.01)


def test_an_impossible_token_leaves_numbers_finite() -> None:
    a = np.array([[0.0, -np.inf, 1.0]], np.float32)
    b = np.array([[-np.inf, 0.0, 1.0]], np.float32)
    scores = compare(a, b, np.array([1]))
    assert np.isfinite(scores.kl).all()
    assert scores.kl[0] > 100
    assert np.isfinite(scores.loss_a).all()
    assert compare(a, a, np.array([0])).kl[0] == 0


def test_parts_make_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    a, b = (random.standard_normal((9, 5)).astype(np.float32) for _ in range(2))
    targets = random.integers(0, 5, 9)
    whole = compare(a, b, targets)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 8 * 5 * 2)
    parts = TokenScores.joined([compare(a[:4], b[:4], targets[:4]), compare(a[4:], b[4:], targets[4:])])
    for name in ("kl", "same", "loss_a", "loss_b"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


NOISE = np.random.default_rng(7)
LENGTH, REACH = 6, 9
MASKS = {
    "none": None,
    "causal": "causal",
    "boolean": mx.array(np.tri(LENGTH, REACH, 3, bool)),
    "boolean by head": mx.array(
        np.tri(LENGTH, REACH, 1, bool)[None, None] & (NOISE.random((2, 4, 6, 9)) < 2)
    ),
    "added": mx.array(NOISE.standard_normal((2, 1, LENGTH, REACH)), mx.float32),
}


def inputs(heads: int = 4, groups: int = 2, dtype: Any = mx.float32) -> list[mx.array]:
    random = np.random.default_rng(groups)
    shapes = (2, heads, LENGTH, 16), (2, groups, REACH, 16), (2, groups, REACH, 8)
    return [mx.array(random.standard_normal(shape), dtype) for shape in shapes]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_it_gives_and_goes_back_as_mlx_does(name: str, groups: int) -> None:
    parts = inputs(groups=groups)
    weights = mx.array(np.random.default_rng(3).standard_normal((2, 4, LENGTH, 8)), mx.float32)

    def answer(*given: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(*given, scale=0.25, mask=MASKS[name])

    def both() -> list[Any]:
        gradient = mx.grad(lambda *given: (answer(*given) * weights).sum(), argnums=(0, 1, 2))
        return [np.array(part) for part in (answer(*parts), *gradient(*parts))]

    expected = both()
    with functions_in_numpy():
        got = both()
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-6)


def test_what_it_does_not_know_is_left_to_mlx() -> None:
    cases: list[tuple[list[mx.array], dict[str, Any]]] = [
        (inputs(), {"sinks": mx.array([0.5, -1.0, 0.25, 2.0], mx.float32)}),
        (inputs(dtype=mx.float16), {}),
    ]
    for parts, options in cases:
        expected = mx.fast.scaled_dot_product_attention(*parts, scale=0.3, mask="causal", **options)
        with functions_in_numpy():
            got = mx.fast.scaled_dot_product_attention(*parts, scale=0.3, mask="causal", **options)
        assert got.dtype == expected.dtype
        assert mx.array_equal(got, expected)


def test_it_is_taken_away_again_also_after_a_failure() -> None:
    before = mx.fast.scaled_dot_product_attention, mx.sigmoid, mx.tanh
    with pytest.raises(ZeroDivisionError), functions_in_numpy():
        assert mx.fast.scaled_dot_product_attention is not before[0]
        raise ZeroDivisionError
    assert (mx.fast.scaled_dot_product_attention, mx.sigmoid, mx.tanh) == before
