"""Real trainers with fusery's callback: run by an interpreter that has transformers, PEFT, TRL and `datasets`.

    python callback_peer.py BASE OUT HOME

BASE is a folder with a tiny model that is registered in HOME as `tiny`.  Prints one JSON object: what the callback says of each
run, by the run's name, which is also that of its folder in OUT.
"""

from __future__ import annotations

import gc
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetInfo, NamedSplit
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from fusery import FuseryCallback, Registry

LORA = LoraConfig(r=2, target_modules=["q_proj"])
TEXTS = {"text": [f"the answer to {number} is {number + 1}" for number in range(16)]}


def sft(base: str, out: Path, callback: FuseryCallback) -> None:
    info = DatasetInfo(dataset_name="course_questions", config_name="easy")
    data = Dataset.from_dict(TEXTS, info=info, split=NamedSplit("train"))
    settings = SFTConfig(
        str(out),
        max_steps=4,
        per_device_train_batch_size=2,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        base, settings, train_dataset=data, eval_dataset=data, peft_config=LORA, callbacks=[callback]
    )
    trainer.train()


def unsaved(base: str, out: Path, callback: FuseryCallback) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [tokenizer(text)["input_ids"][:8] for text in TEXTS["text"]]
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LORA)
    settings = TrainingArguments(
        str(out),
        max_steps=2,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
    )
    data: Any = [{"input_ids": torch.tensor(row), "labels": torch.tensor(row)} for row in rows]
    Trainer(model, settings, train_dataset=data, callbacks=[callback]).train()


def _breaks(*_: object, **__: object) -> None:
    raise RuntimeError("something that nobody thought of")


def main() -> None:
    torch.set_num_threads(1)
    gc.freeze()  # each training looks for garbage at its end, through all libraries
    base, out, home = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    told = {}
    for name, train, facts in (
        ("sft", sft, {"base": "tiny", "task": "sft"}),
        ("unsaved", unsaved, {"base": "tiny", "task": "unsaved"}),
        ("refused", unsaved, {"base": "unheard_of", "task": "refused"}),
        ("again", unsaved, {"base": "tiny", "task": "again"}),
        ("broken", unsaved, {"base": "tiny", "task": "broken"}),
    ):
        with Registry.open(home) as registry, warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            callback = FuseryCallback(registry=registry, **facts)
            if name == "broken":
                registry.adapters.register = _breaks  # type: ignore[method-assign, assignment]
            # A folder with another run's checkpoints, for one of them.
            train(base, out / ("sft" if name == "again" else name), callback)
        told[name] = {
            "adapter": None if callback.adapter is None else callback.adapter["name"],
            "error": None if callback.error is None else str(callback.error),
            "warned": [str(each.message) for each in warned if "fusery" in str(each.message)],
        }
    try:
        FuseryCallback(taks="x")  # type: ignore[call-arg]
    except TypeError as error:
        told["mistyped"] = {"error": str(error)}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
