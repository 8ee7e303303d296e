"""What the real PEFT makes of an adapter: run by an interpreter that has torch, transformers and peft.

It takes one request a line on stdin, a JSON list, and answers each with one JSON object on stdout, `result` or `error`:
importing torch takes long, so it is done once.

    ["logits", BASE, ADAPTER, TOKENS, OUT]     logits (float32) of base + adapter for token numbers
    ["merge", BASE, ADAPTER, OUT]              the merged model, as a folder
    ["train", BASE, FIELDS, OUT]               a LoRA with these fields (JSON), trained for a few steps on random tokens
    ["tensors", BASE, ADAPTER, OUT]            the adapter loaded by PEFT and saved again
    ["copied", BASE, ADAPTER, OUT]             the same with the base's embeddings, as PEFT adds them where it thinks fit
    ["gguf", MODEL, TOKENS, OUT]               logits (float32) of a GGUF file, as transformers reads it
    ["plain", MODEL, TOKENS, OUT]              logits (float32) of a model's folder
    ["answers", MODEL, ADAPTER, QUESTIONS]     answers to a JSON list of questions, greedy and in float32; ADAPTER may be empty
    ["fields"]                                 the names of the fields of LoraConfig
    ["methods"]                                the names of PEFT's methods
    ["follow", OUT, METHOD, FIELDS, BASE]      a tiny model and an adapter on it, made with these fields (JSON), in the folder OUT;
                                               whether PEFT merges it (`same`: with the same answers, `other`, `refused`), and
                                               whether it can save it as a LoRA (`lora`)
    ["whole", OUT, TIED, ROWS, FIELDS]         a tiny model in OUT/base, whose embedding is the head if TIED is not empty; an adapter in
                                               OUT/adapter, made with FIELDS (JSON) and trained for a few steps with ROWS tokens; and
                                               OUT/merged, with its logits for the last 100 tokens in OUT/logits.npy
    ["combine", BASE, ADAPTERS, ASKED, MASKS, OUT]
                                               a new adapter made of ADAPTERS (a JSON list of folders) by add_weighted_adapter with
                                               the keywords ASKED (JSON), in the folder OUT/new.  What DARE keeps is taken from
                                               MASKS, an .npz file with a mask by adapter, module and factor (`0 PATH lora_A`)
    ["kinds"]                                  every `model_type` that transformers has
    ["qalora", BASE, TOKENS, SIZE, OUT]        a QA-LoRA with groups of SIZE inputs, trained for a few steps; its logits in OUT.npy
    ["tiny", KIND, SCALING, OUT]               a tiny random model of a `model_type`, as a folder
    ["scores", MODEL, TOKENS, OUT]             logits (float32) of such a folder, whatever is in it beside the text
    ["rotary", MODEL]                          its rotary embeddings, as transformers reads them

TOKENS and OUT are .npy files.  A tensor that PEFT misses or does not know is an error: it only warns.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import warnings

import numpy as np
import tiny_transformers
import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.gptq import GPTQLoraLinear
from peft.utils import merge_utils
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


def load(base: str, adapter: str) -> PeftModel:
    """Load a base in float32 and an adapter on it, strictly."""
    torch.set_num_threads(1)
    model = tiny_transformers.loader(base).from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*adapter keys.*")
        return PeftModel.from_pretrained(model, adapter).eval()


def save_logits(folder: str, tokens: str, out: str, **how: str) -> None:
    """Save what a model without an adapter answers."""
    torch.set_num_threads(1)
    with torch.no_grad():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **how
        )
        assert not any(info.values()), (
            f"transformers misses weights of {folder}, or does not know them: {info}"
        )
        np.save(out, model.eval()(input_ids=torch.from_numpy(np.load(tokens))).logits.float().numpy())


def follow(out: str, method: str, fields: str, base: str) -> list[str]:
    """Make an adapter, and see whether it can be merged."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    plain, tokens = f"{out}/base", torch.randint(1, 128, (2, 12))
    LlamaForCausalLM(LlamaConfig(**size, **heads, **json.loads(base))).save_pretrained(plain)
    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(method)](task_type="CAUSAL_LM", **json.loads(fields))
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32), config)
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
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
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    plain, tokens = f"{out}/base", torch.arange(int(rows) - 100, int(rows))[None]
    LlamaForCausalLM(LlamaConfig(**size, **heads, tie_word_embeddings=bool(tied))).save_pretrained(plain)

    def resized() -> LlamaForCausalLM:  # new rows are others each time, as for whoever does it
        model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
        model.resize_token_embeddings(int(rows), mean_resizing=False)
        return model

    config = LoraConfig(task_type="CAUSAL_LM", **{"target_modules": ["q_proj"], **json.loads(fields)})
    made = get_peft_model(resized(), config)
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data += 0.2 * torch.randn_like(parameter)
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for _ in range(3):
        made(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
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
    torch.set_num_threads(1)
    torch.manual_seed(0)
    fields = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    config = LoraConfig(task_type="CAUSAL_LM", use_qalora=True, qalora_group_size=int(size), **fields)
    config._register_custom_module({torch.nn.Linear: GPTQLoraLinear})
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    trained = [parameter for parameter in made.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data += 0.01 * torch.randn_like(parameter)
    optimizer, given = torch.optim.SGD(trained, lr=0.001), torch.from_numpy(np.load(tokens))
    for _ in range(3):
        made(input_ids=given, labels=given).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    made.save_pretrained(out)
    with torch.no_grad():
        np.save(f"{out}.npy", made.eval()(input_ids=given).logits.numpy())


def combine(base: str, adapters: list[str], asked: dict[str, object], masks: str, out: str) -> None:
    """Combine adapters as PEFT does, with masks that are handed in where it would draw them."""
    torch.set_num_threads(1)
    model = load(base, adapters[0])
    names = ["default", *(f"a{number}" for number in range(1, len(adapters)))]
    for name, folder in zip(names[1:], adapters[1:], strict=True):
        model.load_adapter(folder, name)
    if masks:
        held = np.load(masks)
        keys = {}
        for name, parameter in model.named_parameters():
            module, _, rest = name.removeprefix("base_model.model.").partition(".lora_")
            if rest:
                factor, adapter, _ = rest.split(".")
                keys[parameter.data.data_ptr()] = f"{names.index(adapter)} {module} lora_{factor}"

        def random_pruning(tensor: torch.Tensor, density: float, rescale: bool) -> torch.Tensor:
            assert rescale
            return tensor * torch.from_numpy(held[keys[tensor.data_ptr()]]) / density

        merge_utils.random_pruning = random_pruning
    model.add_weighted_adapter(names, adapter_name="new", **asked)
    model.save_pretrained(out, selected_adapters=["new"], save_embedding_layers=False)


def answers(folder: str, adapter: str, questions: list[str]) -> list[str]:
    """Return what a model says to each question, at most 24 tokens of it, without the space around it."""
    torch.set_num_threads(1)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() if not adapter else None
    model = plain or load(folder, adapter)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in questions
    ]
    given = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.no_grad():
        found = model.generate(
            **given, max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
    said = found[:, given["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(said, skip_special_tokens=True)]


def train(base: str, fields: dict[str, object], out: str) -> list[str]:
    """Train a LoRA for a few steps and save it; return the names of its tensors."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = tiny_transformers.loader(base).from_pretrained(base, dtype=torch.float32)
    made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **fields)).train()
    learned = [parameter for parameter in made.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.02)
    tokens = torch.randint(3, 300, (4, 24))
    for _ in range(4):
        optimizer.zero_grad()
        made(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    made.save_pretrained(out, save_embedding_layers=False)
    return sorted(load_file(f"{out}/adapter_model.safetensors"))


def answer(request: list[str]) -> list[str]:
    """Do what is asked."""
    match request:
        case ["logits", base, adapter, tokens, out]:
            with torch.no_grad():
                given = torch.from_numpy(np.load(tokens))
                np.save(out, load(base, adapter)(input_ids=given).logits.float().numpy())
        case ["gguf", path, tokens, out]:
            folder, name = os.path.split(path)
            save_logits(folder, tokens, out, gguf_file=name)
        case ["plain", folder, tokens, out]:
            save_logits(folder, tokens, out)
        case ["merge", base, adapter, out]:
            load(base, adapter).merge_and_unload().save_pretrained(out)
        case ["train", base, fields, out]:
            return train(base, json.loads(fields), out)
        case ["tensors", base, adapter, out]:
            load(base, adapter).save_pretrained(out, save_embedding_layers=False)
        case ["methods"]:
            return [method.value for method in PeftType]
        case ["follow", out, method, fields, base]:
            return follow(out, method, fields, base)
        case ["whole", out, tied, rows, fields]:
            return whole(out, tied, rows, fields)
        case ["copied", base, adapter, out]:
            load(base, adapter).save_pretrained(out, save_embedding_layers=True)
        case ["qalora", base, tokens, size, out]:
            qalora(base, tokens, size, out)
        case ["combine", base, adapters, asked, masks, out]:
            combine(base, json.loads(adapters), json.loads(asked), masks, out)
        case ["kinds"]:
            return tiny_transformers.kinds()
        case ["tiny", kind, scaling, out]:
            tiny_transformers.make_model(kind, out, json.loads(scaling))
        case ["scores", folder, tokens, out]:
            np.save(out, tiny_transformers.logits(folder, np.load(tokens)))
        case ["rotary", folder]:
            return [json.dumps(tiny_transformers.rotary(folder), sort_keys=True)]
        case ["answers", folder, adapter, questions]:
            return answers(folder, adapter, json.loads(questions))
        case ["fields"]:
            return [field.name for field in dataclasses.fields(LoraConfig)]
        case _:
            raise ValueError(f"no such request: {request}")
    return []


def main() -> None:
    """Answer requests until there are no more."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries print
    for line in sys.stdin:
        try:
            reply = {"result": answer(json.loads(line))}
        except Exception as error:  # noqa: BLE001 -- whatever PEFT raises is for the test to see
            reply = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
