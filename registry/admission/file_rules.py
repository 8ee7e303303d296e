"""Rules about the files of an adapter: that they are there, and hold what the method says."""

from __future__ import annotations

from collections.abc import Iterator

from ..adapters.files import METADATA, WEIGHTS
from ..adapters.finding import Finding, some
from ..adapters.folder import Problem
from ..parsing import plural
from .candidate import Candidate
from .code import Code, rule

_FLOATS = ("BF16", "F16", "F32")
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")

FILE_MISSING = Code(
    "file_missing",
    "error",
    "the folder lacks the weights or their configuration",
    "without both, nobody can load the adapter",
    "give the folder that mlx_lm.lora wrote with --adapter-path",
    fixed=True,
)
NOT_SAFETENSORS = Code(
    "not_safetensors",
    "error",
    "the weights are not a well-formed safetensors file",
    "what a hostile or broken header describes, readers understand differently",
    "save the weights again with mlx-lm or the safetensors library",
    fixed=True,
)
WEIGHTS_PICKLED = Code(
    "weights_pickled",
    "error",
    "the weights are a pickle or a zip archive under the name of a safetensors file",
    "a pickle runs code when it is loaded",
    "save them with safetensors where you trust their origin; nothing is ever unpickled here",
    fixed=True,
)
WEIGHTS_POINTER = Code(
    "weights_pointer",
    "error",
    "the weights are the pointer that Git LFS leaves instead of a file",
    "the repository was cloned without its large files",
    "in the clone, run: git lfs pull",
    fixed=True,
)
WEIGHTS_TRUNCATED = Code(
    "weights_truncated",
    "error",
    "the weights end before the last tensor does",
    "a copy or a download was not finished, or the trainer is still writing",
    "copy or download the file again",
    fixed=True,
)
CONFIG_INVALID = Code(
    "config_invalid",
    "error",
    "adapter_config.json is not JSON, or a value in it cannot be what it stands for",
    "rank, scale and layers come from it",
    "take the file that the training run wrote",
    fixed=True,
)
METADATA_INVALID = Code(
    "metadata_invalid",
    "error",
    "adapter_metadata.json is not JSON, or a value in it cannot be what it stands for",
    "what it says would be recorded wrongly",
    "correct the file, or remove it: it is optional",
    fixed=True,
)
NO_TENSORS = Code(
    "no_tensors",
    "error",
    "the file holds no tensors of an adapter",
    "nothing would be added to the base",
    "give the adapters.safetensors of the run",
)
UNKNOWN_TENSOR = Code(
    "unknown_tensor",
    "error",
    "tensors are not part of an adapter, or not of a model like the base",
    "mlx-lm refuses to load them",
    "give the adapter in the form in which its trainer wrote it",
)
DTYPE_UNSUPPORTED = Code(
    "dtype_unsupported",
    "error",
    "tensors are not in a floating-point format that can be added to a weight",
    "they cannot be fused",
    "save them as float32, float16 or bfloat16",
)
DTYPE_MIXED = Code(
    "dtype_mixed",
    "warning",
    "factors are in different floating-point formats",
    "trainers write one format: files of two runs may have been put together",
    "save all factors in one format",
)
EMPTY_TENSOR = Code(
    "empty_tensor",
    "error",
    "tensors hold no numbers at all",
    "a factor with a dimension of zero adds nothing, and some readers fail on it",
    "save the adapter again from its run",
)


@rule(
    FILE_MISSING,
    NOT_SAFETENSORS,
    WEIGHTS_PICKLED,
    WEIGHTS_POINTER,
    WEIGHTS_TRUNCATED,
    CONFIG_INVALID,
    METADATA_INVALID,
)
def readable_files(candidate: Candidate) -> Iterator[Finding]:
    """Every file is there and in its format."""
    for problem in candidate.folder.problems:
        if problem.absent:
            yield FILE_MISSING.found(problem.file, problem.message)
        elif problem.file.endswith(".safetensors"):
            yield _weights_code(candidate, problem).found(problem.file, problem.message)
        else:
            code = METADATA_INVALID if problem.file == METADATA else CONFIG_INVALID
            yield code.found(problem.file, problem.message)


def _weights_code(candidate: Candidate, problem: Problem) -> Code:
    head = next((entry.head for entry in candidate.surroundings.named(problem.file)), b"")
    if head.startswith(_PICKLES):
        return WEIGHTS_PICKLED
    if head == b"version ":
        return WEIGHTS_POINTER
    return WEIGHTS_TRUNCATED if "cut short" in problem.message else NOT_SAFETENSORS


@rule(NO_TENSORS, UNKNOWN_TENSOR)
def has_adapter_tensors(candidate: Candidate) -> Iterator[Finding]:
    """The weights are those of an adapter."""
    folder = candidate.folder
    if folder.header is None or folder.config.method == "full":
        return
    if not folder.modules:
        yield NO_TENSORS.found(WEIGHTS, "the file holds no lora_a and lora_b tensors")
    if folder.unexpected:
        message = f"{plural(len(folder.unexpected), 'tensor')} that no LoRA adapter has: {some(list(folder.unexpected))}"
        peft = any(".lora_A." in name or ".lora_B." in name for name in folder.unexpected)
        hint = (
            "these are PEFT's names: leave the file as adapter_model.safetensors beside its own configuration"
        )
        yield UNKNOWN_TENSOR.found(WEIGHTS, message, hint if peft else None)


@rule(DTYPE_UNSUPPORTED, DTYPE_MIXED)
def float_tensors(candidate: Candidate) -> Iterator[Finding]:
    """The tensors are numbers that can be added to a weight, all in one format."""
    header = candidate.folder.header
    tensors = list(header.tensors.values()) if header else []
    odd = [tensor for tensor in tensors if tensor.dtype not in _FLOATS]
    if odd:
        kinds = some({tensor.dtype for tensor in odd})
        message = f"{plural(len(odd), 'tensor')} in {kinds}, not {', '.join(_FLOATS)}: {some(tensor.name for tensor in odd)}"
        yield DTYPE_UNSUPPORTED.found(WEIGHTS, message)
        return
    factors = {tensor.dtype for tensor in tensors if tensor.name.rpartition(".")[2] in ("lora_a", "lora_b")}
    if len(factors) > 1:
        yield DTYPE_MIXED.found(WEIGHTS, f"the factors are in {len(factors)} formats: {some(factors)}")


@rule(EMPTY_TENSOR)
def tensors_hold_numbers(candidate: Candidate) -> Iterator[Finding]:
    """No tensor is empty."""
    header = candidate.folder.header
    empty = [tensor.name for tensor in header.tensors.values() if not tensor.size] if header else []
    if empty:
        yield EMPTY_TENSOR.found(WEIGHTS, f"{plural(len(empty), 'tensor')} without a number: {some(empty)}")
