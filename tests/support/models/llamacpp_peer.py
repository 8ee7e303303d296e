"""The real llama.cpp, run by an interpreter that has llama-cpp-py-sync, its C library in a wheel."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from json_peers import serve
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

FFI, LIB = get_ffi(), get_lib()


@contextmanager
def loaded(path: str, *, vocab_only: bool = False) -> Iterator[Any]:
    settings = LIB.llama_model_default_params()
    settings.n_gpu_layers, settings.vocab_only = 0, vocab_only
    # Repacked weights are computed with in fewer bits than they have.
    settings.use_extra_bufts = False
    model = LIB.llama_model_load_from_file(path.encode(), settings)
    if model == FFI.NULL:
        raise ValueError(f"llama.cpp does not load {path}")
    try:
        yield model
    finally:
        LIB.llama_model_free(model)


def save_logits(path: str, adapters: list[str], tokens: str, out: str) -> None:
    np.save(out, logits(path, adapters, [int(token) for token in np.load(tokens).reshape(-1)]))


def logits(path: str, adapters: list[str], tokens: list[int]) -> np.ndarray:
    with loaded(path) as model:
        settings = LIB.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = max(64, len(tokens))
        settings.n_threads = settings.n_threads_batch = 1
        settings.flash_attn_type = 0
        settings.type_k = settings.type_v = 0  # GGML_TYPE_F32
        found = [LIB.llama_adapter_lora_init(model, each.encode()) for each in adapters]
        if FFI.NULL in found:
            raise ValueError(f"llama.cpp does not load one of {adapters} on {path}")
        context = LIB.llama_init_from_model(model, settings)
        try:
            if found:
                scales = FFI.new("float[]", [1.0] * len(found))
                LIB.llama_set_adapters_lora(
                    context, FFI.new("struct llama_adapter_lora *[]", found), len(found), scales
                )
            batch = LIB.llama_batch_init(len(tokens), 0, 1)
            batch.n_tokens = len(tokens)
            for place, token in enumerate(tokens):
                batch.token[place], batch.pos[place] = token, place
                batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, 1
            if LIB.llama_decode(context, batch):
                raise ValueError("llama_decode failed")
            width = LIB.llama_vocab_n_tokens(LIB.llama_model_get_vocab(model))
            data = FFI.buffer(LIB.llama_get_logits(context), 4 * width * len(tokens))
            return np.frombuffer(data, np.float32).reshape(len(tokens), width).copy()
        finally:
            LIB.llama_free(context)


def tokenize(path: str, texts: list[str]) -> list[list[int]]:
    """Return the tokens of texts, with those that the model wants at the beginning, and special ones as they are written."""
    answers = []
    with loaded(path, vocab_only=True) as model:
        vocabulary = LIB.llama_model_get_vocab(model)
        for text in texts:
            data = text.encode()
            room = FFI.new("llama_token[]", len(data) + 16)
            count = LIB.llama_tokenize(vocabulary, data, len(data), room, len(data) + 16, True, True)
            answers.append(list(room[0:count]))
    return answers


@FFI.callback("void(enum ggml_log_level, const char *, void *)")
def _quiet(_level: int, text: Any, _data: Any) -> None:
    sys.stderr.write(FFI.string(text).decode(errors="replace"))


if __name__ == "__main__":
    LIB.llama_log_set(_quiet, FFI.NULL)
    LIB.llama_backend_init()
    serve({"logits": save_logits, "tokens": tokenize})
