"""Pretrain the smallest base of the verdict study: `python benchmarks/make_tiny_base.py FOLDER`.

A Qwen2 of 0.8 million parameters over bytes, trained for a few minutes on real text that every Python brings along,
the language reference in `pydoc_data`.  It needs torch and transformers.  What is written is an MLX folder in bf16.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path[:0] = map(str, (Path(__file__).resolve().parents[1] / "tests" / "support").iterdir())

import tiny_models

LENGTH, BATCH, RATE = 192, 16, 3e-3


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=260,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=258,
    )
    model = Qwen2ForCausalLM(config)
    train(model, options.steps)
    options.folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    state.pop("lm_head.weight", None)
    save_file(state, options.folder / "model.safetensors", {"format": "mlx"})
    config.dtype = "bfloat16"
    config.architectures = ["Qwen2ForCausalLM"]
    config.rope_theta = 10000.0  # mlx-lm looks for it under this name
    config.save_pretrained(options.folder)
    tiny_models.make_tokenizer(options.folder)


def train(model: Qwen2ForCausalLM, steps: int) -> None:
    """Train on random pieces of the language reference."""
    data = torch.frombuffer(
        bytearray("\n\n".join(topics[name] for name in sorted(topics)).encode()), dtype=torch.uint8
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    started = time.monotonic()
    for step in range(1, steps + 1):
        starts = torch.randint(len(data) - LENGTH, (BATCH, 1))
        batch = data[starts + torch.arange(LENGTH)].long()
        loss = model(batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"{step:5} {loss.item():.3f}  {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
