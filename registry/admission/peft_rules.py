"""Rules about adapters in PEFT's form: that mlx-lm's form can hold all of what they do."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from ..adapters.files import CONFIG, PEFT_WEIGHTS
from ..adapters.finding import Finding, some
from ..adapters.patterns import PatternError
from ..adapters.peft_config import CONVERT, TIED, PeftConfig, targets
from ..adapters.peft_experts import promised_experts
from ..adapters.peft_folder import COPY, OTHER, QUANTISED_COPY, own_name
from ..adapters.peft_form import is_tied
from ..adapters.peft_methods import MERGE
from ..models.architecture import Weight
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
    "the adapter holds whole weights beside the factors (modules_to_save, embeddings, trained tokens)",
    "mlx-lm adds low-rank updates and replaces nothing",
    MERGE,
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


@rule(*_CARRIED, PEFT_COPIES)
def carried_over_from_peft(candidate: Candidate) -> Iterator[Finding]:
    """All that a PEFT adapter does can be expressed in mlx-lm's form; copies of the base's tensors do nothing."""
    likeness = candidate.likeness
    copies = {name for name, found in likeness.items() if found in (COPY, QUANTISED_COPY)}
    if copies:
        names = some(own_name(name) for name in copies)
        yield PEFT_COPIES.found(PEFT_WEIGHTS, _dropped(names, QUANTISED_COPY in likeness.values()))
    for remark in candidate.folder.remarks:
        left = [name for name in remark.tensors if name not in copies]
        if remark.tensors and not left:
            continue
        if remark.field == "modules_to_save" and _all_copied(candidate, copies):
            continue
        message, hint = remark.message, remark.hint or None
        if remark.code == PEFT_FULL_MODULES.name and left:
            differ = [own_name(name) for name in left if likeness.get(name) == OTHER]
            message = f"{message}; {_why(differ, candidate.base.name)}"
            hint = None if differ else hint
        yield _BY_NAME[remark.code].found(remark.subject, message, hint)


def _dropped(names: str, quantised: bool) -> str:
    message = f"whole tensors are copies of the base's, change nothing and are left out: {names}"
    return f"{message} (of a quantised base: what its weights were quantised from)" if quantised else message


def _why(differ: Sequence[str], base: str) -> str:
    if differ:
        return f"not copies of those of {base}: {some(differ)}"
    return f"whether they are copies of those of {base} cannot be told"


def _all_copied(candidate: Candidate, copies: Collection[str]) -> bool:
    """Tell whether each module that was to be saved whole is in the file, and is the base's."""
    saved = candidate.folder.raw_config.get("modules_to_save")
    modules = {own_name(name).rpartition(".")[0] for name in copies}
    wanted = [saved] if isinstance(saved, str) else saved if isinstance(saved, list) else []
    return bool(wanted) and all(
        any(path == name or path.endswith(f".{name}") for path in modules) for name in wanted
    )


@rule(PEFT_MODULES_MISSING, PEFT_TIED_EMBEDDING)
def whole_peft_adapter(candidate: Candidate) -> Iterator[Finding]:
    """A PEFT adapter has tensors for each module it promises, and none that mean something else to mlx-lm."""
    folder, base = candidate.folder, candidate.base.architecture
    if folder.form != "peft" or not folder.modules or CONFIG in {problem.file for problem in folder.problems}:
        return
    config = PeftConfig.model_validate(folder.raw_config)
    missing = _promised(config, base.weights) | promised_experts(config, base)
    missing -= set(folder.modules)
    if missing:
        message = (
            f"no tensors of {plural(len(missing), 'module')} that the configuration promises: {some(missing)}"
        )
        yield PEFT_MODULES_MISSING.found(PEFT_WEIGHTS, message)
    tied = [path for path in folder.modules if "embed" in path.rpartition(".")[2]] if is_tied(base) else []
    if tied:
        message = f"{some(tied)} is tied to the head of {candidate.base.name}: PEFT changes one end of it, mlx-lm both"
        yield PEFT_TIED_EMBEDDING.found(PEFT_WEIGHTS, message)


def _promised(config: PeftConfig, weights: Mapping[str, Weight]) -> set[str]:
    """Return the matrices of a base that PEFT would adapt; none where its names do not tell."""
    try:
        return {path for path, weight in weights.items() if len(weight.shape) == 2 and targets(config, path)}
    except PatternError:
        return set()
