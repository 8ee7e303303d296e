"""Rules about the files of an adapter: that they are there, and hold what the method says."""

from __future__ import annotations

from collections.abc import Iterator

from ..adapter_files import CONFIG, WEIGHTS
from .candidate import Candidate
from .finding import Finding, some

_FLOATS = ("BF16", "F16", "F32")


def readable_files(candidate: Candidate) -> Iterator[Finding]:
    """Every file is there and in its format: `file_missing`, `not_safetensors`, `config_invalid`, `metadata_invalid`."""
    for problem in candidate.folder.problems:
        if problem.absent:
            hint = "give the folder that mlx_lm.lora wrote with --adapter-path"
            yield Finding("file_missing", "error", problem.file, problem.message, hint)
        elif problem.file == WEIGHTS:
            yield Finding("not_safetensors", "error", WEIGHTS, problem.message)
        else:
            code = "config_invalid" if problem.file == CONFIG else "metadata_invalid"
            yield Finding(code, "error", problem.file, problem.message)


def has_adapter_tensors(candidate: Candidate) -> Iterator[Finding]:
    """The weights are those of an adapter: `no_tensors`, `unknown_tensor`."""
    folder = candidate.folder
    if folder.header is None or folder.config.method == "full":
        return
    if not folder.modules:
        yield Finding("no_tensors", "error", WEIGHTS, "the file holds no lora_a and lora_b tensors")
    if folder.strangers:
        message = (
            f"{len(folder.strangers)} tensors are not part of a LoRA adapter: {some(list(folder.strangers))}"
        )
        yield Finding("unknown_tensor", "error", WEIGHTS, message)


def float_tensors(candidate: Candidate) -> Iterator[Finding]:
    """The tensors are numbers that can be added to a weight: `dtype_unsupported`."""
    header = candidate.folder.header
    odd = [tensor for tensor in header.tensors.values() if tensor.dtype not in _FLOATS] if header else []
    if odd:
        kinds = some({tensor.dtype for tensor in odd})
        message = (
            f"{len(odd)} tensors are {kinds}, not {', '.join(_FLOATS)}: {some(tensor.name for tensor in odd)}"
        )
        yield Finding("dtype_unsupported", "error", WEIGHTS, message)


def supported_method(candidate: Candidate) -> Iterator[Finding]:
    """The method is the one that the tensors show: `method_mismatch`."""
    folder = candidate.folder
    method = folder.config.method
    factors = any(module.a is not None or module.b is not None for module in folder.modules.values())
    magnitudes = any(module.m is not None for module in folder.modules.values())
    if method == "full":
        if factors:
            message = "the configuration says full fine-tuning, and the tensors are lora_a and lora_b"
            hint = 'set "fine_tune_type": "lora"'
            yield Finding("method_mismatch", "error", CONFIG, message, hint)
    elif magnitudes and method == "lora":
        message = "the tensors have DoRA magnitudes, and the configuration says LoRA"
        yield Finding("method_mismatch", "error", CONFIG, message, 'set "fine_tune_type": "dora"')
    elif folder.modules and not magnitudes and method == "dora":
        message = "the configuration says DoRA, and the tensors have no magnitudes"
        yield Finding("method_mismatch", "error", CONFIG, message, 'set "fine_tune_type": "lora"')
