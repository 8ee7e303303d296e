"""Folders as six trainers leave them, with the tokenizer that each trained with in memory: 24 variants.

Sources: mlx-lm 0.32.2 (`lora.py`), transformers 5.24 (`trainer.py`) and 4.57, PEFT 0.21.2 (`save_and_load.py`), TRL (`sft_trainer.py`,
`clone_chat_template`), axolotl (`train.py`, `loaders/tokenizer.py`), LLaMA-Factory (`patcher.py`, `template.py`), unsloth
(`get_chat_template`, `save.py`), torchtune (`_checkpointer.py`, `copy_files`).
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft_folders
import tiny_models
from peft_folders import PREFIX

TURNS = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|close|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
PLAIN = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
ADDED = ["<|turn|>", "<|close|>"]
_EMBEDDING, _HEAD = f"{PREFIX}model.embed_tokens", f"{PREFIX}lm_head"


@dataclass
class Trained:
    """A trainer's run: the folder to register, the tokenizer in training, and the ends that its files declare."""

    folder: Path
    tokenizer: Any
    ends: set[int] | None = None


@dataclass
class TrainingSetup:
    """A base, its tokenizer in memory, and an empty folder for one run."""

    base: Path
    original: Any
    folder: Path
    seed: int = 0

    def tokenizer(self, *tokens: str, eos: str | None = None, template: str | None = None) -> Any:
        own = copy.deepcopy(self.original)
        own.add_special_tokens({"additional_special_tokens": list(tokens)})
        if eos is not None:
            own.eos_token = eos
        if template is not None:
            own.chat_template = template
        return own

    def peft(self, folder: Path | None = None, rows: int = 0, wrap: str = "", **config: Any) -> Path:
        """Write an adapter of PEFT; `rows` are those of the resized ends, which PEFT then saves by itself."""
        folder = folder or self.folder
        config["seed"] = 100 * self.seed + config.get("seed", 0)
        peft_folders.make_peft(folder, self.base, rank=2, **config)
        if rows:
            hidden = json.loads((self.base / "config.json").read_text())["hidden_size"]
            ends = np.random.default_rng(3).standard_normal((2, rows, hidden)).astype(np.float32) / hidden
            names = [f"{_EMBEDDING}{wrap}.weight", f"{_HEAD}.weight"]
            if config.get("modules_to_save"):
                names += [f"{_HEAD}.modules_to_save.weight", f"{_HEAD}.original_module.weight"]
            tensors = {name: ("F32", ends[0 if "embed" in name else 1]) for name in names}
            if tokens := config.get("trainable_token_indices", {}).get("embed_tokens"):
                delta = ends[0][tokens]
                tensors[f"{_EMBEDDING}.token_adapter.trainable_tokens_delta"] = ("F32", delta)
            peft_folders.edit_tensors(folder, lambda own: own.update(tensors))
        return folder

    def mlx(self) -> Path:
        return tiny_models.make_adapter(self.folder, self.base, num_layers=-1, seed=self.seed)


def save_old(tokenizer: Any, folder: Path, *, fast: bool = True, inline: bool = False) -> None:
    """Save as transformers 4.57 does: the vocabulary twice, and each special token three times."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder, save_jinja_files=not inline)
    document = json.loads((folder / "tokenizer.json").read_text())
    vocabulary, merges = document["model"]["vocab"], document["model"]["merges"]
    added = {token["content"]: token["id"] for token in document["added_tokens"]}
    decoder = {token.pop("id"): token for token in document["added_tokens"]}
    extra = {token: number for token, number in added.items() if token not in vocabulary}
    roles = {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"added_tokens_decoder": decoder, "additional_special_tokens": list(extra)}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast" if fast else "GPT2Tokenizer"
    for key in ("backend", "is_local", "local_files_only", "extra_special_tokens"):
        settings.pop(key, None)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "special_tokens_map.json", roles | {"additional_special_tokens": list(extra)})
    _write(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("\n".join(lines))
    if extra:
        _write(folder / "added_tokens.json", extra)
    if not fast:
        (folder / "tokenizer.json").unlink()


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def state(folder: Path, step: int, best: int | None = None) -> None:
    """Write a trainer's state beside a checkpoint."""
    history = [
        {"step": at, "loss": 2.0 - at / 100, "eval_loss": 2.0 - at / 100} for at in range(10, step + 1, 10)
    ]
    document = {"global_step": step, "max_steps": 20, "log_history": history, "best_global_step": best}
    _write(folder / "trainer_state.json", document)


# mlx-lm writes adapters.safetensors and adapter_config.json; the other files are put beside them by hand.


def mlx_weights(at: TrainingSetup) -> Trained:
    return Trained(at.mlx(), at.original)


def mlx_template(at: TrainingSetup) -> Trained:
    own = at.tokenizer(template=PLAIN)
    (at.mlx() / "chat_template.jinja").write_text(PLAIN)
    return Trained(at.folder, own)


def mlx_settings(at: TrainingSetup) -> Trained:
    own = at.tokenizer(template=PLAIN, eos="<|endoftext|>")
    own.save_pretrained(at.mlx(), save_jinja_files=False)
    (at.folder / "tokenizer.json").unlink()
    return Trained(at.folder, own)


def mlx_generation(at: TrainingSetup) -> Trained:
    _write(at.mlx() / "generation_config.json", {"eos_token_id": [2, 16]})
    return Trained(at.folder, at.original, {2, 16})


# transformers' Trainer and TRL: `_save` writes the tokenizer into every checkpoint and the output folder; PEFT alone does not.


def peft_weights(at: TrainingSetup) -> Trained:
    return Trained(at.peft(), at.original)


def trl_template(at: TrainingSetup) -> Trained:
    own = at.tokenizer(template=PLAIN)  # chat_template_path=FILE.jinja
    for folder in (at.folder / "checkpoint-10", at.folder / "checkpoint-20", at.folder):
        own.save_pretrained(at.peft(folder))
        state(folder, int(folder.name[11:] or 20) if folder != at.folder else 20, 20)
    return Trained(at.folder, own)


def trl_cloned(at: TrainingSetup) -> Trained:
    own = at.tokenizer(
        *ADDED, eos="<|close|>", template=TURNS
    )  # chat_template_path=MODEL: clone_chat_template
    before = len(at.original)
    own.add_tokens([f"<extra_id_{number}>" for number in range(-len(own) % 64)])
    indices = {"embed_tokens": list(range(before, len(own)))}
    at.peft(
        rows=len(own),
        wrap=".token_adapter.base_layer",
        trainable_token_indices=indices,
        modules_to_save=["lm_head"],
    )
    own.save_pretrained(at.folder)
    return Trained(at.folder, own)


def trainer_without_tokenizer(at: TrainingSetup) -> Trained:
    own = at.tokenizer(
        template=PLAIN
    )  # Trainer(processing_class=None); the script saves the tokenizer at the end
    for step in (10, 20):
        state(at.peft(at.folder / f"checkpoint-{step}", seed=step), step, 10)
    own.save_pretrained(at.peft(seed=20))
    return Trained(at.folder, own)


# axolotl: as the Trainer; config.json too, and with `tokenizer_save_jinja_files: false` the template in tokenizer_config.json.


def axolotl_weights(at: TrainingSetup) -> Trained:
    at.original.save_pretrained(at.peft())
    shutil.copy(at.base / "config.json", at.folder)
    return Trained(at.folder, at.original)


def axolotl_inline(at: TrainingSetup) -> Trained:
    own = at.tokenizer(template=PLAIN)
    own.save_pretrained(at.peft(), save_jinja_files=False)
    shutil.copy(at.base / "config.json", at.folder)
    return Trained(at.folder, own)


def axolotl_tokens(at: TrainingSetup) -> Trained:
    own = at.tokenizer(*ADDED, eos="<|close|>", template=TURNS)  # special_tokens and lora_modules_to_save
    at.peft(rows=len(own), wrap=".modules_to_save", modules_to_save=["embed_tokens", "lm_head"])
    own.save_pretrained(at.folder)
    return Trained(at.folder, own)


def axolotl_overrides(at: TrainingSetup) -> Trained:
    at.peft()  # added_tokens_overrides: reserved tokens get other names
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (
            (at.base / name)
            .read_text()
            .replace("<empty_output>", "<|close|>")
            .replace("<jupyter_script>", "<|turn|>")
        )
        (at.folder / name).write_text(text)
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained(at.folder)
    own.eos_token, own.pad_token, own.chat_template = "<|close|>", "<|endoftext|>", TURNS
    own.save_pretrained(at.folder)
    return Trained(at.folder, own)


# unsloth: model.save_pretrained writes weights only, save_pretrained_merged(save_method="lora") the tokenizer too.


def unsloth_weights(at: TrainingSetup) -> Trained:
    at.peft()
    (at.folder / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    return Trained(at.folder, at.original)


def unsloth_swapped(at: TrainingSetup) -> Trained:
    own = (
        at.tokenizer()
    )  # get_chat_template(map_eos_token=True) swaps the names of two tokens in tokenizer.json
    text = (
        own.backend_tokenizer.to_str().replace("<|im_end|>", "<|:T:|>").replace("<|endoftext|>", "<|im_end|>")
    )
    backend = type(own.backend_tokenizer).from_str(text.replace("<|:T:|>", "<|endoftext|>"))
    own = type(own)(
        tokenizer_object=backend, bos_token=own.bos_token, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    own.chat_template = at.original.chat_template
    own.save_pretrained(at.peft())
    return Trained(at.folder, own)


def unsloth_pad(at: TrainingSetup) -> Trained:
    own = at.tokenizer()  # patch_tokenizer adds a token for padding, and PEFT saves the resized ends
    own.add_special_tokens({"pad_token": "<|PAD_TOKEN|>"})
    own.save_pretrained(at.peft(rows=len(own)))
    return Trained(at.folder, own)


def unsloth_saved_later(at: TrainingSetup) -> Trained:
    own = at.tokenizer(
        template=PLAIN
    )  # checkpoints with the tokenizer, then model.save_pretrained(output_dir)
    for step in (10, 20):
        own.save_pretrained(at.peft(at.folder / f"checkpoint-{step}", seed=step))
        state(at.folder / f"checkpoint-{step}", step)
    at.peft(seed=30)
    return Trained(at.folder, own)


# LLaMA-Factory: as the Trainer, with transformers 4.57 and the stop words of its template as special tokens.


def factory_old(at: TrainingSetup) -> Trained:
    own = at.tokenizer(template=PLAIN)
    save_old(own, at.peft(), inline=True)
    return Trained(at.folder, own)


def factory_resized(at: TrainingSetup) -> Trained:
    own = at.tokenizer(
        *ADDED, template=TURNS
    )  # add_special_tokens sets resize_vocab, and that additional_target
    at.peft(rows=len(own), wrap=".modules_to_save", modules_to_save=["embed_tokens", "lm_head"])
    save_old(own, at.folder)
    return Trained(at.folder, own)


def factory_stop_words(at: TrainingSetup) -> Trained:
    own = at.tokenizer(*ADDED, template=TURNS)  # the template's, without resize_vocab: a warning only
    save_old(own, at.peft())
    return Trained(at.folder, own)


def factory_slow(at: TrainingSetup) -> Trained:
    from transformers import AutoTokenizer

    own = at.tokenizer(*ADDED, template=TURNS)  # use_fast_tokenizer: false
    at.peft(rows=len(own), wrap=".modules_to_save", modules_to_save=["embed_tokens", "lm_head"])
    save_old(own, at.folder, fast=False)
    return Trained(at.folder, AutoTokenizer.from_pretrained(at.folder))


# torchtune: all files of the base's folder but weights, into epoch_N.


def tune_copy(at: TrainingSetup) -> Trained:
    _copy_base(at)
    return Trained(at.folder, at.original)


def tune_edited(at: TrainingSetup) -> Trained:
    _copy_base(at)
    _write(at.folder / "generation_config.json", {"eos_token_id": [0, 2], "temperature": 0.2})
    return Trained(at.folder, at.original, {0, 2})


def tune_inline(at: TrainingSetup) -> Trained:
    own = at.tokenizer(template=PLAIN)
    _copy_base(at)
    (at.folder / "chat_template.jinja").unlink()
    settings = json.loads((at.folder / "tokenizer_config.json").read_text())
    _write(at.folder / "tokenizer_config.json", settings | {"chat_template": PLAIN})
    return Trained(at.folder, own)


def tune_end(at: TrainingSetup) -> Trained:
    own = at.tokenizer(eos="<|endoftext|>")  # a folder of the base whose tokenizer ends with another token
    _copy_base(at)
    settings = json.loads((at.folder / "tokenizer_config.json").read_text())
    _write(at.folder / "tokenizer_config.json", settings | {"eos_token": "<|endoftext|>"})
    (at.folder / "generation_config.json").unlink()
    return Trained(at.folder, own)


def _copy_base(at: TrainingSetup) -> None:
    at.peft()
    (at.folder / "adapter_model").mkdir()
    for path in at.base.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, at.folder)


RUNS: dict[str, Iterable[Callable[[TrainingSetup], Trained]]] = {
    "mlx-lm": (mlx_weights, mlx_template, mlx_settings, mlx_generation),
    "TRL": (peft_weights, trl_template, trl_cloned, trainer_without_tokenizer),
    "axolotl": (axolotl_weights, axolotl_inline, axolotl_tokens, axolotl_overrides),
    "unsloth": (unsloth_weights, unsloth_swapped, unsloth_pad, unsloth_saved_later),
    "LLaMA-Factory": (factory_old, factory_resized, factory_stop_words, factory_slow),
    "torchtune": (tune_copy, tune_edited, tune_inline, tune_end),
}
