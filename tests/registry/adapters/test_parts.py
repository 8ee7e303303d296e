"""The parts of the forms by themselves: tokenizer files, merge-aware entries, experts, and whole tensors of a tied base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft_folders
import pytest
import tiny_models

from fusery.registry.adapters import reading, tensors, tokenizer_files, trained_through
from fusery.registry.adapters.folder import read_adapter_folder, with_weights
from fusery.registry.adapters.mlx_config import (
    AdapterConfig,
    AdapterMetadata,
    FileProblem,
    lora_modules,
    read_json,
    todays_config,
    weights_header,
)
from fusery.registry.adapters.patterns import full_match
from fusery.registry.adapters.peft_config import PeftConfig, refusal_of_method, targets
from fusery.registry.adapters.peft_folder import PeftModule, sort_tensors
from fusery.registry.adapters.whole_fit import fit_whole
from fusery.registry.engine.config import WEIGHTS
from fusery.registry.errors import BadInputError, FusionUnsupportedError
from fusery.registry.models.architecture import Architecture, Weight
from fusery.storage.errors import FormatError, MissingFileError
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import Header, Tensor, read_header

TOKENIZER = {
    "version": "1",
    "padding": 5,
    "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"], "dropout": None},
}
SAME = {
    "model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]},
    "post_processor": {"type": "ByteLevel"},
}
TEMPLATED = {**SAME, "post_processor": {"type": "TemplateProcessing", "special_tokens": {"x": 1}}}
SETTINGS, GENERATION, JINJA = "tokenizer_config.json", "generation_config.json", "chat_template.jinja"
TOOLS = tokenizer_files.TOOLS_TEMPLATE


def reader(files: dict[str, Any]) -> tokenizer_files.Read:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in files.items()}
    return lambda name: texts[name].encode() if name in texts else None


@pytest.mark.parametrize(
    ("ours", "theirs", "differing", "every_key"),
    [
        ({"tokenizer.json": TOKENIZER}, {"tokenizer.json": SAME}, [], True),
        ({"tokenizer.json": TEMPLATED}, {"tokenizer.json": SAME}, ["tokenizer.json"], True),
        ({"tokenizer.json": "{"}, {"tokenizer.json": SAME}, ["tokenizer.json"], True),
        ({"tokenizer.json": "[]"}, {}, ["tokenizer.json"], True),
        ({JINJA: " a"}, {JINJA: "a\n"}, [], True),
        ({JINJA: "a"}, {JINJA: "b"}, [JINJA], False),
        ({JINJA: "a", TOOLS: "t"}, {SETTINGS: {"chat_template": "a"}}, [TOOLS], True),
        ({SETTINGS: {"chat_template": [{"name": "default", "template": "a"}, 5]}}, {JINJA: "a"}, [], True),
        ({SETTINGS: {"chat_template": {"tool_use": "t", "default": 5}}}, {}, [SETTINGS], True),
        ({SETTINGS: {"eos_token": {"content": "x"}}}, {SETTINGS: {"eos_token": "x"}}, [], True),
        ({SETTINGS: {"eos_token": "y"}}, {SETTINGS: {"eos_token": "x"}}, [SETTINGS], False),
        ({SETTINGS: {"pad_token": "y", "padding_side": 1}}, {SETTINGS: {"padding_side": 2}}, [], True),
        ({SETTINGS: {"clean": True}}, {SETTINGS: {"clean": False}}, [SETTINGS], True),
        ({SETTINGS: {"clean": True}}, {SETTINGS: {"clean": False}}, [], False),
        ({SETTINGS: {"clean": True}}, {SETTINGS: {}}, [], True),
        ({SETTINGS: {"tokenizer_class": "LlamaFast"}}, {SETTINGS: {"tokenizer_class": "Llama"}}, [], True),
        ({SETTINGS: {"tokenizer_class": "TokenizersBackend"}}, {SETTINGS: {"tokenizer_class": "Llama"}}, [], True),
        ({SETTINGS: {"tokenizer_class": "Qwen"}}, {SETTINGS: {"tokenizer_class": "Llama"}}, [SETTINGS], True),
        ({GENERATION: {"eos_token_id": 2}}, {GENERATION: {}}, [GENERATION], False),
        ({GENERATION: {"cache": 2}}, {GENERATION: {"cache": 3}}, [GENERATION], True),
        ({GENERATION: "[]"}, {GENERATION: "{"}, [], True),
    ],
)  # fmt: skip
def test_tokenizers_that_differ(ours: Any, theirs: Any, differing: list[str], every_key: bool) -> None:
    for one, other in ((ours, theirs), (theirs, ours)):
        found = tokenizer_files.differences(reader(one), reader(other), every_key=every_key)
        assert [file for file, _ in found] == differing


def test_tokenizer_files_that_replace_those_of_the_base(tmp_path: Path) -> None:
    special = "special_tokens_map.json"
    names = (special, "tokenizer.json", SETTINGS, JINJA, "vocab.txt", "config.json")
    base = {name: tmp_path / name for name in names}
    for texts, expected in (
        (("tokenizer.json", SETTINGS), {"config.json"}),
        ((JINJA,), {*names} - {JINJA}),
        ((SETTINGS,), {*names} - {SETTINGS, special}),
        ((GENERATION,), {*names}),
    ):
        own = {text: tmp_path / text for text in texts}
        for path in own.values():
            path.write_text("{}")
        with_own = tokenizer_files.with_tokenizer(base, {**own, "adapters.safetensors": tmp_path})
        read = tokenizer_files.reader_with(lambda _: b"base", own)
        assert with_own.keys() - own.keys() == expected and read(texts[0]) == b"{}"
        assert {name for name in base.keys() - own.keys() if read(name) == b"base"} == expected
    for name, data in ((JINJA, b"\xff"), (SETTINGS, b"[]"), ("tokenizer.json", b"{")):
        with pytest.raises(FormatError):
            tokenizer_files.require_readable(name, data)
    tokenizer_files.require_readable(JINJA, b"text")
    assert tokenizer_files.refusal(JINJA, 1 << 20) is None and tokenizer_files.refusal(JINJA, (1 << 20) + 1)
    assert [tokenizer_files.is_tokenizer_of_base(name) for name in names] == [True] * 5 + [False]
    assert tokenizer_files.is_tokenizer_of_base(GENERATION)


def test_the_end_token_of_an_adapter(tmp_path: Path) -> None:
    vocabulary = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "<end>", "id": 7}]}

    def files(folder: str, **contents: Any) -> dict[str, Path]:
        (tmp_path / folder).mkdir()
        paths = {f"{name}.json": tmp_path / folder / name for name in contents}
        for name, content in contents.items():
            (tmp_path / folder / name).write_text(json.dumps(content))
        return paths

    own = files("own", tokenizer=vocabulary, tokenizer_config={"eos_token": "<end>"})
    ids = {"bos_token_id": 1, "pad_token_id": 6}
    settings = ids | {"vocab_size": 9}
    for ends, generation, expected in (
        (None, None, ids | {"eos_token_id": [7]}),
        (2, None, ids | {"eos_token_id": [7, 2]}),
        ([2, 7], None, None),
        (2, {"top_k": 5}, {"top_k": 5, "eos_token_id": [7, 2]}),
        (2, {"eos_token_id": 3}, {"eos_token_id": [7, 3]}),
        (2, {"eos_token_id": 7}, None),
        (2, {"eos_token_id": [3, 7]}, None),
    ):
        config = settings | ({} if ends is None else {"eos_token_id": ends})
        own_settings = {} if generation is None else {"generation_config": generation}
        base = files(name := f"{ends} {generation}", tokenizer={}, config=config, **own_settings)
        whole = {**base, **own}
        assert tokenizer_files.with_own_end(whole, whole) is None, "it is the base's"
        assert tokenizer_files.with_own_end(base, whole) == expected, name
        if generation is None:
            endless = whole | files(f"{name} endless", generation_config={"eos_token_id": None})
            last = None if expected is None else {"eos_token_id": expected["eos_token_id"]}
            assert tokenizer_files.with_own_end(base, endless) == last, "no end in the adapter's settings"
        unlike = {**own, "tokenizer_config.json": base["config.json"]}
        assert tokenizer_files.with_own_end(base, {**base, **unlike}) is None, "without an end token"


def test_ids_of_tokens() -> None:
    added = {"added_tokens_decoder": {"3": {"content": "x"}}}
    for name, document, ids in (
        (SETTINGS, added, {"x": 3}),
        (SETTINGS, {"added_tokens_decoder": None}, {}),
        ("added_tokens.json", {"x": 3}, {"x": 3}),
        ("tokenizer.json", {"model": {"vocab": [["a", -1.5], ["b", -2]]}, "added_tokens": None}, {"a": 0, "b": 1}),
        ("tokenizer.json", {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "x", "id": 3}]}, {"a": 0, "x": 3}),
        ("added_tokens.json", {"x": -1}, None),
        ("added_tokens.json", {"x": True}, None),
        *((name, ["a"], None) for name in (SETTINGS, "added_tokens.json", "tokenizer.json")),
        *(("tokenizer.json", wrong, None) for wrong in ({}, {"model": {"vocab": 5}})),
    ):  # fmt: skip
        assert tokenizer_files.token_ids(json.dumps(document).encode(), name) == ids, document
    assert tokenizer_files.token_ids(b"{", "tokenizer.json") is None


def test_files_that_cannot_be_used_are_problems(tmp_path: Path) -> None:
    place = tmp_path / "a"
    for content, kept, absent in (
        ('{"a": 1}', {"a": 1}, None), (None, None, True), ("[", None, False), ('{"a": "\\u0000"}', None, False),
        ('{"a": "\\ud800"}', None, False),
    ):  # fmt: skip
        place.write_text(content or "")
        problems: list[FileProblem] = []
        files = {} if content is None else {"x.json": place}
        assert read_json(files, "x.json", problems) == kept, content
        assert [problem.absent for problem in problems] == ([] if absent is None else [absent])
        assert all(problem.file == "x.json" and "x.json" in problem.message for problem in problems)
    problems = []
    assert weights_header({}, "x", problems) is weights_header({"x": place}, "x", problems) is None
    assert [problem.absent for problem in problems] == [True, False]


def test_merge_aware_entries() -> None:
    four = {"bits": 4, "group_size": 64}
    name, other = trained_through.QUANTIZATION_AWARE, trained_through.NVFP4_MERGE_AWARE
    mxfp4 = {"bits": 4, "group_size": 32, "mode": "mxfp4"}
    assert trained_through.trained_through({name: four}) == {**four, "mode": "affine"}
    assert trained_through.trained_through({name: {"mode": "mxfp4"}}) == mxfp4
    assert trained_through.trained_through({name: False}) is trained_through.trained_through({}) is None
    changes: list[dict[str, Any]] = [{"x": 1}, {"mode": 5}, {"group_size": "64"}, {"group_size": 48}]
    changes += [{"bits": bits} for bits in (7, "4", True)]
    for wrong in (True, 4, "4", [], {"mode": "mxfp4", "bits": 8}, *({**four, **each} for each in changes)):
        entry = {name: wrong}
        with pytest.raises(ValueError, match="no quantisation"):
            trained_through.trained_through(entry)
        assert trained_through.aware_of("lora", entry) is None
    assert trained_through.aware_of("full", {name: four}) is None
    assert trained_through.aware_of("dora", {name: four})
    assert trained_through.format_in_words("lora", {name: four}) == "4 bits in groups of 64 (affine)"
    for config, hint in (({name: four}, "fusery fuse a"), ({other: {"x": 1}}, "axolotl")):
        with pytest.raises(BadInputError) as caught:
            trained_through.require_usable_unfused("a", "lora", config)
        assert hint in str(caught.value.hint) and trained_through.kept_entries({**config, "y": 1}) == config
    trained_through.require_usable_unfused("a", "lora", {other: {}})
    scaled = {"mode": "nvfp4_tensor_scale"}
    trained_through.require_fusable("a", "dora", {name: four}, None)
    trained_through.require_fusable("a", "lora", {other: {"x": 1}}, scaled)
    trained_through.require_fusable("a", "lora", {other: True}, scaled)
    for method, entry, base in (
        ("lora", {"x": 1}, None),
        ("lora", True, four),
        ("dora", True, scaled),
        ("lora", {"scale_mode": "reuse"}, scaled),
        ("lora", {"pts_policy": "merged_max"}, scaled),
        ("lora", {"backend": "native_torchao"}, scaled),
    ):
        with pytest.raises(FusionUnsupportedError):
            trained_through.require_fusable("a", method, {other: entry}, base)
    own = trained_through.ITS_WEIGHTS
    for theirs, expected in ((["d"], False), (["e"], True), ("d", True), (None, False)):
        assert trained_through.is_of_others({own: theirs}, "d") is expected


def test_numbers_in_texts_and_configurations_of_old() -> None:
    for text, version in (("v2", 2), (" 3.0 ", 3), (4, 4)):
        assert AdapterMetadata.model_validate({"version": text}).version == version
    for wrong in ("v2.5", "two", ["2"], "a\0b"):
        with pytest.raises(ValueError, match="version"):
            AdapterMetadata.model_validate({"version": wrong})
    assert todays_config({"num_layers": "all"}, {}) == {"num_layers": "all"}
    names = {"model.layers.1.q.lora_a": (8, 2), "model.layers.1.q.lora_b": (2, 8), "odd": (1,)}
    modules, unexpected = lora_modules(header(names))
    [path] = modules
    assert (path, unexpected, modules[path].a) == ("model.layers.1.q", ("odd",), (8, 2))
    old = {"use_dora": True, "lora_layers": 4, "lora_parameters": {"scale": 1, "dropout": 1.5}}
    config = todays_config(old, modules)
    expected = {"scale": 1, "rank": 2, "dropout": 0.0, "keys": [path]}
    assert (config["lora_parameters"], config["fine_tune_type"]) == (expected, "dora")
    assert config["num_layers"] == -1 and "use_dora" not in config


def header(shapes: dict[str, tuple[int, ...]]) -> Header:
    return replace(EMPTY, tensors={name: tensor(*shape, name=name) for name, shape in shapes.items()})


def tensor(*shape: int, name: str = "x") -> Tensor:
    return Tensor(name, "F32", shape, 0, 4 * int(np.prod(shape)))


def test_modules_of_peft() -> None:
    place = "base_model.model.m."
    pair = {f"{place}lora_A.weight": (2, 8), f"{place}lora_B.weight": (6, 2)}
    magnitudes = {f"{place}lora_magnitude_vector": (6,), f"{place}lora_magnitude_vector.weight": (6,)}
    odd = {"m.lora_A.weight": (2, 8), f"{place}conv.lora_A.weight": (2, 8, 1, 1)}
    modules, whole, remarks = sort_tensors(header({**pair, **magnitudes, **odd}))
    assert (list(modules), whole) == (["m"], []) and "3 tensors" in remarks[0].message
    assert (modules["m"].rank, modules["m"].gain) == (2, 1.0)
    assert (PeftModule("m", b=tensor(6, 3)).rank, PeftModule("m").rank) == (3, None)
    assert PeftModule("m", tensor(2, 8), pooled=4).gain == 2.0
    both = {f"{place}lora_embedding_A": (2, 8), f"{place}lora_magnitude_vector": (6,)}
    assert [remark.code for remark in sort_tensors(header(both))[2]] == ["peft_variant"]
    mixed = {f"{place}lora_embedding_A": (2, 8), f"{place}lora_B.weight": (6, 2)}
    assert [remark.code for remark in sort_tensors(header(mixed))[2]] == ["peft_unknown_tensor"]
    biases = ("lora_B.bias", "norm.weight", "norm.bias", "q.bias")
    _, whole, remarks = sort_tensors(header({f"{place}{name}": (6,) for name in biases}))
    assert whole == [f"{place}norm.weight", f"{place}norm.bias"] and remarks[0].code == "peft_bias"
    assert refusal_of_method("LORA") is None and "not the name" in refusal_of_method(5)[0]
    assert "nothing to fuse" in refusal_of_method("P_TUNING")[0]
    config = PeftConfig(target_modules=["q"], exclude_modules=["layers.1.q"], layers_to_transform=[1, 2])
    assert [targets(config, f"model.layers.{number}.q") for number in range(4)] == [False, False, True, False]
    assert full_match("[^a]b", "cb") and not full_match("[^a]b", "ab")


EXPERTS = {"model_type": "mixtral"}
STEM = "model.layers.0.mlp.experts"


def base_with(weights: dict[str, tuple[int, ...]]) -> Architecture:
    held = {name: Weight(name, shape, "BF16", None) for name, shape in weights.items()}
    return Architecture(EXPERTS, held, 0, "bf16", None, True)


def test_experts_on_a_base() -> None:
    parameters = ["experts.down_proj", "gate.weight", "w.weight", "k_proj.weight"]
    config = PeftConfig(target_parameters=parameters, r=2)
    layout = reading.expert_layout(EXPERTS)
    assert layout is not None and layout.routers is not None
    holder = f"model.layers.0.{layout.experts}"
    base = base_with({f"model.layers.0.{layout.switch}.down_proj": (4, 8, 6)})

    def placed(a: tuple[int, int], b: tuple[int, int], place: str = holder) -> Any:
        factors = reading.ExpertFactors(place, "down_proj", 2, tensor(*a), tensor(*b))
        return reading.place_experts(config, {}, [factors], base)

    straight = placed((8, 6), (8, 8))
    assert list(straight.switches) and not straight.remarks
    assert next(iter(placed((8, 8), (6, 8)).switches.values())).turned
    assert not next(iter(straight.switches.values())).turned
    elsewhere = placed((8, 6), (8, 8), "model.layers.9.experts")
    for wrong in (placed((8, 5), (8, 8)), placed((6, 6), (8, 6)), elsewhere):
        assert not wrong.switches and wrong.remarks[0].code == "peft_experts"
    router = f"model.layers.0.{layout.routers[0]}"
    modules = {name: PeftModule(name) for name in (router, "q.k_proj", "q.w", "plain")}
    on_base = reading.place_experts(config, modules, [], base)
    assert [*on_base.modules] == [f"model.layers.0.{layout.routers[1]}", "q.k_proj", "plain"]
    assert len(on_base.remarks) == 1 and not reading.place_experts(PeftConfig(), modules, [], base).remarks
    unknown = reading.place_experts(config, modules, [], None)
    assert [*unknown.modules] == ["plain"] and len(unknown.remarks) == 1
    twice = {name: PeftModule(name) for name in (router, f"model.layers.0.{layout.routers[1]}")}
    config = PeftConfig(target_parameters=[f"{layout.routers[0]}.weight"])
    assert "one module" in reading.place_experts(config, twice, [], base).remarks[0].message


VERSIONS: list[tuple[str | None, bool, bool | type]] = [
    *((version, False, True) for version in ("0.17.1", "0.18.0", "0.19.0")),
    *((version, False, False) for version in ("0.19.1", "0.20.0")),
    *(("0.18.1", True, False), ("0.19.0", True, str)),
    *((version, False, str) for version in (None, "", "0.19", "0.19.1.dev0", "0.20.0rc1", "latest")),
]


def test_square_experts_go_by_the_version() -> None:
    square = (reading.ExpertFactors(STEM, "down_proj", 2, tensor(8, 6), tensor(6, 8)), ["p"], (4, 6, 6))
    for version, transposed, turned in VERSIONS:
        config = PeftConfig(peft_version=version)
        layout = replace(reading.expert_layout(EXPERTS), transposed=transposed)
        found = reading._orientation([square], config, layout)
        assert isinstance(found, str) if turned is str else found is turned, version
    assert reading._orientation([], config, layout) is False
    one = (replace(square[0], b=tensor(8, 8)), ["p"], (4, 8, 6))
    other = (replace(square[0], a=tensor(8, 8)), ["p"], (4, 8, 6))
    assert isinstance(reading._orientation([one, other], config, layout), str)


def test_groups_of_qalora_on_a_base() -> None:
    base = base_with({"model.layers.0.q_proj": (8, 16)})
    plain = PeftModule("model.layers.0.q_proj", tensor(2, 4), tensor(8, 2))
    config = PeftConfig(use_qalora=True, qalora_group_size=4)

    def pooled(module: PeftModule, config: PeftConfig = config) -> Any:
        peft = reading.PeftReading({}, config, None, {module.path: module}, reading.WholeTensors(), (), ())
        return reading.put_on_base(config, peft, base)

    assert pooled(plain).modules[plain.path].pooled == 4
    for change in ({"a": tensor(2, 16)}, {"a": None}, {"embedding": True}, {"path": "x"}):
        one = replace(plain, **change)
        assert pooled(one).modules[one.path].pooled == 1
    for wrong in ({"qalora_group_size": 1}, {"use_dora": True}):
        remarks = pooled(plain, PeftConfig(use_qalora=True, **wrong)).remarks
        assert [remark.code for remark in remarks] == ["peft_variant"]


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
ONE, TWO = ("F32", np.full((320, 128), 0.5, np.float32)), ("F32", np.full((320, 128), 0.25, np.float32))
ROWS = {"model.embed_tokens.token_adapter.trainable_tokens_delta": ("F32", np.ones((1, 128), np.float32))}
HEAD_ROWS = {"lm_head.token_adapter.trainable_tokens_delta": ("F32", np.ones((1, 128), np.float32))}


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_base(tmp_path_factory.mktemp("tied") / "tied", tied=True, dtype="float32")


@pytest.mark.parametrize(
    ("given", "config", "names", "untied", "why"),
    [
        ({EMBEDDING: ONE, HEAD: ONE}, {}, {EMBEDDING}, False, ""),
        ({HEAD: ONE}, {}, {EMBEDDING}, False, ""),
        ({EMBEDDING: ONE, HEAD: TWO}, {}, None, False, "have different numbers"),
        ({EMBEDDING: ONE}, {"modules_to_save": ["embed_tokens"]}, {EMBEDDING}, True, ""),
        ({HEAD: ONE}, {"modules_to_save": ["lm_head"]}, {HEAD}, True, ""),
        ({HEAD: ONE}, {"modules_to_save": ["lm_head"], "ensure_weight_tying": True}, {EMBEDDING}, False, ""),
        ({**ROWS, **HEAD_ROWS}, {"trainable_token_indices": [5]}, set(), False, ""),
        (HEAD_ROWS, {"trainable_token_indices": [5]}, None, False, "not those of"),
        ({**ROWS, HEAD: ONE}, {"modules_to_save": ["lm_head"], "trainable_token_indices": [5]}, None, True, "beside a whole"),
    ],
)  # fmt: skip
def test_both_ends_of_a_tied_matrix(
    tied: Path, tmp_path: Path, given: Any, config: Any, names: set[str] | None, untied: bool, why: str
) -> None:
    folder = peft_folders.make_peft(tmp_path / "peft", tied, rank=2, **config)
    prefixed = {f"{peft_folders.PREFIX}{name}": value for name, value in given.items()}
    peft_folders.edit_tensors(folder, lambda own: own.update(prefixed))
    weights = folder / "adapter_model.safetensors"
    whole = reading.read_peft({path.name: path for path in folder.iterdir()}).whole
    files = {path.name: path for path in tied.iterdir() if WEIGHTS.fullmatch(path.name)}
    fitted = fit_whole(files, read_object(tied / "config.json"), weights, whole)
    assert any(why in problem for problem in fitted.problems) if why else not fitted.problems
    if names is not None:
        assert (set(fitted.tensors), fitted.untied is not None) == (names, untied)
    assert fit_whole({}, {}, weights, whole).problems


def test_folders_that_are_none(tmp_path: Path, make_adapter: Callable[..., Path]) -> None:
    folder = make_adapter()
    for wrong in (tmp_path / "nowhere", folder / "adapter_config.json"):
        with pytest.raises(MissingFileError):
            read_adapter_folder(wrong)
    (folder / "0000100_adapters.safetensors").write_bytes((folder / "adapters.safetensors").read_bytes())
    (folder / "adapters.safetensors").write_bytes(b"torn")
    (folder / "chat_template.jinja").write_bytes(b" " * ((1 << 20) + 1))
    read = read_adapter_folder(folder)
    assert read.problems and read.left_out.keys() == {"chat_template.jinja"}
    chosen = with_weights(read, "0000100_adapters.safetensors")
    assert not chosen.problems and chosen.modules and chosen.rank == 8
    with pytest.raises(MissingFileError):
        with_weights(read, "0000200_adapters.safetensors")


def test_products_and_equal_tensors(tmp_path: Path, make_adapter: Callable[..., Path]) -> None:
    random = np.random.default_rng(3)
    a, b = random.standard_normal((700, 40)), random.standard_normal((700, 60))
    assert np.allclose(tensors.cross(a, b), a.T @ b)
    path = make_adapter() / "adapters.safetensors"
    one, *others = read_header(path).tensors.values()
    assert tensors.same_numbers(path, one, one)
    alike = next(other for other in others if (other.dtype, other.shape) == (one.dtype, one.shape))
    longer = next(other for other in others if other.shape != one.shape)
    assert not tensors.same_numbers(path, one, alike) and not tensors.same_numbers(path, one, longer)


EMPTY = Header({}, {}, 0, 0)


@pytest.mark.parametrize(
    ("trained_on", "dataset"),
    [
        ({"hf_dataset": {"path": "org/chats"}}, "org/chats"),
        ({"hf_dataset": [{"path": "org/chats"}, {"path": "org/more"}]}, "org/chats"),
        ({"hf_dataset": None}, "data"),
        ({"hf_dataset": {}}, "data"),
        ({}, "data"),
    ],
)
def test_hf_dataset_takes_precedence_over_data(trained_on: dict[str, Any], dataset: str) -> None:
    assert AdapterConfig.model_validate({"data": "data", **trained_on}).data == dataset
