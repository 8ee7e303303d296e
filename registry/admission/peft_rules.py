"""Rules about adapters in PEFT's form: that mlx-lm's form can hold all of what they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fusery.storage.safetensors import read_header

from ..adapters.files import CONFIG, PEFT_WEIGHTS
from ..adapters.finding import WHOLE, Finding, some
from ..adapters.patterns import PatternError
from ..adapters.peft_config import CONVERT, TIED, PeftConfig, targets
from ..adapters.peft_experts import promised_experts
from ..adapters.peft_folder import PREFIX
from ..adapters.peft_form import is_tied
from ..adapters.peft_methods import MERGE
from ..adapters.whole_fit import FittedWhole
from ..models.architecture import Weight
from ..models.language_model import in_transformers, prefix_of, sees
from ..parsing import plural
from .candidate import Candidate
from .code import Code, rule

PEFT_METHOD = Code(
    "peft_method",
    "error",
    "the adapter was made by another method of PEFT than LoRA",
    "its numbers are not two factors of an update",
    MERGE,
    fixed=True,
)
PEFT_BASE_CHANGED = Code(
    "peft_base_changed",
    "error",
    "training began by changing the base's weights (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA, KaSA, repeated layers)",
    "on the base itself the adapter gives another model than the one that was trained",
    CONVERT,
    fixed=True,
)
PEFT_FULL_MODULES = Code(
    "peft_full_modules",
    "error",
    "whole tensors or trained rows beside the factors (modules_to_save, embeddings, trained tokens) do not fit the base",
    "a part of what was learned would be lost, or stand in the wrong place",
    MERGE,
    fixed=True,
)
PEFT_WHOLE_TENSORS = Code(
    WHOLE,
    "info",
    "the adapter holds whole tensors or trained rows beside its factors, which replace the base's",
    "only a fused model has both: mlx-lm's form, servers and sums of adapters take factors alone, and refuse it",
    "fuse it, and use the fused model",
    fixed=True,
)
PEFT_COPIES = Code(
    "peft_copies",
    "info",
    "the adapter holds whole tensors that are copies of the base's",
    "they change nothing: PEFT adds an embedding by itself, and mergekit what it did not decompose",
    "nothing has to be done: they are left out wherever mlx-lm's form is used",
)
PEFT_BIAS = Code(
    "peft_bias",
    "error",
    "the adapter changes or adds biases",
    "mlx-lm's LoRA has none, so a part of what was learned would be lost",
    MERGE,
    fixed=True,
)
PEFT_VARIANT = Code(
    "peft_variant",
    "error",
    "the adapter is a variant of LoRA that mlx-lm does not have",
    "it would be loaded as a plain LoRA and answer differently",
    MERGE,
    fixed=True,
)
PEFT_EXPERTS = Code(
    "peft_experts",
    "error",
    "the factors of experts or of their router (target_parameters) do not belong to what mlx-lm has in their place",
    "PEFT keeps all experts of a layer in two tensors, mlx-lm in a layer for each projection: which is which would be guessed",
    "take adapter_config.json and the weights of one save_pretrained, and the base that it was trained on",
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
    TIED,
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
    PEFT_EXPERTS,
    PEFT_UNKNOWN_FIELD,
    PEFT_UNKNOWN_TENSOR,
    PEFT_PATTERN,
    PEFT_RANK_MISMATCH,
    PEFT_RANK_PADDED,
    PEFT_SCALE_FOLDED,
    PEFT_SCALE_ROUNDED,
)
_BY_NAME = {code.name: code for code in _CARRIED}


@rule(*_CARRIED, PEFT_COPIES, PEFT_WHOLE_TENSORS)
def carried_over_from_peft(candidate: Candidate) -> Iterator[Finding]:
    """All that a PEFT adapter does can be done here; copies of the base's tensors do nothing."""
    for remark in candidate.folder.remarks:
        yield _BY_NAME[remark.code].found(remark.subject, remark.message, remark.hint or None)
    whole = candidate.whole
    if whole is None:
        return
    if whole.copies:
        yield PEFT_COPIES.found(PEFT_WEIGHTS, _dropped(some(whole.copies), whole.quantised))
    for problem in whole.problems:
        yield PEFT_FULL_MODULES.found(PEFT_WEIGHTS, f"{problem} ({candidate.base.name})")
    if whole and not whole.problems:
        yield PEFT_WHOLE_TENSORS.found(PEFT_WEIGHTS, _replacing(whole))


def _dropped(names: str, quantised: bool) -> str:
    message = f"whole tensors are copies of the base's, change nothing and are left out: {names}"
    return f"{message} (of a quantised base: what its weights were quantised from)" if quantised else message


def _replacing(whole: FittedWhole) -> str:
    parts = [f"{name} ({' x '.join(map(str, tensor.shape))})" for name, tensor in whole.tensors.items()]
    parts += [f"{plural(len(rows.indices), 'row')} of {name}" for name, rows in whole.rows.items()]
    message = f"{whole.parameters:,} numbers replace the base's when it is fused: {some(parts)}"
    if whole.vocabulary is not None:
        message += f"; the vocabulary becomes {plural(whole.vocabulary, 'token')}"
    return f"{message}; the head is no longer the embedding" if whole.untied else message


@rule(PEFT_MODULES_MISSING, PEFT_TIED_EMBEDDING)
def whole_peft_adapter(candidate: Candidate) -> Iterator[Finding]:
    """A PEFT adapter has tensors for each module it promises, and none that mean something else to mlx-lm."""
    folder, base = candidate.folder, candidate.base.architecture
    if folder.form != "peft" or not folder.modules or CONFIG in {problem.file for problem in folder.problems}:
        return
    config = PeftConfig.model_validate(folder.raw_config)
    missing = _promised(config, base.weights, _prefix(candidate)) | promised_experts(config, base)
    # What is saved whole has no factors, whatever else names it.
    missing -= {*folder.modules, *(path for path in missing if folder.whole.is_saved(f"{path}.weight"))}
    if missing:
        message = (
            f"no tensors of {plural(len(missing), 'module')} that the configuration promises: {some(missing)}"
        )
        yield PEFT_MODULES_MISSING.found(PEFT_WEIGHTS, message)
    tied = [path for path in folder.modules if "embed" in path.rpartition(".")[2]] if is_tied(base) else []
    if tied:
        message = f"{some(tied)} is tied to the head of {candidate.base.name}: PEFT changes one end of it, mlx-lm both"
        yield PEFT_TIED_EMBEDDING.found(PEFT_WEIGHTS, message)
    if candidate.tied_heads:
        message = f"{some(candidate.tied_heads)} is tied to the embedding of {candidate.base.name}, which has no other head"
        yield PEFT_TIED_EMBEDDING.found(PEFT_WEIGHTS, message)


def _prefix(candidate: Candidate) -> str:
    """Return where PEFT found the language model: the fields of the configuration have the names of that day."""
    originals = candidate.folder.originals
    if originals is None or not sees(candidate.base.architecture):
        return prefix_of(())
    names = read_header(originals[PEFT_WEIGHTS]).tensors
    return prefix_of(name.removeprefix(PREFIX) for name in names)


def _promised(config: PeftConfig, weights: Mapping[str, Weight], prefix: str) -> set[str]:
    """Return the matrices of a base that PEFT would adapt; none where its names do not tell."""
    try:
        return {
            path
            for path, weight in weights.items()
            if len(weight.shape) == 2 and targets(config, in_transformers(path, prefix))
        }
    except PatternError:
        return set()
