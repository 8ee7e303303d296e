"""Run a base, base + adapter and many fused models over the same questions: PyTorch, in float32, without work that is done twice.

Only the weights of adapted modules differ between them.  The blocks below the first adapted one run once for a base and a question,
and a fused model is this base with other weights in these modules.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from behaviour import Sample
from behaviour_torch import load_model, load_tokenizer
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import Identity
from torch.nn.utils.rnn import pad_sequence
from train_adapters import dequantize

from fusery.research.models import TokenScores

_BATCH, _MARGIN = 16, 16
Answers = list[torch.Tensor]
"""For each sample, the logarithms of the probabilities at its judged tokens."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a model is asked: prompts of each task and general texts by fusery, others of both kinds by the study."""

    prompts: list[list[Sample]]
    texts: list[Sample]
    judged: list[list[Sample]]
    others: list[Sample]


class Chat:
    """A tokenizer of transformers with the interface of mlx-lm's wrapper, which fusery expects."""

    has_chat_template = True

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.eos_token_id = tokenizer, tokenizer.eos_token_id

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return list(self.tokenizer.encode(text))

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        """Return the tokens of a chat."""
        return self.tokenizer.apply_chat_template(messages, **options | {"return_dict": False})


class Runner:
    """A model in memory, whose first blocks run once for a sample."""

    def __init__(self, folder: Path, tokenizer: Chat | None = None) -> None:
        torch.set_grad_enabled(False)
        self.model = load_model(folder)
        self.tokenizer = tokenizer or Chat(load_tokenizer(folder))
        self.blocks, self.norm = self.model.model.layers, self.model.model.norm
        self.types = list(getattr(self.model.config, "layer_types", None) or [])
        self._states: dict[tuple[int, Sample], torch.Tensor] = {}

    def module(self, path: str) -> Any:
        """Return a linear layer."""
        _, _, number, inner = path.split(".", 3)
        return self.blocks[int(number)].get_submodule(inner)

    def answers(self, samples: Sequence[Sample], first: int = 0) -> Answers:
        """Return the answers of a model that differs from block `first` on; samples of similar length run together."""
        answers: dict[int, torch.Tensor] = {}
        order = sorted(range(len(samples)), key=lambda at: len(samples[at].tokens))
        while order:
            longest = len(samples[order[0]].tokens) + _MARGIN
            group = [at for at in order[:_BATCH] if len(samples[at].tokens) <= longest]
            order = order[len(group) :]
            states = pad_sequence([self._state(samples[at], first) for at in group], batch_first=True)
            hidden = self._run(states, first, len(self.blocks))
            for row, at in enumerate(group):
                judged = hidden[row, samples[at].start - 1 : len(samples[at].tokens) - 1]
                answers[at] = self.model.lm_head(judged).log_softmax(dim=1)
        return [answers[at] for at in range(len(samples))]

    def _state(self, sample: Sample, first: int) -> torch.Tensor:
        """Return the hidden states of a sample before block `first`."""
        if (first, sample) not in self._states:
            start = max((at for at, other in self._states if other == sample and at < first), default=0)
            if (start, sample) not in self._states:
                tokens = torch.tensor([sample.tokens])
                self._states[0, sample] = self.model.model.embed_tokens(tokens)[0]
            if start < first:
                states = self._run(self._states[start, sample][None], start, first)[0]
                self._states[first, sample] = states
        return self._states[first, sample]

    def _run(self, states: torch.Tensor, first: int, end: int) -> torch.Tensor:
        text = self.model.model
        text.layers = self.blocks[first:end]
        text.norm = self.norm if end == len(self.blocks) else Identity()
        text.config.num_hidden_layers = end - first
        if self.types:
            text.config.layer_types = self.types[first:end]
        hidden: torch.Tensor = text(inputs_embeds=states, use_cache=False).last_hidden_state
        return hidden


class Reference:
    """What base and base + adapter (or a sum) answer, each question once and when it is needed."""

    def __init__(self, runner: Runner, asked: Asked, update: dict[str, torch.Tensor]) -> None:
        self.runner, self.asked = runner, asked
        self.first = min(int(path.split(".")[2]) for path in update)
        self.weights = {path: runner.module(path).weight for path in update}
        self.before = {path: weight.clone() for path, weight in self.weights.items()}
        self.after = {path: self.before[path] + change for path, change in update.items()}

    def answers(self, values: dict[str, torch.Tensor], samples: Sequence[Sample]) -> Answers:
        """Return what the model answers with other weights in the adapted modules."""
        for path, weight in self.weights.items():
            weight.copy_(values[path])
        answers = self.runner.answers(samples, self.first)
        for path, weight in self.weights.items():
            weight.copy_(self.before[path])
        return answers

    @cached_property
    def judged(self) -> list[tuple[Answers, Answers]]:
        """What base and base + adapter answer to the study's questions, task by task."""
        return [
            (self.answers(self.before, task), self.answers(self.after, task)) for task in self.asked.judged
        ]

    @cached_property
    def others(self) -> Answers:
        """What base + adapter answers to the study's general texts."""
        return self.answers(self.after, self.asked.others)

    @cached_property
    def prompts(self) -> tuple[Answers, Answers]:
        """What the base answers to fusery's prompts, and base + adapter to these and the texts."""
        own = [sample for task in self.asked.prompts for sample in task]
        return self.answers(self.before, own), self.answers(self.after, own + self.asked.texts)


def update_of(folders: Sequence[Path], factor: float) -> dict[str, torch.Tensor]:
    """Return what adapters add to each module's weights, the first one times a factor."""
    update: dict[str, torch.Tensor] = {}
    for number, folder in enumerate(folders):
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        scale = settings["lora_parameters"]["scale"] * (1.0 if number else factor)
        tensors = load_file(folder / "adapters.safetensors")
        for path in (name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")):
            change = (scale * tensors[f"{path}.lora_b"].float().T) @ tensors[f"{path}.lora_a"].float().T
            update[path] = update[path] + change if path in update else change
    return update


def fused_weights(folder: Path, paths: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the numbers that a fused model's weights stand for."""
    quantization = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization", {})
    values = {}
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, "pt") as tensors:
            names = set(tensors.keys())
            for path in (path for path in paths if f"{path}.weight" in names):
                weight, of_module = tensors.get_tensor(f"{path}.weight"), quantization.get(path, quantization)
                if f"{path}.scales" in names:
                    scales, biases = (tensors.get_tensor(f"{path}.{part}") for part in ("scales", "biases"))
                    bits, group = of_module["bits"], of_module["group_size"]
                    weight = dequantize(weight, scales, biases, bits=bits, group=group)
                values[path] = weight.float()
    return values


def scores(samples: Sequence[Sample], reference: Answers, other: Answers) -> list[TokenScores]:
    """Compare answers as research/models.py does, in float32."""
    compared = []
    for sample, a, b in zip(samples, reference, other, strict=True):
        targets = list(sample.tokens[sample.start :])
        places = range(len(targets)), targets
        kl = (a.exp() * (a - b)).sum(dim=1).clamp(min=0)
        same = (a.argmax(dim=1) == b.argmax(dim=1)).numpy()
        compared.append(TokenScores(kl.double().numpy(), same, _losses(a, places), _losses(b, places)))
    return compared


def _losses(answers: torch.Tensor, places: Any) -> Any:
    return -answers[places].double().numpy()


def figures(samples: Sequence[Sample], alone: Answers, adapted: Answers, fused: Answers) -> dict[str, float]:
    """Compare base, base + adapter and fused model."""
    far, near = (TokenScores.joined(scores(samples, adapted, one)) for one in (alone, fused))
    gain, excess = (float((one.loss_b - one.loss_a).mean()) for one in (far, near))
    exact = []
    for side in (adapted, fused):
        right = [
            one.argmax(dim=1).tolist() == [*sample.tokens[sample.start :]]
            for sample, one in zip(samples, side, strict=True)
        ]
        exact.append(float(np.mean(right)))
    return {
        "gain": gain,
        "excess": excess,
        "kept": 1 - excess / gain,
        "agreement": float(near.same.mean()),
        "kl": float(near.kl.mean()),
        "exact_adapter": exact[0],
        "exact_fused": exact[1],
    }
