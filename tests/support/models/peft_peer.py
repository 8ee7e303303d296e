"""The real PEFT, run by an interpreter that has torch, transformers and peft.

Every argument is a text.  Tokens and logits are .npy files, logits in float32; fields of a configuration are JSON.  A tensor
that PEFT misses or does not know is an error: it only warns.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from functools import partial

import numpy as np
import tiny_transformers
import torch
from json_peers import serve
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.gptq import GPTQLoraLinear
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


def load(base: str, adapter: str) -> PeftModel:
    model = tiny_transformers.loader(base).from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*adapter keys.*")
        return PeftModel.from_pretrained(model, adapter).eval()


def save_logits(folder: str, tokens: str, out: str, **how: str) -> None:
    with torch.no_grad():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **how
        )
        assert not any(info.values()), (
            f"transformers misses weights of {folder}, or does not know them: {info}"
        )
        np.save(out, model.eval()(input_ids=torch.from_numpy(np.load(tokens))).logits.float().numpy())


def write_plain(folder: str, **settings: object) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    LlamaForCausalLM(LlamaConfig(**size, **heads, **settings)).save_pretrained(folder)


def spread_out(model: PeftModel, spread: float) -> list[torch.nn.Parameter]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data += spread * torch.randn_like(parameter)
    return trained


def learn(model: PeftModel, tokens: torch.Tensor, *, spread: float, rate: float) -> None:
    optimizer = torch.optim.SGD(spread_out(model, spread), lr=rate)
    for _ in range(3):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def follow(out: str, method: str, fields: str, base: str) -> list[str]:
    plain = f"{out}/base"
    write_plain(plain, **json.loads(base))
    tokens = torch.randint(1, 128, (2, 12))
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)](task_type="CAUSAL_LM", **json.loads(fields))
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32), config)
    spread_out(made, 0.05)
    made.save_pretrained(f"{out}/adapter")
    model = load(plain, f"{out}/adapter")
    with torch.no_grad():
        told = model(input_ids=tokens).logits
    lora = ["lora"] if model.supports_lora_conversion() else []
    try:
        model.merge_and_unload().save_pretrained(f"{out}/merged")
    except (AttributeError, NotImplementedError, RuntimeError):
        return ["refused", *lora]
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(f"{out}/merged", dtype=torch.float32)(
            input_ids=tokens
        ).logits
    return ["same" if torch.allclose(told, found, atol=1e-4) else "other", *lora]


def whole(out: str, tied: str, rows: str, fields: str) -> list[str]:
    """Train an adapter with whole tensors or rows on a model whose vocabulary may be resized, and merge it."""
    plain, tokens = f"{out}/base", torch.arange(int(rows) - 100, int(rows))[None]
    write_plain(plain, tie_word_embeddings=bool(tied))

    def resized() -> LlamaForCausalLM:  # new rows are others each time, as for whoever does it
        model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
        model.resize_token_embeddings(int(rows), mean_resizing=False)
        return model

    config = LoraConfig(task_type="CAUSAL_LM", **{"target_modules": ["q_proj"], **json.loads(fields)})
    made = get_peft_model(resized(), config)
    learn(made, tokens, spread=0.2, rate=0.1)
    made.save_pretrained(f"{out}/adapter")
    merged = PeftModel.from_pretrained(resized(), f"{out}/adapter").merge_and_unload()
    merged.save_pretrained(f"{out}/merged")
    save = AutoModelForCausalLM.from_pretrained(f"{out}/merged", dtype=torch.float32).eval()
    with torch.no_grad():
        found = save(input_ids=tokens).logits
        kept = torch.allclose(found, made.eval()(input_ids=tokens).logits, atol=1e-4)
    np.save(f"{out}/logits.npy", found.numpy())
    return ["same" if kept else "other"]


def qalora(base: str, tokens: str, size: str, out: str) -> None:
    """Train a QA-LoRA, and save what PEFT computes with it: on plain layers, for those of GPTQ need a GPU."""
    torch.manual_seed(0)
    fields = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    config = LoraConfig(task_type="CAUSAL_LM", use_qalora=True, qalora_group_size=int(size), **fields)
    config._register_custom_module({torch.nn.Linear: GPTQLoraLinear})
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    given = torch.from_numpy(np.load(tokens))
    learn(made, given, spread=0.01, rate=0.001)
    made.save_pretrained(out)
    with torch.no_grad():
        np.save(f"{out}.npy", made.eval()(input_ids=given).logits.numpy())


def combine(base: str, adapters: str, asked: str, out: str) -> None:
    first, *others = json.loads(adapters)
    model = load(base, first)
    names = ["default", *(f"a{number}" for number, _ in enumerate(others, 1))]
    for name, folder in zip(names[1:], others, strict=True):
        model.load_adapter(folder, name)
    model.add_weighted_adapter(names, adapter_name="new", **json.loads(asked))
    model.save_pretrained(out, selected_adapters=["new"], save_embedding_layers=False)


def answers(folder: str, adapter: str, questions: str) -> list[str]:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() if not adapter else None
    model = plain or load(folder, adapter)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in json.loads(questions)
    ]
    given = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.no_grad():
        found = model.generate(
            **given, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
    said = found[:, given["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(said, skip_special_tokens=True)]


def greedy(base: str, adapter: str, prompt: str, length: str) -> list[list[float]]:
    """Return the tokens of an answer, and the logarithms of their probabilities."""
    with torch.no_grad():
        given = torch.tensor([json.loads(prompt)])
        found = load(base, adapter).generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=int(length),
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
    tokens = found.sequences[0, given.shape[1] :].tolist()
    scores = [
        score[0].log_softmax(-1)[token].item() for score, token in zip(found.scores, tokens, strict=True)
    ]
    return [tokens, scores]


def train(base: str, fields: str, out: str) -> list[str]:
    torch.manual_seed(0)
    model = tiny_transformers.loader(base).from_pretrained(base, dtype=torch.float32)
    made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **json.loads(fields))).train()
    learned = [parameter for parameter in made.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.02)
    tokens = torch.randint(3, 300, (4, 24))
    for _ in range(4):
        optimizer.zero_grad()
        made(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    made.save_pretrained(out, save_embedding_layers=False)
    return sorted(load_file(f"{out}/adapter_model.safetensors"))


def save_adapted_logits(base: str, adapter: str, tokens: str, out: str) -> None:
    with torch.no_grad():
        given = torch.from_numpy(np.load(tokens))
        np.save(out, load(base, adapter)(input_ids=given).logits.float().numpy())


def save_again(base: str, adapter: str, out: str, *, embeddings: bool) -> None:
    load(base, adapter).save_pretrained(out, save_embedding_layers=embeddings)


ACTIONS = {
    "logits": save_adapted_logits,
    "gguf": lambda path, *rest: save_logits(os.path.dirname(path), *rest, gguf_file=os.path.basename(path)),
    "plain": save_logits,
    "merge": lambda base, adapter, out: load(base, adapter).merge_and_unload().save_pretrained(out),
    "train": train,
    "tensors": partial(save_again, embeddings=False),
    "copied": partial(save_again, embeddings=True),
    "methods": lambda: [method.value for method in PeftType],
    "fields": lambda: [field.name for field in dataclasses.fields(LoraConfig)],
    "follow": follow,
    "whole": whole,
    "qalora": qalora,
    "combine": combine,
    "answers": answers,
    "greedy": greedy,
    "kinds": tiny_transformers.kinds,
    "tiny": lambda kind, scaling, out: tiny_transformers.make_model(kind, out, json.loads(scaling)),
    "scores": lambda folder, tokens, out: np.save(out, tiny_transformers.logits(folder, np.load(tokens))),
    "rotary": lambda folder: [json.dumps(tiny_transformers.rotary(folder), sort_keys=True)],
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(ACTIONS)
