"""ONNX Runtime, run by an interpreter that has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from json_peers import serve


class Decoder:
    def __init__(self, folder: str) -> None:
        self._session = onnxruntime.InferenceSession(
            f"{folder}/model.onnx", providers=["CPUExecutionProvider"]
        )
        config = json.loads(Path(folder, "genai_config.json").read_text(encoding="utf-8"))["model"]
        ends = config["eos_token_id"]
        self.ends = set(ends if isinstance(ends, list) else [ends])
        self._width = config["decoder"]["head_size"]
        self._inputs = {each.name: each for each in self._session.get_inputs()}
        self._outputs = [each.name for each in self._session.get_outputs()]
        self.forget()

    def forget(self) -> None:
        self._length = 0
        self._past = {
            name: np.zeros(
                (1, each.shape[1], 0, self._width), np.float16 if "float16" in each.type else np.float32
            )
            for name, each in self._inputs.items()
            if name.startswith("past_key_values.")
        }

    def read(self, tokens: list[int]) -> Any:
        until = self._length + len(tokens)
        asked = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, until), np.int64),
            "position_ids": np.arange(self._length, until, dtype=np.int64)[None],
        }
        given = {name: value for name, value in asked.items() if name in self._inputs}
        made = dict(zip(self._outputs, self._session.run(None, {**given, **self._past}), strict=True))
        self._past = {name: made[name.replace("past_key_values", "present")] for name in self._past}
        self._length = until
        return made["logits"][0].astype(np.float32)


def logits(folder: str, tokens: list[int]) -> list[list[float]]:
    decoder = Decoder(folder)
    found: list[list[float]] = np.concatenate([decoder.read(tokens[:-1]), decoder.read(tokens[-1:])]).tolist()
    return found


def answers(folder: str, questions: list[str], most: int) -> list[str]:
    from transformers import AutoTokenizer

    decoder, tokenizer, found = Decoder(folder), AutoTokenizer.from_pretrained(folder), []
    for question in questions:
        decoder.forget()
        chat = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        step, said = tokenizer(text, add_special_tokens=False)["input_ids"], []
        while len(said) < most and (token := int(decoder.read(step)[-1].argmax())) not in decoder.ends:
            said.append(token)
            step = [token]
        found.append(tokenizer.decode(said, skip_special_tokens=True).strip())
    return found


if __name__ == "__main__":
    serve({"logits": logits, "answers": answers})
