"""Models and adapters as GGUF files, for llama.cpp and what is built on it: the other direction of `sources.gguf`.

`family` says which architectures, `tokenizer` and `provenance` what the keys are, `numbers` what the tensors are,
`container` writes both; `model` and `adapter` put them together.
"""
