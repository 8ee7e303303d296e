"""Real runs of transformers' `Trainer` with PEFT: run by an interpreter that has both, once for all runs of a test.

    python trainer_peer.py BASE OUT

BASE is a folder with a tiny model.  Each run learns eight random rows by heart, by which it is measured, and forgets them
again in two steps that are far too great: step 6 is the best by so much that it is on every processor.  It is a folder in OUT,
as what its name says leaves it:

    plain      a checkpoint every second step of eight, the weights at the end and the state beside them
    best       the same, and the run goes back to its best weights at the end; without a state beside them
    pruned     the best weights at the end and the state, and no checkpoint but the last
    bare       only the checkpoints
"""

from __future__ import annotations

import gc
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed


class Rows(torch.utils.data.Dataset):  # type: ignore[misc]
    def __init__(self, seed: int, words: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.rows = torch.randint(3, words, (8, 16), generator=generator)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"input_ids": self.rows[number], "labels": self.rows[number]}


def train(base: str, out: Path, **how: Any) -> Trainer:
    """Train for eight steps, of which the last two are a hundred times as great."""
    set_seed(7)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]))
    arguments = TrainingArguments(
        str(out),
        max_steps=8,
        per_device_train_batch_size=4,
        learning_rate=0.02,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        include_num_input_tokens_seen=True,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **how,
    )
    words = model.config.vocab_size
    rows = Rows(1, words)
    steps = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate)
    pace = torch.optim.lr_scheduler.LambdaLR(steps, lambda step: 1.0 if step < 6 else 100.0)
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, optimizers=(steps, pace))
    trainer.train()
    return trainer


def main() -> None:
    torch.set_num_threads(1)
    gc.freeze()  # each training looks for garbage at its end, through all libraries
    base, out = sys.argv[1], Path(sys.argv[2])
    plain = train(base, out / "plain")
    plain.save_model()
    plain.save_state()
    best = train(base, out / "best", load_best_model_at_end=True, save_total_limit=2)
    best.save_model()
    shutil.copytree(out / "best", out / "pruned")
    best.args.output_dir = str(out / "pruned")
    best.evaluate()
    best.save_state()
    shutil.rmtree(Path(str(best.state.best_model_checkpoint).replace("/best/", "/pruned/")))
    shutil.copytree(out / "plain", out / "bare")
    for file in filter(Path.is_file, (out / "bare").iterdir()):
        file.unlink()


if __name__ == "__main__":
    main()
