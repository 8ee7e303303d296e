"""PEFT's `adapter_config.json` for LoRA (`LoraConfig` of peft 0.21.2), and the values that cannot be carried over."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from ..models.libraries import PROJECTIONS
from . import CONFIG, Finding
from .patterns import Budget, PatternError, full_match
from .trained_through import ALORA, INVOCATION, MERGE_AWARE, MOST_INVOCATION, group_of

MERGE = "merge it with PEFT's merge_and_unload, save it, and run: fusery base add FOLDER"
TRAIN = "serve it with PEFT itself, or train a LoRA"
RESTORE = "restore adapter_config.json as PEFT saved it"
_AS_LORA = (
    "where PEFT can, save it as a LoRA that comes close with save_as_lora(FOLDER, model, rank=32), and register that;"
    f" or {MERGE}"
)
BIASED = f"where the base's layers have biases, {MERGE}; otherwise train a LoRA: PEFT cannot merge it either"

# Methods of PEFT that no merge puts into the weights of a model: prompts and caches, mixtures by token or task, a second model.
UNFUSABLE = frozenset(
    (
        *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"),
        *("ADAPTION_PROMPT", "XLORA", "POLY", "LILY", "SHADOW"),
    )
)


def refusal_of_method(method: object) -> tuple[str, str] | None:
    """Return why an adapter's `peft_type` is refused, as the rest of a sentence, and what its owner can do; None for LoRA."""
    if method == "LORA":
        return None
    if not isinstance(method, str):
        return "is not the name of a method of PEFT", RESTORE
    if method in UNFUSABLE:
        return "is a method that no weights can hold, so there is nothing to fuse", TRAIN
    if method == "BEFT":
        return "is not LoRA: it trains biases, which mlx-lm's LoRA does not have", BIASED
    return "is not LoRA, and mlx-lm has no such method", _AS_LORA


_Value = TypeVar("_Value")
_Path = Annotated[str, Field(max_length=4096)]
_Factor = Annotated[float, Field(allow_inf_nan=False, ge=-1e30, le=1e30)]
_Rank = Annotated[int, Field(ge=1, le=65536)]
_LONGEST = 512
_Paths = Annotated[list[Annotated[str, Field(max_length=_LONGEST)]], Field(max_length=10_000)]
_Indexes = Annotated[list[Annotated[int, Field(ge=0, le=100_000)]], Field(max_length=10_000)]

# Initialisations that subtract from the base what they put into the adapter.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


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
        version = (self.model_extra or {}).get("peft_version")
        return version if isinstance(version, str) else ""

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
            self._ranks[module] = self._by_pattern(self.rank_pattern, module, self.r)
        return self._ranks[module]

    def scale_of(self, module: str) -> float:
        """Return the factor of a module's update, with PEFT's own arithmetic."""
        alpha, rank = self._by_pattern(self.alpha_pattern, module, self.lora_alpha), self.rank_of(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def _by_pattern(self, pattern: Mapping[str, _Value] | None, module: str, default: _Value) -> _Value:
        """Return the value of the first pattern that a module matches: its parameter's path, if it is adapted by that."""
        weight = f"{module}.weight"
        name = weight if self.targets_parameter(weight) else module
        # As PEFT's `get_pattern_key` finds it.
        for key, value in (pattern or {}).items():
            if key == name or full_match(rf"(.*\.)?({key})", name, self._budget):
                return value
        return default


def lora_document(
    base: str | None, rank: int, alpha: float, targets: Any, layers: Any, **more: Any
) -> Mapping[str, Any]:
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


@dataclass(frozen=True, slots=True)
class FieldRule:
    """Why a value of a field cannot be carried over: `refuse` returns the reason, None for a value that can."""

    code: str
    refuse: Callable[[Any], str | None]
    advice: str = MERGE


def _unless_empty(reason: str) -> Callable[[Any], str | None]:
    return lambda value: reason if value else None


def _bias(value: Any) -> str | None:
    return None if value in (None, "none") else "changes the base's biases, which LoRA cannot hold"


def _initialisation(value: Any) -> str | None:
    if isinstance(value, str) and value.startswith(_CHANGES_BASE):
        return "changed the base's weights before training, so the adapter does not fit the base itself"
    is_neutral = value in (True, False, None, "gaussian", "eva", "orthogonal", "mica")
    return None if is_neutral else "is not an initialisation that is known to leave the base as it is"


def _parameters(value: Any) -> str | None:
    names = value if isinstance(value, list) else []
    others = [name for name in names if str(name).rpartition(".")[2] not in (*PROJECTIONS, "weight")]
    return "adapts parameters that are neither experts nor a router to mlx-lm" if others else None


CONVERT = f"{MERGE}; or convert it: save_pretrained(path_initial_model_for_weight_conversion=...)"
TIED = "remove embedding and head from target_modules and train again; merging would change both parts of the tied matrix"
_NO_VARIANT = _unless_empty("computes something that a sum of low-rank updates cannot express")

REFUSED: Mapping[str, FieldRule] = {
    "bias": FieldRule("peft_bias", _bias),
    "lora_bias": FieldRule(
        "peft_bias",
        _unless_empty("adds a bias to the update, which mlx-lm does not have"),
        f"where the base's layers have biases, {MERGE}; otherwise train it without lora_bias: PEFT cannot merge it either",
    ),
    "init_lora_weights": FieldRule("peft_base_changed", _initialisation, CONVERT),
    "layer_replication": FieldRule(
        "peft_base_changed",
        _unless_empty("repeats layers, which makes another model of the base"),
        "train it on a model that has these layers: PEFT saves no merged model whose layers share their weights",
    ),
    "kasa_config": FieldRule("peft_base_changed", _unless_empty("truncates the base's weights"), CONVERT),
    "target_parameters": FieldRule("peft_experts", _parameters),
    "use_bdlora": FieldRule("peft_variant", _NO_VARIANT),
    "arrow_config": FieldRule("peft_variant", _NO_VARIANT),
    "monteclora_config": FieldRule("peft_variant", _NO_VARIANT),
    "megatron_config": FieldRule("peft_variant", _unless_empty("names layers of another library")),
}
_CARRIED = (
    *("peft_type", "r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora", "use_dora"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"),
    *("use_qalora", "qalora_group_size", "base_model_name_or_path", "revision", "fan_in_fan_out"),
    *("modules_to_save", "trainable_token_indices", "ensure_weight_tying", INVOCATION),
)
_IGNORED = (
    *("task_type", "auto_mapping", "inference_mode", "peft_version", "megatron_core", "runtime_config"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
)
# Every field that is known, and the values of it that are refused.
FIELDS: Mapping[str, FieldRule | None] = {**dict.fromkeys((*_CARRIED, *_IGNORED)), **REFUSED}


def refused_fields(raw: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield a remark for each field whose value cannot be carried over, and for each that is not known."""
    # Of another method than LoRA only that is said: what its own fields mean is not what keeps it out.
    method = raw.get("peft_type")
    if (refusal := refusal_of_method(method)) is not None:
        yield _refused("peft_method", "peft_type", method, *refusal)
        return
    for name, value in raw.items():
        rule = FIELDS.get(name)
        if name not in FIELDS and name not in MERGE_AWARE and value not in (None, False, [], {}, ""):
            message = f"the field {name[:60]!r} is unknown, so its effect on the weights is, too"
            hint = "if it has no effect on the weights, remove it from adapter_config.json"
            yield Finding("peft_unknown_field", "error", CONFIG, message, hint)
        elif rule is not None and (why := rule.refuse(value)):
            yield _refused(rule.code, name, value, why, rule.advice)


def _refused(code: str, name: str, value: object, why: str, advice: str) -> Finding:
    shown = str(value) if len(str(value)) <= 60 else f"{str(value)[:59]}…"
    return Finding(code, "error", CONFIG, f"PEFT's {name} ({shown}) {why}", advice)


# PEFT refuses an aLoRA with these, or applies them to all tokens.
_NEVER_ACTIVATED = (
    *("use_dora", "use_qalora", "target_parameters"),
    *("modules_to_save", "trainable_token_indices"),
)


def check_invocation(raw: Mapping[str, Any], *, embedding: bool) -> Iterator[Finding]:
    """Yield an info finding with an aLoRA's invocation tokens, or an error; `embedding`: whether it adapts one."""
    if not (tokens := raw.get(INVOCATION)):
        return
    ids = tokens if isinstance(tokens, list) and len(tokens) <= MOST_INVOCATION else [None]
    if not all(type(token) is int and 0 <= token < 1 << 31 for token in ids):
        what = f"is not a list of token ids, {MOST_INVOCATION} at most"
        yield _refused("peft_variant", INVOCATION, tokens, what, RESTORE)
    elif parts := [name for name in _NEVER_ACTIVATED if raw.get(name)] + ["an embedding"] * embedding:
        message = f"an aLoRA with {' and '.join(parts)} is not supported: PEFT activates linear layers only"
        yield Finding("peft_variant", "error", CONFIG, message, "train linear layers only")
    else:
        text = ", ".join(map(str, tokens[:8])) + (", …" if len(tokens) > 8 else "")
        message = f"an aLoRA, active from its invocation tokens ({text}) on; it cannot be fused or combined"
        yield Finding(ALORA, "info", CONFIG, message)


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
    parts = module.split(".")
    for position, part in enumerate(parts[:-1]):
        if not part.isdecimal() or position < (1 if patterns else 2):
            continue
        before = ".".join(parts[:position])
        if not patterns or any(full_match(rf"(.*\.)?{pattern}", before) for pattern in patterns):
            return int(part)
    return None
