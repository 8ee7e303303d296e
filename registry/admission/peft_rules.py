"""Rules about adapters in PEFT's form: that mlx-lm's form can hold all of what they do."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from fusery.storage.safetensors import read_header

from ..adapters import CONFIG, PEFT_WEIGHTS, WHOLE, Finding, some
from ..adapters.patterns import PatternError
from ..adapters.peft_config import CONVERT, MERGE, TIED, PeftConfig, targets
from ..adapters.peft_folder import PREFIX
from ..adapters.peft_form import is_tied
from ..adapters.reading import promised_experts
from ..adapters.trained_through import ALORA
from ..adapters.whole_fit import FittedWhole
from ..models.libraries import in_transformers, prefix_of, sees
from ..parsing import plural
from .candidate import Candidate
from .code import Code, always_error, error, info, rule

PEFT_METHOD = always_error(
    "peft_method",
    "the adapter was made by another method of PEFT than LoRA",
    "its tensors are not the two factors of a LoRA",
    "if PEFT can merge it: merge_and_unload, save it, and fusery base add FOLDER; otherwise train a LoRA",
)
PEFT_BASE_CHANGED = always_error(
    "peft_base_changed",
    "training began by changing the base's weights (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA, KaSA, repeated layers)",
    "on the original base, the adapter gives another model than in training",
    CONVERT,
)
PEFT_FULL_MODULES = always_error(
    "peft_full_modules",
    "whole tensors or trained rows beside the factors (modules_to_save, embeddings, trained tokens) do not fit the base",
    "a part of the training would be lost or misplaced",
    MERGE,
)
PEFT_WHOLE_TENSORS = Code(
    WHOLE,
    "info",
    "beside its factors, the adapter holds whole tensors or trained rows that replace the base's",
    "only a fused model can hold both: mlx-lm's form, servers and combined adapters refuse whole tensors",
    "fuse it, and use the fused model",
    fixed=True,
)
PEFT_COPIES = info(
    "peft_copies",
    "the adapter holds whole tensors that are copies of the base's",
    "they have no effect: PEFT adds the embedding by itself, and mergekit the tensors that it did not decompose",
    "nothing: fusery leaves them out of mlx-lm's form",
)
PEFT_BIAS = always_error(
    "peft_bias",
    "the adapter changes or adds biases",
    "mlx-lm's LoRA has no biases, so a part of the training would be lost",
    MERGE,
)
PEFT_VARIANT = always_error(
    "peft_variant",
    "the adapter is a variant of LoRA that mlx-lm does not have",
    "mlx-lm would load it as a plain LoRA, and the answers would differ",
    MERGE,
)
PEFT_ALORA = info(
    ALORA,
    "the adapter is an aLoRA: the base alone computes the tokens before the invocation tokens",
    "fusery refuses to fuse or combine it, and to export it for mlx-lm and other servers",
    "serve it with fusery serve, or with PEFT itself",
)
PEFT_EXPERTS = always_error(
    "peft_experts",
    "the factors of experts or of their router (target_parameters) do not match mlx-lm's modules",
    "PEFT keeps a layer's experts in two tensors, mlx-lm in one module per projection; fusery would have to guess",
    "give adapter_config.json and weights from the same save_pretrained, and the training base",
)
PEFT_UNKNOWN_FIELD = always_error(
    "peft_unknown_field",
    "the configuration sets a field that fusery does not know",
    "its effect on the weights is unknown",
    "if it has no effect on the weights, remove it from adapter_config.json",
)
PEFT_UNKNOWN_TENSOR = always_error(
    "peft_unknown_tensor",
    "tensors are not LoRA factors as PEFT saves them",
    "a part of the training would be lost",
    "save the adapter with PEFT's save_pretrained",
)
PEFT_PATTERN = always_error(
    "peft_pattern",
    "rank_pattern or alpha_pattern holds an unsupported regular expression",
    "fusery would have to guess the scale of a module",
    "write the modules' names instead",
)
PEFT_RANK_MISMATCH = always_error(
    "peft_rank_mismatch",
    "tensors do not have the rank that the configuration gives their module",
    "PEFT does not load such an adapter, and its scale depends on the rank",
    "restore adapter_config.json as PEFT saved it",
)
PEFT_MODULES_MISSING = error(
    "peft_modules_missing",
    "modules that the configuration declares have no tensors",
    "a part of the adapter was lost",
    "register the whole folder that PEFT saved",
)
PEFT_TIED_EMBEDDING = always_error(
    "peft_tied_embedding",
    "the adapter changes an embedding that is also the base's head",
    "PEFT changes only one of the two, mlx-lm both",
    TIED,
)
_CARRIED = (
    *(PEFT_METHOD, PEFT_BASE_CHANGED, PEFT_FULL_MODULES, PEFT_BIAS, PEFT_VARIANT, PEFT_EXPERTS, PEFT_ALORA),
    *(PEFT_UNKNOWN_FIELD, PEFT_UNKNOWN_TENSOR, PEFT_PATTERN, PEFT_RANK_MISMATCH),
)
_BY_NAME = {code.name: code for code in _CARRIED}


@rule(*_CARRIED, PEFT_COPIES, PEFT_WHOLE_TENSORS)
def supported_by_mlx(candidate: Candidate) -> Iterator[Finding]:
    """Everything in the PEFT adapter is supported."""
    for remark in candidate.folder.remarks:
        yield _BY_NAME[remark.code].finding(remark.subject, remark.message, remark.hint or None)
    whole = candidate.whole
    if whole is None:
        return
    if whole.copies:
        of = " (of a quantised base: what its weights were quantised from)" if whole.quantised else ""
        message = f"whole tensors are copies of the base's, which are left out: {some(whole.copies)}{of}"
        yield PEFT_COPIES.finding(PEFT_WEIGHTS, message)
    for problem in whole.problems:
        yield PEFT_FULL_MODULES.finding(PEFT_WEIGHTS, f"{problem} ({candidate.base.name})")
    if whole and not whole.problems:
        yield PEFT_WHOLE_TENSORS.finding(PEFT_WEIGHTS, _replacing(whole))


def _replacing(whole: FittedWhole) -> str:
    parts = [f"{name} ({' x '.join(map(str, tensor.shape))})" for name, tensor in whole.tensors.items()]
    parts += [f"{plural(len(rows.indices), 'row')} of {name}" for name, rows in whole.rows.items()]
    held = [*whole.tensors.values(), *(rows.tensor for rows in whole.rows.values())]
    count = sum(prod(tensor.shape) for tensor in held)
    message = f"{count:,} numbers replace the base's when it is fused: {some(parts)}"
    if whole.vocabulary is not None:
        message += f"; the vocabulary becomes {plural(whole.vocabulary, 'token')}"
    return f"{message}; the head is no longer the embedding" if whole.untied else message


@rule(PEFT_MODULES_MISSING, PEFT_TIED_EMBEDDING)
def complete_peft_adapter(candidate: Candidate) -> Iterator[Finding]:
    """A PEFT adapter has tensors for each declared module, and changes no tied embedding."""
    folder, base = candidate.folder, candidate.base.architecture
    if folder.form != "peft" or not folder.modules or CONFIG in {problem.file for problem in folder.problems}:
        return
    config = PeftConfig.model_validate(folder.raw_config)
    missing = _promised(candidate, config) | promised_experts(config, base)
    # A module that is saved whole has no factors, whatever else names it.
    missing -= {*folder.modules, *(path for path in missing if folder.whole.is_saved(f"{path}.weight"))}
    text = "without tensors that the configuration declares"
    yield from PEFT_MODULES_MISSING.listed(PEFT_WEIGHTS, missing, "module", text)
    tied = [path for path in folder.modules if "embed" in path.rpartition(".")[2]] if is_tied(base) else []
    if tied:
        message = f"{some(tied)} is tied to the head of {candidate.base.name}: PEFT changes only one of the two, mlx-lm both"
        yield PEFT_TIED_EMBEDDING.finding(PEFT_WEIGHTS, message)
    if candidate.tied_heads:
        message = f"{some(candidate.tied_heads)} is tied to the embedding of {candidate.base.name}, which has no other head"
        yield PEFT_TIED_EMBEDDING.finding(PEFT_WEIGHTS, message)


def _promised(candidate: Candidate, config: PeftConfig) -> set[str]:
    """Return the matrices of a base that PEFT would adapt; none where its names do not tell."""
    originals, base = candidate.folder.originals, candidate.base.architecture
    # The fields of the configuration have the names of the day on which PEFT looked for the language model.
    names = read_header(originals[PEFT_WEIGHTS]).tensors if originals and sees(base) else ()
    prefix = prefix_of(name.removeprefix(PREFIX) for name in names)
    try:
        return {
            path
            for path, weight in base.weights.items()
            if len(weight.shape) == 2 and targets(config, in_transformers(path, prefix))
        }
    except PatternError:
        return set()
