"""Rules about the method: that the tensors are those of the method that the configuration names, and all there."""

from __future__ import annotations

from collections.abc import Iterator

from fusery.storage.digest import digest_file

from ..adapters.files import CONFIG, WEIGHTS
from ..adapters.finding import Finding
from ..adapters.folder import AdapterFolder
from ..adapters.trained_through import (
    ITS_WEIGHTS,
    MERGE_WITH_AXOLOTL,
    NVFP4_MERGE_AWARE,
    QUANTIZATION_AWARE,
    in_words,
    is_of_others,
    trained_through,
)
from .candidate import Candidate
from .code import Code, rule

METHOD_MISMATCH = Code(
    "method_mismatch",
    "error",
    "the configuration names another method than the tensors show",
    "magnitudes of DoRA that nobody expects are lost, or missed",
    'set "fine_tune_type" in adapter_config.json to what was trained',
)
INCOMPLETE_MODULE = Code(
    "incomplete_module",
    "error",
    "a module has one of its tensors and not the other, or no magnitude where DoRA has one",
    "half a pair is no update",
    "register the whole adapters.safetensors of the run",
)
AWARE_INVALID = Code(
    "quantization_aware_invalid",
    "error",
    "the format that the adapter was trained through is none of mlx",
    "it would be fused, and measured, as another one than was trained",
    'write "quantization_aware": {"bits": 4, "group_size": 64} of the run in adapter_config.json, or leave it out',
)
AWARE_OTHER = Code(
    "quantization_aware_other",
    "error",
    "the configuration says that other weights were trained through a quantiser",
    "measured as if these were, a fuse would pass that has lost what they learned",
    f"leave {QUANTIZATION_AWARE} and {ITS_WEIGHTS} out of adapter_config.json: they stand there from the configuration of another run",
)
AWARE = Code(
    "quantization_aware",
    "info",
    "the adapter was trained through a quantiser",
    "its training computed with the model in that format: other formats and unfused use are refused",
    "fuse it, and use the fused model",
)
NVFP4 = Code(
    "nvfp4_merge_aware",
    "warning",
    "the adapter was trained to be fused into NVFP4 with a scale per tensor (Axolotl's nvfp4_merge_aware)",
    "fusery cannot write that format yet; unfused or fused into another format, the model is worse than its base",
    MERGE_WITH_AXOLOTL,
)


@rule(METHOD_MISMATCH)
def supported_method(candidate: Candidate) -> Iterator[Finding]:
    """The method is the one that the tensors show."""
    folder = candidate.folder
    method = folder.config.method
    factors = any(module.a is not None or module.b is not None for module in folder.modules.values())
    magnitudes = any(module.m is not None for module in folder.modules.values())
    if method == "full":
        if factors:
            message = "the configuration says full fine-tuning, and the tensors are lora_a and lora_b"
            yield METHOD_MISMATCH.found(CONFIG, message, 'set "fine_tune_type": "lora"')
    elif magnitudes and method == "lora":
        message = "the tensors have DoRA magnitudes, and the configuration says LoRA"
        yield METHOD_MISMATCH.found(CONFIG, message, 'set "fine_tune_type": "dora"')
    elif folder.modules and not magnitudes and method == "dora":
        message = "the configuration says DoRA, and the tensors have no magnitudes"
        yield METHOD_MISMATCH.found(CONFIG, message, 'set "fine_tune_type": "lora"')


@rule(INCOMPLETE_MODULE)
def complete_pairs(candidate: Candidate) -> Iterator[Finding]:
    """Each module has both factors, and with DoRA a magnitude."""
    folder = candidate.folder
    # That no module has one is for `supported_method` to say.
    magnitudes = folder.config.method == "dora" and any(m.m is not None for m in folder.modules.values())
    for module in folder.modules.values():
        parts = {"lora_a": module.a, "lora_b": module.b, **({"m": module.m} if magnitudes else {})}
        for part in (name for name, shape in parts.items() if shape is None):
            yield INCOMPLETE_MODULE.found(module.path, f"{module.path} has no {part}")


@rule(AWARE_INVALID, AWARE_OTHER, AWARE, NVFP4)
def trained_through_a_format(candidate: Candidate) -> Iterator[Finding]:
    """The format that an adapter says it was trained through is one of mlx, and it has factors that were."""
    if candidate.folder.raw_config.get(NVFP4_MERGE_AWARE):
        message = f"{CONFIG} declares {NVFP4_MERGE_AWARE}: the adapter can be stored and exported, but neither fused nor used unfused"
        yield NVFP4.found(CONFIG, message)
    try:
        format_ = trained_through(candidate.folder.raw_config)
    except ValueError:
        said = str(candidate.folder.raw_config[QUANTIZATION_AWARE])[:80]
        yield AWARE_INVALID.found(
            CONFIG, f"{CONFIG} says {QUANTIZATION_AWARE} is {said}, which is no format of mlx"
        )
        return
    if format_ is None:
        return
    if candidate.folder.config.method == "full":
        message = f"{CONFIG} says the adapter was trained through a quantiser, and it holds whole weights"
        yield AWARE_INVALID.found(
            CONFIG, message, f"leave {QUANTIZATION_AWARE} out: quantise them afterwards"
        )
        return
    if _is_of_others(candidate.folder):
        message = f"{CONFIG} says other weights than these were trained through a quantiser"
        yield AWARE_OTHER.found(CONFIG, message)
        return
    message = f"the adapter was trained to be fused into {in_words(format_)}, and cannot be used unfused"
    yield AWARE.found(CONFIG, message)


def _is_of_others(folder: AdapterFolder) -> bool:
    # Rendered from another form, the weights are other bytes.
    if ITS_WEIGHTS not in folder.raw_config or folder.form != "mlx" or WEIGHTS not in folder.files:
        return False
    return is_of_others(folder.raw_config, digest_file(folder.files[WEIGHTS])[0])
