"""Train the adapters of this folder with PEFT: `python train.py BASE_FOLDER [NAME ...]`.

BASE_FOLDER is SmolLM2-135M-Instruct as README.md says.  It needs torch, transformers and peft (requirements/peft.txt).
A few steps each: what counts is that PEFT itself made them, with settings that differ in everything it can vary.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
FACTS = HERE.parents[2] / "benchmarks" / "adapters" / "data" / "facts" / "train.jsonl"
NAME = "SmolLM2-135M-Instruct"
SPECS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.05},
    "rslora_patterns": {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "target_modules": ["q_proj", "o_proj", "down_proj"],
        "layers_to_transform": list(range(18, 26)),
        "rank_pattern": {"down_proj": 2, r"^model\.layers\.2[0-3]\.self_attn\.q_proj": 8},
        "alpha_pattern": {"o_proj": 32},
    },
    "dora": {
        "r": 2,
        "lora_alpha": 8,
        "use_dora": True,
        "target_modules": r"model\.layers\.(2[4-9])\.(self_attn\.(k|v)_proj|mlp\.up_proj)",
    },
}
STORED = {"rslora_patterns": torch.bfloat16}
STEPS, BATCH, RATE = 12, 4, 2e-3


def main() -> None:
    """Train what is named, or all."""
    base, names = Path(sys.argv[1]), sys.argv[2:] or list(SPECS)
    for name in names:
        losses = " ".join(f"{loss:.3f}" for loss in train(base, name))
        sys.stdout.write(f"{name} {losses}\n")


def train(base: Path, name: str) -> list[float]:
    """Train one adapter, save it, and return the loss of each step."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **SPECS[name]))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows()]
    losses = []
    for step in range(STEPS):
        batch = tokenizer(texts[step * BATCH : (step + 1) * BATCH], return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    # No path of this machine belongs into the repository.
    model.peft_config["default"].base_model_name_or_path = NAME
    model.to(STORED.get(name, torch.float32)).save_pretrained(HERE / name, save_embedding_layers=False)
    (HERE / name / "README.md").unlink(missing_ok=True)
    return losses


def rows() -> list[dict[str, Any]]:
    """Return the dialogues to train on."""
    return [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
