"""Rules about adapters in PEFT's form: that mlx-lm's form can hold all of what they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..adapter_files import CONFIG, PEFT_WEIGHTS
from ..architecture import Weight
from ..quantities import plural
from ..renderings.patterns import PatternError
from ..renderings.peft_config import PeftConfig, targets
from ..renderings.peft_form import is_tied
from .candidate import Candidate
from .code import Code, rule
from .finding import Finding, some

_MERGE = "merge it with PEFT's merge_and_unload, and add the result as a base: fusery base add"

PEFT_METHOD = Code(
    "peft_method",
    "error",
    "the adapter was made by another method of PEFT than LoRA",
    "its numbers are not two factors of an update",
    _MERGE,
    fixed=True,
)
PEFT_BASE_CHANGED = Code(
    "peft_base_changed",
    "error",
    "training began by changing the base's weights (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA, KaSA, repeated layers)",
    "on the base itself the adapter gives another model than the one that was trained",
    "save it with path_initial_model_for_weight_conversion, or merge it with PEFT and add that as a base",
    fixed=True,
)
PEFT_FULL_MODULES = Code(
    "peft_full_modules",
    "error",
    "the adapter holds whole weights beside the factors (modules_to_save, embeddings, trained tokens)",
    "mlx-lm adds low-rank updates and replaces nothing",
    _MERGE,
    fixed=True,
)
PEFT_BIAS = Code(
    "peft_bias",
    "error",
    "the adapter changes or adds biases",
    "mlx-lm's LoRA has none, so a part of what was learned would be lost",
    _MERGE,
    fixed=True,
)
PEFT_VARIANT = Code(
    "peft_variant",
    "error",
    "the adapter is a variant of LoRA that mlx-lm does not have",
    "it would be loaded as a plain LoRA and answer differently",
    _MERGE,
    fixed=True,
)
PEFT_UNKNOWN_FIELD = Code(
    "peft_unknown_field",
    "error",
    "the configuration sets a field that is not known here",
    "nobody can say what it does to the weights",
    "if it does nothing to them, remove it from adapter_config.json",
    fixed=True,
)
PEFT_UNKNOWN_TENSOR = Code(
    "peft_unknown_tensor",
    "error",
    "tensors are not the factors of a LoRA as PEFT saves it",
    "a part of what was learned would be lost",
    "save it with save_pretrained of PEFT",
    fixed=True,
)
PEFT_PATTERN = Code(
    "peft_pattern",
    "error",
    "rank_pattern or alpha_pattern holds an expression that is not matched here",
    "the scale of a module would be guessed",
    "write the modules' names instead",
    fixed=True,
)
PEFT_RANK_MISMATCH = Code(
    "peft_rank_mismatch",
    "error",
    "tensors do not have the rank that the configuration gives their module",
    "PEFT does not load such an adapter, and its scale depends on the rank",
    "restore adapter_config.json as PEFT saved it",
    fixed=True,
)
PEFT_MODULES_MISSING = Code(
    "peft_modules_missing",
    "error",
    "modules that the configuration promises have no tensors",
    "a part of the adapter was lost",
    "register the whole folder that PEFT saved",
)
PEFT_TIED_EMBEDDING = Code(
    "peft_tied_embedding",
    "error",
    "the adapter changes an embedding that is also the base's head",
    "PEFT changes one end of it, mlx-lm both",
    _MERGE,
    fixed=True,
)
PEFT_RANK_PADDED = Code(
    "peft_rank_padded",
    "info",
    "modules have different ranks; in mlx-lm's form the smaller are padded with zeros",
    "the numbers mean the same, the file is larger",
)
PEFT_SCALE_FOLDED = Code(
    "peft_scale_folded",
    "info",
    "modules have different scales; in mlx-lm's form they are multiplied into lora_b, exactly",
    "the numbers mean the same",
)
PEFT_SCALE_ROUNDED = Code(
    "peft_scale_rounded",
    "info",
    "modules have different scales; in mlx-lm's form they are multiplied into lora_b in float32, rounded once",
    "the update differs in the last bits of float32",
)
_CARRIED = (
    PEFT_METHOD,
    PEFT_BASE_CHANGED,
    PEFT_FULL_MODULES,
    PEFT_BIAS,
    PEFT_VARIANT,
    PEFT_UNKNOWN_FIELD,
    PEFT_UNKNOWN_TENSOR,
    PEFT_PATTERN,
    PEFT_RANK_MISMATCH,
    PEFT_RANK_PADDED,
    PEFT_SCALE_FOLDED,
    PEFT_SCALE_ROUNDED,
)
_BY_NAME = {code.name: code for code in _CARRIED}


@rule(*_CARRIED)
def carried_over_from_peft(candidate: Candidate) -> Iterator[Finding]:
    """All that a PEFT adapter does can be said in mlx-lm's form."""
    for remark in candidate.folder.remarks:
        yield _BY_NAME[remark.code].found(remark.subject, remark.message, remark.hint or None)


@rule(PEFT_MODULES_MISSING, PEFT_TIED_EMBEDDING)
def whole_peft_adapter(candidate: Candidate) -> Iterator[Finding]:
    """A PEFT adapter has tensors for each module it promises, and none that mean something else to mlx-lm."""
    folder, base = candidate.folder, candidate.base.architecture
    if folder.form != "peft" or not folder.modules or CONFIG in {problem.file for problem in folder.problems}:
        return
    missing = _promised(folder.raw_config, base.weights) - set(folder.modules)
    if missing:
        message = (
            f"no tensors of {plural(len(missing), 'module')} that target_modules promises: {some(missing)}"
        )
        yield PEFT_MODULES_MISSING.found(PEFT_WEIGHTS, message)
    tied = [path for path in folder.modules if "embed" in path.rpartition(".")[2]] if is_tied(base) else []
    if tied:
        message = f"{some(tied)} is tied to the head of {candidate.base.name}: PEFT changes one end of it, mlx-lm both"
        yield PEFT_TIED_EMBEDDING.found(PEFT_WEIGHTS, message)


def _promised(raw: Mapping[str, Any], weights: Mapping[str, Weight]) -> set[str]:
    """Return the matrices of a base that PEFT would adapt; none where its names do not tell."""
    config = PeftConfig.model_validate(raw)
    try:
        return {path for path, weight in weights.items() if len(weight.shape) == 2 and targets(config, path)}
    except PatternError:
        return set()
