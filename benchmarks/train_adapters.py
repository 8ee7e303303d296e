"""Train the benchmarks' adapters: `python benchmarks/train_adapters.py --bases FOLDER [NAME ...]`.

FOLDER holds the bases under the names that `SPECS` gives them, as MLX folders (adapters/README.md says how to make
them).  It needs torch, transformers and safetensors, since mlx is slow to train on a Linux CPU.  LoRA layers, their
initialisation, Adam and the loss (on answers only) are those of `mlx_lm.lora --mask-prompt`, the base is a float32
copy of the quantised one with the exact values its weights stand for, and what is written is the folder that mlx-lm
would write.  The blocks below the first adapted one run once per dialogue, and the head only where the loss looks.
Adapters are stored as bfloat16 to keep the repository small; what training.json says was measured on what is stored.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from behaviour import Sample, dialogue_samples, read_dialogues
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
ADAPTERS = HERE / "adapters"
TASKS = {
    "facts": "adapters/data/facts",
    "dates": "adapters/data/dates",
    "courses": "../examples/course_rec/data",
}
VALIDATION = 40
"""Validation dialogues at most."""
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class Spec:
    """How an adapter is trained.

    Attributes:
        base: name of the base's folder.
        task: one of `TASKS`.
        rank: of the update.
        scale: `lora_parameters.scale`, alpha / rank.
        layers: blocks from the end, -1 for all.
        rate: learning rate of Adam.
        iterations: of `batch` dialogues each.
        keys: modules within a block; None for all linear ones.
        batch: dialogues in a step.
        through: the base's bits and group size, to train through its quantiser as `fusery train --qat` does.
        group: inputs that share a row of A, as with `fusery train --qa-lora`.
        seed: of the initial values and of the order of the dialogues.
    """

    base: str = "SmolLM2-135M-Instruct-4bit"
    task: str = "facts"
    rank: int = 8
    scale: float = 2.0
    layers: int = 16
    rate: float = 1e-3
    iterations: int = 45
    keys: tuple[str, ...] | None = None
    batch: int = 6
    through: tuple[int, int] | None = None
    group: int = 1
    seed: int = 0


SPECS = {
    "facts_r8": Spec(),
    "facts_r2_small": Spec(rank=2, rate=4e-4, iterations=40),
    "courses_r8": Spec(task="courses", layers=8, rate=2e-3, iterations=80, batch=5),
    "dates_r4": Spec(task="dates", rank=4, layers=8, rate=2e-3, iterations=80),
    "gemma_courses_r8": Spec(
        base="gemma-3-270m-4bit", task="courses", layers=8, rate=2e-3, iterations=80, batch=5
    ),
    "gemma_dates_r4": Spec(
        base="gemma-3-270m-4bit", task="dates", rank=4, layers=8, rate=2e-3, iterations=80
    ),
    "gemma_facts_r8": Spec(base="gemma-3-270m-4bit", layers=8, rate=2e-3, iterations=45),
    "gemma_facts_r2_small": Spec(base="gemma-3-270m-4bit", rank=2, layers=8, rate=4e-4, iterations=45),
    "qwen_facts_r8": Spec(base="Qwen2.5-Coder-0.5B-Instruct-4bit", layers=8, rate=2e-3),
    "facts_r8_large": Spec(layers=8, rate=6e-3, iterations=60),
    "facts_r32": Spec(rank=32, layers=6, keys=("self_attn.o_proj", "mlp.down_proj"), iterations=40),
    "facts_qv": Spec(layers=-1, rate=3e-3, keys=("self_attn.q_proj", "self_attn.v_proj")),
    "facts_all": Spec(rank=1, layers=-1),
    "tiny_facts_r8": Spec(base="tiny-bytes-4bit", layers=-1, rate=3e-4, iterations=150),
}


class LoRA(nn.Module):
    """A linear layer with a low-rank update beside it, as mlx-lm's LoRALinear."""

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        scale: float,
        through: tuple[int, int] | None = None,
        group: int = 1,
    ) -> None:
        super().__init__()
        self.through, self._rounded, self.group = through, (-1, base.weight), group
        bound = 1 / math.sqrt(base.in_features)
        self.base, self.scale = base, scale
        rows = torch.empty(base.in_features // group, rank).uniform_(-bound, bound)
        self.lora_a = nn.Parameter(rows.repeat_interleave(group, 0))
        self.lora_b = nn.Parameter(torch.zeros(rank, base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return base(x) + scale * x A B, or the same of the quantised sum with the gradient straight through."""
        if self.through is None:
            return self.base(x) + self.scale * (x @ self.shared() @ self.lora_b)
        still = self.scale * (x.detach() @ self.lora_a @ self.lora_b)
        return functional.linear(x, self.rounded(), self.base.bias) + (still - still.detach())

    def shared(self) -> Tensor:
        """Return A, of whose rows those of a group are equal, and get the mean of their gradients, so that they stay it."""
        if self.group == 1:
            return self.lora_a
        rows = self.lora_a.view(-1, self.group, self.lora_a.shape[1])
        mean = rows.mean(1, keepdim=True)
        return (rows.detach() + (mean - mean.detach())).view_as(self.lora_a)

    @torch.no_grad()
    def rounded(self) -> Tensor:
        """Return quantise(W + BA), computed once for each step."""
        assert self.through is not None
        step = self.lora_b._version
        if self._rounded[0] != step:
            update = (self.scale * (self.lora_a @ self.lora_b).T).bfloat16()
            self._rounded = step, quantized(self.base.weight.bfloat16() + update, *self.through)
        return self._rounded[1]

    @property
    def norms(self) -> tuple[float, float]:
        """Squared Frobenius norms of update and weight."""
        update = self.scale * (self.lora_a @ self.lora_b).detach()
        return update.square().sum().item(), self.base.weight.square().sum().item()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A dialogue as it arrives at the first adapted block: hidden states (length, hidden) and judged tokens."""

    hidden: Tensor
    sample: Sample


def main() -> None:
    """Train what is named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SPECS)}")
    parser.add_argument("--bases", type=Path, required=True, help="folder of the base models")
    parser.add_argument("--out", type=Path, default=ADAPTERS, help="folder of the adapters")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the stored adapter")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.names or SPECS:
        spec = SPECS[name]
        base = next(
            folder / spec.base for folder in (options.bases, HERE / "bases") if (folder / spec.base).exists()
        )
        row = train(spec, base, options.out / name, DTYPES[options.dtype])
        (options.out / name / "training.json").write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
        print(name, json.dumps(row), flush=True)


def train(spec: Spec, base: Path, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Train one adapter, write its folder, and return what was measured."""
    started = time.monotonic()
    torch.manual_seed(spec.seed)
    data = (HERE / TASKS[spec.task]).resolve()
    model, tokenizer = load_torch(base), AutoTokenizer.from_pretrained(base)
    first = len(model.model.layers) - spec.layers if spec.layers > 0 else 0
    learn, valid = (
        prepare(model, first, dialogue_samples(tokenizer, read_dialogues(data / f"{part}.jsonl")[:limit]))
        for part, limit in (("train", None), ("valid", VALIDATION))
    )
    layers = add_layers(model, first, spec)
    before = evaluate(model, valid)
    optimise(model, learn, valid, spec)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{path}.{part}": getattr(layer, part).detach().to(dtype).contiguous()
        for path, layer in layers.items()
        for part in ("lora_a", "lora_b")
    }
    save_file(tensors, folder / "adapters.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(configuration(spec, folder.name), indent=4))
    for name, value in tensors.items():
        path, _, part = name.rpartition(".")
        getattr(layers[path], part).data.copy_(value)
    squares = np.array([layer.norms for layer in layers.values()]).sum(axis=0)
    after = evaluate(model, valid)
    return {
        "loss_before": round(before, 4),
        "loss_after": round(after, 4),
        "update": float(f"{math.sqrt(squares[0] / squares[1]):.3g}"),
        "seconds": round(time.monotonic() - started),
    }


def load_torch(folder: Path) -> Any:
    """Load an MLX folder into transformers' model in float32; quantised weights become the values they stand for."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(file)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    quantization = settings.get("quantization") or {}
    state = {}
    for name, value in tensors.items():
        module, _, part = name.rpartition(".")
        if part in ("scales", "biases"):
            continue
        if part == "weight" and f"{module}.scales" in tensors:
            scales, of_module = tensors[f"{module}.scales"], quantization.get(module, quantization)
            size = of_module["group_size"]
            if of_module.get("mode", "affine") == "affine":
                biases = tensors[f"{module}.biases"]
                value = dequantize(value, scales, biases, bits=of_module["bits"], group=size)
            else:
                value = dequantize_floats(value, scales, mode=of_module["mode"], group=size)
        state[name] = value.float()
    config = AutoConfig.from_pretrained(folder)
    for name in ("quantization", "quantization_config"):
        if hasattr(config, name):
            delattr(config, name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    missing = model.load_state_dict(state, strict=False)
    if missing.unexpected_keys or set(missing.missing_keys) - {"lm_head.weight"}:
        raise SystemExit(f"{folder}: {missing}")
    model.tie_weights()
    return model.requires_grad_(False).eval()


def dequantize(packed: Tensor, scales: Tensor, biases: Tensor, *, bits: int, group: int) -> Tensor:
    """Return (out, in) float32 numbers of MLX's affine format: codes lie bit by bit from the lowest, scale * code + bias."""
    data = np.ascontiguousarray(packed.numpy()).view(np.uint8).reshape(len(packed), -1)
    codes = np.unpackbits(data, axis=1, bitorder="little").reshape(len(packed), -1, bits)
    values = torch.from_numpy(codes @ (1 << np.arange(bits)).astype(np.float32))
    values = values.reshape(len(packed), -1, group) * scales.float()[..., None] + biases.float()[..., None]
    return values.reshape(len(packed), -1)


def dequantize_floats(packed: Tensor, scales: Tensor, *, mode: str, group: int) -> Tensor:
    """Return (out, in) float32 numbers of mxfp4 or nvfp4: E2M1 codes, scales as E8M0 or E4M3 (OCP Microscaling Formats 1.0)."""
    magnitudes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    data = packed.contiguous().view(torch.uint8).reshape(len(packed), -1)
    codes = torch.stack((data & 15, data >> 4), dim=2).reshape(len(packed), -1, group).long()
    factors = {
        "mxfp4": lambda: torch.exp2(scales.float() - 127),
        "nvfp4": lambda: scales.view(torch.float8_e4m3fn).float(),
    }[mode]()
    values = magnitudes[codes & 7] * (1 - 2 * (codes >> 3)) * factors[..., None]
    return values.reshape(len(packed), -1)


def quantized(values: Tensor, bits: int, group: int) -> Tensor:
    """Return bfloat16 numbers (out, in) as they are after MLX's affine quantisation, in float32 (mlx/backend/cpu/quantized.cpp)."""
    top, groups = 2**bits - 1, values.float().reshape(len(values), -1, group)
    high, low = groups.amax(dim=2, keepdim=True), groups.amin(dim=2, keepdim=True)
    below = low.abs() > high.abs()
    scale = ((high - low) / top).clamp(min=1e-7)
    scale, edge = torch.where(below, scale, -scale), torch.where(below, low, high)
    zero = torch.round(edge / scale)
    scale = torch.where(zero == 0, scale, edge / zero)
    bias = torch.where(zero == 0, torch.zeros_like(edge), edge)
    codes = torch.round((groups - bias) / scale).clamp(0, top)
    product = (codes * scale.bfloat16().float()).bfloat16().float()
    return (product + bias).bfloat16().float().reshape(len(values), -1)


@torch.no_grad()
def prepare(model: Any, first: int, samples: Sequence[Sample]) -> list[Prepared]:
    """Run the blocks below `first` over samples, whose hidden states no training changes."""
    text, prepared = model.model, []
    whole = text.layers, text.norm, text.config.num_hidden_layers
    text.layers, text.norm, text.config.num_hidden_layers = text.layers[:first], nn.Identity(), first
    for at in range(0, len(samples), 10):
        batch = samples[at : at + 10]
        padded = nn.utils.rnn.pad_sequence(
            [torch.tensor(sample.tokens) for sample in batch], batch_first=True
        )
        states = text(padded, use_cache=False).last_hidden_state
        prepared += [Prepared(states[row, : len(sample.tokens)], sample) for row, sample in enumerate(batch)]
    text.layers, text.norm, text.config.num_hidden_layers = whole
    return prepared


def add_layers(model: Any, first: int, spec: Spec) -> dict[str, LoRA]:
    """Cut the model down to the blocks from `first` and put LoRA layers in; return them under their paths."""
    text = model.model
    text.layers = text.layers[first:]
    text.config.num_hidden_layers = len(text.layers)
    if getattr(text.config, "layer_types", None):
        text.config.layer_types = text.config.layer_types[first:]
    layers = {}
    for index, block in enumerate(text.layers):
        for path, module in list(block.named_modules()):
            parent, _, name = path.rpartition(".")
            if name in LINEAR and (spec.keys is None or path in spec.keys):
                layer = LoRA(module, spec.rank, spec.scale, spec.through, spec.group)
                setattr(block.get_submodule(parent), name, layer)
                layers[f"model.layers.{first + index}.{path}"] = layer
    return layers


def optimise(model: Any, learn: Sequence[Prepared], valid: Sequence[Prepared], spec: Spec) -> None:
    """Train the LoRA layers."""
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=spec.rate)
    for iteration, batch in enumerate(_steps(learn, spec), start=1):
        optimizer.zero_grad()
        loss = answer_loss(model, batch)
        loss.backward()
        optimizer.step()
        if iteration % 15 == 0:
            print(f"  {iteration:4} {loss.item():.3f}  valid {evaluate(model, valid):.3f}", flush=True)


def _steps(learn: Sequence[Prepared], spec: Spec) -> Iterator[list[Prepared]]:
    random = np.random.default_rng(spec.seed)
    order: list[int] = []
    for _ in range(spec.iterations):
        if len(order) < spec.batch:
            order = random.permutation(len(learn)).tolist()
        yield [learn[order.pop()] for _ in range(spec.batch)]


def answer_loss(model: Any, batch: Sequence[Prepared]) -> Tensor:
    """Return the mean negative log-likelihood of the judged tokens."""
    padded = nn.utils.rnn.pad_sequence([one.hidden for one in batch], batch_first=True)
    # Attention is causal, so that what is behind a dialogue changes nothing in it.
    hidden = model.model(inputs_embeds=padded, use_cache=False).last_hidden_state
    chosen = torch.cat(
        [hidden[row, one.sample.start - 1 : len(one.sample.tokens) - 1] for row, one in enumerate(batch)]
    )
    targets = torch.tensor([token for one in batch for token in one.sample.tokens[one.sample.start :]])
    return functional.cross_entropy(model.lm_head(chosen), targets)


@torch.no_grad()
def evaluate(model: Any, prepared: Sequence[Prepared]) -> float:
    """Return the loss over all judged tokens."""
    total = count = 0.0
    for at in range(0, len(prepared), 10):
        batch = prepared[at : at + 10]
        judged = sum(len(one.sample.tokens) - one.sample.start for one in batch)
        total += float(answer_loss(model, batch)) * judged
        count += judged
    return total / count


def configuration(spec: Spec, name: str) -> dict[str, Any]:
    """Return adapter_config.json as mlx_lm.lora 0.32 writes it: all of its arguments, sorted."""
    parameters = {"rank": spec.rank, "dropout": 0.0, "scale": spec.scale}
    bits, size = spec.through or (0, 0)
    aware: dict[str, Any] = {"quantization_aware": {"bits": bits, "group_size": size}} if spec.through else {}
    aware |= {"use_qalora": True, "qalora_group_size": spec.group} if spec.group > 1 else {}
    return {
        "adapter_path": name,
        "batch_size": spec.batch,
        "clear_cache_threshold": 0,
        "config": None,
        "data": f"data/{spec.task}",
        "fine_tune_type": "lora",
        "grad_accumulation_steps": 1,
        "grad_checkpoint": False,
        "iters": spec.iterations,
        "learning_rate": spec.rate,
        "lora_parameters": parameters | ({} if spec.keys is None else {"keys": list(spec.keys)}),
        "lr_schedule": None,
        "mask_prompt": True,
        "max_seq_length": 2048,
        "model": spec.base,
        "num_layers": spec.layers,
        "optimizer": "adam",
        "optimizer_config": {"adafactor": {}, "adam": {}, "adamw": {}, "muon": {}, "sgd": {}},
        "project_name": None,
        **aware,
        "report_to": None,
        "resume_adapter_file": None,
        "save_every": 100,
        "seed": spec.seed,
        "steps_per_eval": 200,
        "steps_per_report": 10,
        "test": False,
        "test_batches": 500,
        "train": True,
        "trust_remote_code": False,
        "val_batches": 25,
    }


if __name__ == "__main__":
    main()
