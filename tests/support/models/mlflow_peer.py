"""A PEFT adapter logged to MLflow: run by an interpreter that has MLflow whole, transformers and PEFT.

    python mlflow_peer.py BASE OUT URI

BASE is a folder with a tiny model, URI a tracking database that is made.  The run `logged` has the adapter by
`mlflow.transformers.log_model`, the run `callback` by transformers' own callback, with `HF_MLFLOW_LOG_ARTIFACTS=1`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_MLFLOW_LOG_ARTIFACTS"] = "1"  # read when transformers is imported

import mlflow
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments


def main(base: str, out: Path, uri: str) -> None:
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("lessons", artifact_location=(out / "artifacts").as_uri())
    mlflow.set_experiment("lessons")
    tokenizer = AutoTokenizer.from_pretrained(base)
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora)
    with mlflow.start_run(run_name="logged"):
        mlflow.transformers.log_model(
            {"model": model, "tokenizer": tokenizer},
            name="model",
            task="text-generation",
            pip_requirements=["torch"],
        )
    tokens = tokenizer("the answer to this question is another question")["input_ids"][:8]
    arguments = TrainingArguments(
        str(out / "trained"),
        run_name="callback",
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        report_to=["mlflow"],
        use_cpu=True,
        disable_tqdm=True,
    )
    Trainer(model, arguments, train_dataset=[{"input_ids": tokens, "labels": tokens}] * 8).train()
    mlflow.end_run()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve(), sys.argv[3])
