"""PEFT's `adapter_config.json` for LoRA: what each field means for mlx-lm, and which values cannot be carried over.

Source: `LoraConfig` of peft 0.21.2 (src/peft/tuners/lora/config.py); a test compares the table with the installed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from ..models.libraries import PROJECTIONS
from .files import CONFIG
from .finding import Finding
from .patterns import Budget, PatternError, full_match
from .tensors import group_of
from .trained_through import MERGE_AWARE

MERGE = "merge it with PEFT's merge_and_unload, and add the result as a base: fusery base add"
TRAIN = "serve it with PEFT itself, or train a LoRA"

BIASED = f"where the base's layers have biases, {MERGE}; otherwise train a LoRA: PEFT cannot merge it either"

PROMPTS: Mapping[str, str] = {
    "PROMPT_TUNING": "prompt tuning",
    "MULTITASK_PROMPT_TUNING": "multitask prompt tuning",
    "P_TUNING": "P-tuning",
    "PREFIX_TUNING": "prefix tuning",
    "CPT": "context-aware prompt tuning",
    "CARTRIDGE": "a cartridge, which is a trained key-value cache",
    "ADAPTION_PROMPT": "a LLaMA-Adapter",
}
"""Methods that put something trained before the input, and change no weight."""

UNMERGED: Mapping[str, str] = {
    "XLORA": "X-LoRA, which mixes several LoRAs for each token",
    "POLY": "Poly, which mixes several LoRAs by task",
    "LILY": "Lily, which shares factors between layers and mixes them by the input",
    "SHADOW": "ShadowPEFT, which runs a small model beside the base",
}
"""Methods that change what is computed in a way that no weights can hold."""


def refusal_of_method(method: Any) -> str | None:
    """Return why an adapter of a method is refused, as the rest of a sentence about its `peft_type`; None for LoRA."""
    if method == "LORA":
        return None
    if not isinstance(method, str):
        return "is not LoRA, and no name of a method"
    if method in PROMPTS:
        return f"is {PROMPTS[method]}: it puts something before the input and changes no weight, so there is nothing to fuse"
    if method in UNMERGED:
        return f"is {UNMERGED[method]}: no weights can hold that, so there is nothing to fuse"
    if method == "BEFT":
        return "is not LoRA: it trains biases, which mlx-lm's LoRA does not have"
    return "is not LoRA, and mlx-lm has no such method"


def _advice_on_method(method: Any) -> str:
    """Return what the owner of an adapter of another method than LoRA can do."""
    if not isinstance(method, str):
        return "restore adapter_config.json as PEFT saved it"
    if method in PROMPTS or method in UNMERGED:
        return TRAIN
    if method == "BEFT":
        return BIASED
    return (
        "where PEFT can, save it as a LoRA that comes close with save_as_lora(FOLDER, model, rank=32), and register that;"
        f" or {MERGE}"
    )


_Value = TypeVar("_Value")
_Path = Annotated[str, Field(max_length=4096)]
_Factor = Annotated[float, Field(allow_inf_nan=False, ge=-1e30, le=1e30)]
_Rank = Annotated[int, Field(ge=1, le=65536)]
_LONGEST = 512
_Paths = Annotated[list[Annotated[str, Field(max_length=_LONGEST)]], Field(max_length=10_000)]
_Indexes = Annotated[list[Annotated[int, Field(ge=0, le=100_000)]], Field(max_length=10_000)]

# Initialisations that subtract from the base what they put into the adapter.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


class PeftConfig(BaseModel):
    """The fields that the numbers depend on."""

    model_config = ConfigDict(extra="allow")

    peft_type: Annotated[str, Field(max_length=100)] | None = None
    base_model_name_or_path: _Path | None = None
    r: _Rank = 8
    lora_alpha: _Factor = 8
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: Annotated[dict[_Path, _Rank], Field(max_length=10_000)] | None = None
    alpha_pattern: Annotated[dict[_Path, _Factor], Field(max_length=10_000)] | None = None
    target_modules: _Paths | _Path | None = None
    exclude_modules: _Paths | _Path | None = None
    layers_to_transform: _Indexes | int | None = None
    layers_pattern: _Paths | _Path | None = None
    target_parameters: _Paths | None = None
    use_qalora: Any = False
    qalora_group_size: Any = 16
    _budget: Budget = PrivateAttr(default_factory=Budget)
    _ranks: dict[str, int] = PrivateAttr(default_factory=dict)
    _targets: frozenset[str] = PrivateAttr(default_factory=frozenset)

    @property
    def peft_version(self) -> str:
        """The version of PEFT that saved it; empty where it does not say."""
        found = (self.model_extra or {}).get("peft_version")
        return found if isinstance(found, str) else ""

    @property
    def group(self) -> int | None:
        """QA-LoRA: how many neighbouring inputs share a column of A; None of any other adapter, and where that is no number."""
        return group_of({"use_qalora": self.use_qalora, "qalora_group_size": self.qalora_group_size})

    def targets_parameter(self, name: str) -> bool:
        """Tell whether PEFT would adapt a parameter of the base, going by its path (`_inject_parameters`)."""
        if not self.target_parameters:
            return False  # nearly always, and asked for each module
        # No target is longer than this, and names in a file may be of any length.
        rest = name if len(name) <= _LONGEST else name[-_LONGEST - 1 :].partition(".")[2]
        self._targets = self._targets or frozenset(self.target_parameters)
        while rest and rest not in self._targets:
            rest = rest.partition(".")[2]
        return bool(rest)

    def rank_of(self, module: str) -> int:
        """Return the rank that a module gets, or a parameter."""
        if module not in self._ranks:
            name = self._pattern_name(module)
            self._ranks[module] = _by_pattern(self.rank_pattern or {}, name, self.r, self._budget)
        return self._ranks[module]

    def scale_of(self, module: str) -> float:
        """Return the factor of a module's update, with PEFT's own arithmetic."""
        name = self._pattern_name(module)
        alpha = _by_pattern(self.alpha_pattern or {}, name, self.lora_alpha, self._budget)
        rank = self.rank_of(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def _pattern_name(self, module: str) -> str:
        """Return what patterns are matched with: of a module that is adapted by its parameter, the parameter's path."""
        weight = f"{module}.weight"
        return weight if self.targets_parameter(weight) else module


def lora_document(
    base: str | None, rank: int, alpha: float, targets: Any, layers: Any, **more: Any
) -> dict[str, Any]:
    """Return `adapter_config.json` of a LoRA with one rank and one scale; `more` replaces entries."""
    return {
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": layers,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
        **more,
    }


def _by_pattern(pattern: Mapping[str, _Value], module: str, default: _Value, budget: Budget) -> _Value:
    """Return the value of the first key that matches, as PEFT's `get_pattern_key` finds it."""
    for key, value in pattern.items():
        if key == module or full_match(rf"(.*\.)?({key})", module, budget):
            return value
    return default


@dataclass(frozen=True, slots=True)
class FieldRule:
    """What becomes of one field of PEFT's configuration.

    Attributes:
        refuse: the reason why a value cannot be carried over, or None if it can.
    """

    becomes: str
    code: str = ""
    refuse: Callable[[Any], str | None] = lambda _: None
    advice: str = MERGE


def _unless_empty(reason: str) -> Callable[[Any], str | None]:
    """Refuse everything but null, false and what is empty."""
    return lambda value: reason if value else None


def _initialisation(value: Any) -> str | None:
    if isinstance(value, str) and value.startswith(_CHANGES_BASE):
        return "changed the base's weights before training, so the adapter does not fit the base itself"
    known = value is None or isinstance(value, bool) or value in _PLAIN_STARTS
    return None if known else "is not an initialisation that is known to leave the base as it is"


def _parameters(value: Any) -> str | None:
    names = value if isinstance(value, list) else []
    others = [name for name in names if str(name).rpartition(".")[2] not in (*PROJECTIONS, "weight")]
    return "adapts parameters that are neither experts nor a router to mlx-lm" if others else None


CONVERT = (
    "save it with path_initial_model_for_weight_conversion, or merge it with PEFT and add that as a base"
)
TIED = (
    "train it without the embedding and the head among its modules: merging changes both ends of the tied matrix, so that"
    " the merged model answers otherwise"
)
_NO_VARIANT = "computes something that a sum of low-rank updates cannot express"
_IGNORED = "nothing: the numbers do not depend on it"
_RANK = "`lora_parameters.rank`: the largest; smaller ranks are padded with zeros"
_SCALE = "`lora_parameters.scale`: the most frequent; other factors go into `lora_b`"
_MODULES = "which modules have tensors; a module that is promised and has none is an error"

FIELDS: Mapping[str, FieldRule] = {
    "peft_type": FieldRule(
        "must be LORA",
        "peft_method",
        refusal_of_method,
    ),
    "r": FieldRule(_RANK),
    "rank_pattern": FieldRule(_RANK),
    "lora_alpha": FieldRule(_SCALE),
    "alpha_pattern": FieldRule(_SCALE),
    "use_rslora": FieldRule("the scale is alpha / sqrt(rank) instead of alpha / rank"),
    "use_dora": FieldRule("`fine_tune_type`: `dora`; `lora_magnitude_vector` becomes `m`"),
    "target_modules": FieldRule(_MODULES),
    "exclude_modules": FieldRule(_MODULES),
    "layers_to_transform": FieldRule(_MODULES),
    "layers_pattern": FieldRule(_MODULES),
    "lora_dropout": FieldRule("`lora_parameters.dropout`"),
    "base_model_name_or_path": FieldRule("`model`; held against the base's names"),
    "revision": FieldRule("nothing; a commit is held against those that the base is known to be of"),
    "fan_in_fan_out": FieldRule("nothing: the factors have the same shapes either way"),
    "bias": FieldRule(
        "must be none",
        "peft_bias",
        lambda value: (
            None if value in (None, "none") else "changes the base's biases, which LoRA cannot hold"
        ),
    ),
    "lora_bias": FieldRule(
        "refused",
        "peft_bias",
        _unless_empty("adds a bias to the update, which mlx-lm does not have"),
        f"where the base's layers have biases, {MERGE}; otherwise train it without lora_bias: PEFT cannot merge it either",
    ),
    "modules_to_save": FieldRule("whole tensors, which replace the base's when it is fused"),
    "trainable_token_indices": FieldRule("rows that replace the base's when it is fused"),
    "init_lora_weights": FieldRule(
        "refused where it changes the base: pissa, olora, corda, loftq, lora_ga",
        "peft_base_changed",
        _initialisation,
        CONVERT,
    ),
    "layer_replication": FieldRule(
        "refused",
        "peft_base_changed",
        _unless_empty("repeats layers, which makes another model of the base"),
        "train it on a model that has these layers: PEFT saves no merged model whose layers share their weights",
    ),
    "kasa_config": FieldRule(
        "refused", "peft_base_changed", _unless_empty("truncates the base's weights before training"), CONVERT
    ),
    "target_parameters": FieldRule(
        "`lora_parameters.keys`: the switch layers of the experts, and the router",
        "peft_experts",
        _parameters,
    ),
    "alora_invocation_tokens": FieldRule(
        "refused",
        "peft_variant",
        _unless_empty("switches the adapter on by certain tokens only"),
        f"{TRAIN}: what acts on some tokens only cannot be merged",
    ),
    "use_qalora": FieldRule("`lora_a`: every column once for each input of its group"),
    "qalora_group_size": FieldRule("inputs of a group, where `use_qalora` is true"),
    "use_bdlora": FieldRule("refused", "peft_variant", _unless_empty(_NO_VARIANT)),
    "arrow_config": FieldRule("refused", "peft_variant", _unless_empty(_NO_VARIANT)),
    "monteclora_config": FieldRule("refused", "peft_variant", _unless_empty(_NO_VARIANT)),
    "megatron_config": FieldRule("refused", "peft_variant", _unless_empty("names layers of another library")),
    "ensure_weight_tying": FieldRule("a tied embedding that was trained whole stays tied"),
    **dict.fromkeys(
        (
            "task_type",
            "auto_mapping",
            "inference_mode",
            "peft_version",
            "megatron_core",
            "loftq_config",
            "eva_config",
            "corda_config",
            "lora_ga_config",
            "velora_config",
            "runtime_config",
        ),
        FieldRule(_IGNORED),
    ),
}
"""Every field that is known, to what becomes of it."""


def refused_fields(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a remark for each field whose value cannot be carried over, and for each that is not known.

    Of another method than LoRA only that is said: what its own fields mean is not what keeps it out.
    """
    method = raw.get("peft_type")
    if (why := refusal_of_method(method)) is not None:
        yield _refused("peft_method", "peft_type", method, why, _advice_on_method(method))
        return
    for name, value in raw.items():
        rule = FIELDS.get(name)
        if rule is None:
            if name not in MERGE_AWARE and value not in (None, False, [], {}, ""):
                message = f"PEFT's {name[:60]!r} is not known here, and what it does to the weights neither"
                hint = "if it does nothing to them, remove it from adapter_config.json"
                yield Finding("peft_unknown_field", "error", CONFIG, message, hint)
        elif why := rule.refuse(value):
            yield _refused(rule.code, name, value, why, rule.advice)


def _refused(code: str, name: str, value: Any, why: str, advice: str) -> Finding:
    shown = str(value) if len(str(value)) <= 60 else f"{str(value)[:59]}…"
    return Finding(code, "error", CONFIG, f"PEFT's {name} ({shown}) {why}", advice)


def targets(config: PeftConfig, module: str) -> bool:
    """Tell whether PEFT would adapt a module of the base, going by its name (`check_target_module_exists`)."""
    excluded = config.exclude_modules
    if isinstance(excluded, str) and excluded and full_match(excluded, module, config._budget):
        return False
    if isinstance(excluded, list) and any(_ends(module, name) for name in excluded):
        return False
    wanted = config.target_modules
    if wanted is None or wanted == "all-linear":
        raise PatternError("which modules are adapted depends on the model's class")
    if isinstance(wanted, str):
        return full_match(wanted, module, config._budget)
    if module in wanted:
        return True
    layers, patterns = config.layers_to_transform, config.layers_pattern or []
    if not any(_ends(module, name) for name in wanted) or layers is None or layers == []:
        return any(_ends(module, name) for name in wanted)
    index = _layer_index(module, [patterns] if isinstance(patterns, str) else patterns)
    return index is not None and (index == layers if isinstance(layers, int) else index in layers)


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _layer_index(module: str, patterns: list[str]) -> int | None:
    """Return the first number in a module's path that has a name of `patterns` (or any name within another) before it."""
    parts = module.split(".")
    for position, part in enumerate(parts[:-1]):
        if not part.isdecimal() or position < (1 if patterns else 2):
            continue
        before = ".".join(parts[:position])
        if not patterns or any(full_match(rf"(.*\.)?{pattern}", before) for pattern in patterns):
            return int(part)
    return None
