"""Whole tensors and trained rows beside the factors: fused as PEFT merges them, refused where only factors would count."""

from __future__ import annotations

import cProfile
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft_folders
import pytest
import tiny_models
from peft_folders import PREFIX, by_mlx, numbers

from fusery.registry import Registry
from fusery.registry.adapters.whole import read_whole
from fusery.registry.bundles.target import own_targets
from fusery.registry.errors import BadInputError, FusionUnsupportedError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.storage.safetensors import read_header

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ROWS, COLUMNS = 320, 128
DELTA = "model.embed_tokens.token_adapter.trainable_tokens_delta"


def codes(findings: Any) -> set[str]:
    return {finding["code"] for finding in findings}


def refusals(registry: Registry, folder: Path, base: str) -> list[str]:
    found = registry.adapters.check(folder, base=base, task="refused")
    return [finding.message for finding in found if finding.severity == "error"]


Tensors = Mapping[str, tuple[str, np.ndarray]]


def with_whole(folder: Path, base: Path, tensors: Tensors, **config: Any) -> Path:
    peft_folders.make_peft(folder, base, rank=2, **config)
    peft_folders.edit_tensors(folder, lambda own: own.update({f"{PREFIX}{n}": t for n, t in tensors.items()}))
    return folder


def f32(*shape: int, scale: float = 0.02, seed: int = 7) -> tuple[str, np.ndarray]:
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return "F32", values.astype(np.float32)


def filled(value: float, *shape: int) -> tuple[str, np.ndarray]:
    return "F32", np.full(shape, value, np.float32)


K_PROJ = "model.layers.0.self_attn.k_proj"
K_ROWS = f"{K_PROJ}.token_adapter.trainable_tokens_delta"
WHOLE, ROW = f32(ROWS, COLUMNS), f32(1, COLUMNS)
SAVED, TOKENS = "modules_to_save", "trainable_token_indices"
HOSTILE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({EMBEDDING: f32(ROWS, 64)}, {}, "(320, 64), and the base's (320, 128)"),
    ({"model.strange.weight": f32(4, 4)}, {}, "model.strange"),
    ({HEAD: filled(np.nan, ROWS, COLUMNS)}, {}, "NaN"),
    ({DELTA: filled(np.inf, 1, COLUMNS)}, {TOKENS: [3]}, "infinity"),
    ({HEAD: ("I32", np.ones((ROWS, COLUMNS), np.int32))}, {}, "not numbers"),
    ({HEAD: WHOLE, "lm_head.modules_to_save.weight": f32(ROWS, COLUMNS, seed=1)}, {}, "different numbers"),
    ({"model.layers.0.self_attn.q_proj.weight": f32(128, 128)}, {}, "has factors and a whole weight"),
    ({EMBEDDING: f32(ROWS + 4, COLUMNS)}, {}, "at one end only"),
    ({DELTA: f32(3, COLUMNS)}, {TOKENS: [1, 2]}, "(3, 128) for 2 trained tokens"),
    ({DELTA: f32(2, COLUMNS)}, {TOKENS: [4, 4]}, "more than once"),
    ({DELTA: ROW}, {TOKENS: [ROWS]}, "token 320"),
    ({DELTA: ROW}, {}, "which rows"),
    ({DELTA: f32(1, 64)}, {TOKENS: [1]}, "(1, 64)"),
    ({}, {TOKENS: [1, 2]}, "no rows"),
    ({}, {TOKENS: {"embed_tokens": [{"a": 1}]}}, "no list of tokens"),
    ({}, {TOKENS: 5}, "no list of tokens"),
    ({DELTA: ROW, DELTA.replace("model.embed_tokens", "lm_head"): ROW}, {TOKENS: [5]}, "rows of lm_head"),
    ({K_ROWS: ROW}, {TOKENS: {"k_proj": [5]}}, "model.layers.1.self_attn.k_proj.weight"),
    ({f"{K_PROJ}.weight": f32(64, COLUMNS)}, {SAVED: ["k_proj"]}, "model.layers.1.self_attn.k_proj.weight"),
    ({EMBEDDING: WHOLE, DELTA: ROW}, {TOKENS: [5]}, "no tensor that PEFT loads"),
    ({"lm_head.original_module.weight": WHOLE}, {SAVED: ["lm_head"]}, "no tensor that PEFT loads"),
    ({f"{K_PROJ}.base_layer.weight": f32(64, COLUMNS)}, {}, "no tensor that PEFT loads"),
    ({f"{K_PROJ}.modules_to_save.weight": f32(64, COLUMNS)}, {}, "no tensor that PEFT loads"),
    ({f"{K_PROJ}.token_adapter.weight": f32(64, COLUMNS)}, {}, "no tensor that PEFT loads"),
    ({}, {SAVED: ["lm_head"]}, "lm_head"),
    ({}, {SAVED: {"lm_head": [{}]}}, "no list of names"),
]


@pytest.fixture(scope="module")
def tiny(module_registry: Registry, tiny_base: Path) -> Registry:
    module_registry.bases.add(tiny_base, name="tiny")
    return module_registry


@pytest.mark.parametrize(("tensors", "config", "why"), HOSTILE)
def test_what_does_not_fit_is_refused(
    tiny: Registry, tiny_base: Path, tmp_path: Path, tensors: Any, config: Any, why: str
) -> None:
    found = refusals(tiny, with_whole(tmp_path / "a", tiny_base, tensors, **config), "tiny")
    assert any(why in message for message in found), found
    assert not any("\n" in message for message in found)


@pytest.fixture(scope="module")
def held(tiny: Registry, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    scratch = tmp_path_factory.mktemp("held")
    folder = with_whole(scratch / "a", tiny_base, {HEAD: f32(ROWS, COLUMNS)}, modules_to_save=["lm_head"])
    plain = with_whole(scratch / "b", tiny_base, {})
    tiny.adapters.register(plain, base="tiny", task="plain")
    return tiny.adapters.register(folder, base="tiny", task="held")["name"]


def test_whole_tensors_go_where_they_are_known(tiny: Registry, held: str, tmp_path: Path) -> None:
    """The rendering holds the factors alone, and a comparison names the adapter whose other tensors it left out."""
    mine, plain = (tiny.adapters.show(name)["renderings"][0]["digest"] for name in (held, "plain@1"))
    assert mine == plain
    assert tiny.adapters.diff(held, "plain@1")["uncompared"] == [held]
    with pytest.raises(FusionUnsupportedError):
        tiny.fused.fuse(held, FuseRequest(scale=0.5))
    tiny.bundles.materialize(held, tmp_path / "hub", target="hub", content="adapters")
    exported = tiny.exchange.export(held, tmp_path / "exported").path
    for folder in (tmp_path / "hub", Path(exported)):
        assert f"{PREFIX}{HEAD}" in tiny_models.read_tensors(folder / "adapter_model.safetensors")


USES: dict[str, Callable[[Registry, str, Path], object]] = {
    "export in mlx-lm's form": lambda r, name, out: r.exchange.export(name, out, form="mlx"),
    "probe": lambda r, name, out: r.evaluations.probe(name),
    "combine": lambda r, name, out: r.adapters.combine([name, "plain@1"], method="svd", task="sum"),
    "shrink": lambda r, name, out: r.adapters.shrink(name, rank=1),
    "fuse with another": lambda r, name, out: r.fused.fuse("plain@1", FuseRequest(extras=((name, 1.0),))),
    "fuse another with it": lambda r, name, out: r.fused.fuse(name, FuseRequest(extras=(("plain@1", 1.0),))),
    **{
        f"bundle for {target}": lambda r, name, out, target=target: r.bundles.materialize(
            name, out / "bundle", target=target, content="adapters"
        )
        for target, kind in own_targets().items()
        if "adapters" in kind.contents and target != "hub"
    },
}


@pytest.mark.parametrize("use", USES)
def test_where_factors_alone_would_count_it_is_refused(
    tiny: Registry, held: str, tmp_path: Path, use: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        USES[use](tiny, held, tmp_path)
    assert held in caught.value.message
    assert str(caught.value.hint).startswith(f"fusery fuse {held} ")
    assert caught.value.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_the_same_factors_beside_other_whole_tensors_are_another_adapter(
    tiny: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    for number, tensors in enumerate(({}, *({HEAD: f32(ROWS, COLUMNS, seed=seed)} for seed in (18, 19)))):
        saved = {"modules_to_save": ["lm_head"]} if tensors else {}
        folder = with_whole(tmp_path / f"a{number}", tiny_base, tensors, **saved)
        added = tiny.adapters.register(folder, base="tiny", task=f"alike{number}")
        if tensors:
            assert "duplicate_weights" not in {finding["code"] for finding in added["findings"]}
    # Only the first of the three consists of these factors alone.
    factors = tiny.exchange.export("alike0@1", tmp_path / "factors", form="mlx").path
    names = {match.name.partition("_v")[0] for match in tiny.provenance.identify(Path(factors)).matches}
    assert "alike0" in names and not names & {"alike1", "alike2", "held"}
    plain = {finding.code for finding in tiny.adapters.check(tmp_path / "a0", base="tiny", task="other")}
    assert "duplicate_weights" in plain


def test_very_many_names_take_no_time_of_their_product(tmp_path: Path) -> None:
    """A small file may have tens of thousands of tensors, and its configuration as many names."""

    def calls(count: int) -> int:
        names = [f"{PREFIX}model.layers.{number}.mlp.weight" for number in range(count)]
        rows = [
            f"{PREFIX}model.layers.{number}.token_adapter.trainable_tokens_delta" for number in range(count)
        ]
        path = tmp_path / f"{count}.safetensors"
        if not path.exists():
            one = ("F32", np.ones((1, 1), np.float32))
            tiny_models.write_tensors(path, dict.fromkeys((*names, *rows), one), None)
        header = read_header(path)
        words = [f"{number}.nothing" for number in range(count)]
        raw = {
            "modules_to_save": words,
            "trainable_token_indices": {**{word: [5] for word in words}, "layers.1": [5]},
        }
        profile = cProfile.Profile()
        whole, remarks = profile.runcall(read_whole, path, header, [*names, *rows], raw, ())
        assert whole.tensors and remarks
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(800) < 5 * calls(200)


def test_on_a_quantised_base_what_is_replaced_is_written_plain(
    sqlite_registry: Registry, tmp_path: Path
) -> None:
    base = tiny_models.make_base(tmp_path / "b", bits=4)
    head, rows = f32(ROWS, COLUMNS), f32(2, COLUMNS, seed=3)
    folder = with_whole(
        tmp_path / "a",
        base,
        {HEAD: head, DELTA: rows},
        modules_to_save=["lm_head"],
        trainable_token_indices=[7, 2],
    )
    plain = with_whole(tmp_path / "p", base, {})
    sqlite_registry.bases.add(base, name="b")
    for task, place in (("whole", folder), ("plain", plain)):
        sqlite_registry.adapters.register(place, base="b", task=task)
    dense = sqlite_registry.fused.fuse("plain@1", FuseRequest(precision="dequantize")).path
    expected = numbers(dense / "model.safetensors")[EMBEDDING]
    expected[[7, 2]] = rounded(rows[1])
    for precision in ("keep", "dequantize", "mixed"):
        request = FuseRequest(precision=precision, accept_loss=True)
        fused, other = (sqlite_registry.fused.fuse(f"{task}@1", request) for task in ("whole", "plain"))
        ours, theirs = tiny_models.read_tensors(fused.path), tiny_models.read_tensors(other.path)
        found = numbers(fused.path / "model.safetensors") if precision == "dequantize" else floats(ours)
        assert np.array_equal(found[EMBEDDING], expected)
        assert np.array_equal(found[HEAD], rounded(head[1]))
        ends = ("model.embed_tokens.", "lm_head.")
        kept = [{n: t for n, t in each.items() if not n.startswith(ends)} for each in (ours, theirs)]
        assert kept[0] == kept[1]
        config = json.loads((fused.path / "config.json").read_text())
        if precision != "dequantize":
            assert config["quantization"]["lm_head"] is config["quantization"]["model.embed_tokens"] is False
        assert by_mlx(fused.path, tmp_path).shape[-1] == ROWS


def rounded(values: np.ndarray) -> np.ndarray:
    return widened(tiny_models.encode(values, "bfloat16")).astype(np.float64)


def widened(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def floats(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: widened(np.frombuffer(data, "<u2")).reshape(shape).astype(np.float64)
        for name, (dtype, shape, data) in tensors.items()
        if dtype == "BF16"
    }


def test_a_change_that_rounding_takes_away_is_no_pass(
    sqlite_registry: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    """A whole tensor that differs from the base by far less than a bfloat16 step is lost, whatever the factors keep."""
    dtype, shape, data = tiny_models.read_tensors(tiny_base)[HEAD]
    assert dtype == "BF16"
    own = widened(np.frombuffer(data, "<u2")).reshape(shape)
    folder = with_whole(tmp_path / "a", tiny_base, {HEAD: ("F32", own * np.float32(1 + 2.0**-18))})
    sqlite_registry.bases.add(tiny_base, name="b")
    sqlite_registry.adapters.register(folder, base="b", task="whole")
    fused = sqlite_registry.fused.fuse("whole@1", FuseRequest(accept_loss=True))
    assert fused.fidelity.verdict == "LOST"
    assert fused.fidelity.retained > 0.9
    shown = sqlite_registry.fused.fidelity("whole@1")
    (lost,) = [module for module in shown.fidelity.modules if module.module == "lm_head"]
    assert lost.retained < 0.01


def test_a_head_that_mlx_lm_cannot_take_apart_is_refused_unless_it_is_a_copy(
    sqlite_registry: Registry, tmp_path: Path
) -> None:
    base = tiny_models.make_base(tmp_path / "tied", tied=True, dtype="float32")
    edited = json.loads((base / "config.json").read_text()) | {"model_type": "gemma2"}
    (base / "config.json").write_text(json.dumps(edited))
    sqlite_registry.bases.add(base, name="tied")
    _, shape, data = tiny_models.read_tensors(base)[EMBEDDING]
    heads = (WHOLE, ("F32", np.frombuffer(data, "<f4").reshape(shape)))
    found = []
    for number, head in enumerate(heads):
        folder = with_whole(tmp_path / str(number), base, {HEAD: head}, modules_to_save=["lm_head"])
        found.append(codes(sqlite_registry.adapters.check(folder, base="tied", task="copies")))
    assert "peft_full_modules" in found[0]
    assert "peft_copies" in found[1]
    assert not {"peft_whole_tensors", "peft_full_modules"} & found[1]


def test_a_tied_base_of_four_bits_comes_apart(sqlite_registry: Registry, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "b", bits=4, tied=True)
    head = f32(ROWS, COLUMNS)
    folder = with_whole(tmp_path / "a", base, {HEAD: head}, modules_to_save=["lm_head"])
    embedding = with_whole(tmp_path / "e", base, {EMBEDDING: head}, modules_to_save=["embed_tokens"])
    sqlite_registry.bases.add(base, name="b")
    before = tiny_models.read_tensors(base)
    for task, place, whole, kept in (("h", folder, HEAD, EMBEDDING), ("e", embedding, EMBEDDING, HEAD)):
        sqlite_registry.adapters.register(place, base="b", task=task)
        fused = sqlite_registry.fused.fuse(f"{task}@1", FuseRequest(precision="keep", accept_loss=True)).path
        tensors = tiny_models.read_tensors(fused)
        assert np.array_equal(floats(tensors)[whole], rounded(head[1]))
        for part in ("weight", "scales", "biases"):
            name = f"{kept.removesuffix('.weight')}.{part}"
            assert tensors[name] == before[f"model.embed_tokens.{part}"]
        assert json.loads((fused / "config.json").read_text())["tie_word_embeddings"] is False
        assert by_mlx(fused, tmp_path).shape[-1] == ROWS


def test_a_token_that_was_added_needs_no_row_of_the_base(
    sqlite_registry: Registry, tiny_base: Path, tmp_path: Path
) -> None:
    tensors = {EMBEDDING: f32(ROWS + 2, COLUMNS), HEAD: f32(ROWS + 2, COLUMNS, seed=1)}
    folder = with_whole(tmp_path / "a", tiny_base, tensors)
    tokenizer = json.loads((tiny_base / "tokenizer.json").read_text())
    extra = {"id": ROWS + 1, "content": "<new>", "special": True}
    tokenizer["added_tokens"] = [*tokenizer.get("added_tokens", []), extra]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    sqlite_registry.bases.add(tiny_base, name="b")
    assert not refusals(sqlite_registry, folder, "b")
    shutil.rmtree(folder)
    folder = with_whole(tmp_path / "a", tiny_base, {})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert any("<new>" in message for message in refusals(sqlite_registry, folder, "b"))
