"""The values of a model card, and a hub's evaluation results (https://huggingface.co/docs/hub/eval-results)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from ..adapters.trained_through import is_merge_aware
from ..charts.curves import CURVE, curve_svg
from ..documents import provenance_part
from ..engine.architectures import TENSOR_SCALED
from ..engine.verdict import NEAR_FROM
from ..fusion.records import in_words
from ..names import is_hub_id
from ..record import parts_of
from ..records.adapter import Adapter
from .rendering import yaml_string

HUB = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause",
    "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0",
    "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m",
    "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "gemma",
    "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "h-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr",
    "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0",
    "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "open-mdw", "openrail", "openrail++", "osl-3.0", "other",
    "pddl", "postgresql", "unknown", "unlicense", "wtfpl", "zlib",
})  # fmt: skip
"""The hub's values of `license` (https://huggingface.co/docs/hub/repositories-licenses)."""

_SLUG = re.compile(r"[a-z0-9][a-z0-9.-]{0,95}")


def licences(base: Mapping[str, Any], adapters: Sequence[tuple[Any, Mapping[str, Any]]]) -> Mapping[str, Any]:
    """Return `id` (None if a part's licence is not recorded) and `name` for the front matter, and `parts` with their licences."""
    named = [("base model", base.get("licence"))]
    several = len(adapters) > 1
    for name, facts in adapters:
        named.append((f"adapter {name}" if several else "adapter", facts.get("licence")))
    licence_ids = {str(licence).strip().lower() for _, licence in named if licence}
    if not licence_ids or not all(licence for _, licence in named):
        return {"id": None, "name": None, "parts": named}
    only = licence_ids.pop() if len(licence_ids) == 1 else None
    if only in HUB:
        return {"id": only, "name": None, "parts": named}
    return {"id": "other", "name": only if only and _SLUG.fullmatch(only) else None, "parts": named}


def computed_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield labels and values of a computed adapter's method and sources."""
    computed = provenance_part(facts, "computed")
    if not computed:
        return
    settings = ((name, computed.get(name)) for name in ("density", "seed"))
    how = [f"{name} {value}" for name, value in settings if value is not None]
    yield "computed by", ", ".join([str(computed.get("method")), *how])
    for name, part in sources(facts):
        weight = part.get("weight")
        times = f"{weight:g} x " if isinstance(weight, int | float) and not isinstance(weight, bool) else ""
        yield "computed from", f"{times}{name} ({str(part.get('digest'))[:12]})"


def sources(facts: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and facts of each source of a computed adapter."""
    for part in _objects(provenance_part(facts, "computed").get("from")):
        yield str(part.get("name") or "not on record"), part


_LABELS = {"val_loss": "validation loss", "created_at": "fused at"}
_VERDICTS = {
    "PASS": "The model keeps what the adapter learned.",
    "UNSURE": "It is not known whether the answers differ from those of base + adapter.",
    "DEGRADED": "The model's answers differ from those of base + adapter: expect fewer exact answers.",
    "LOST": "The model loses what the adapter learned; it was published with --accept-loss.",
}
_COMMAND = re.compile(r"fusery fuse [A-Za-z0-9 ._:@=+-]{1,2000}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")
_WORST = 5
SHIPS = {
    "docker": "an image with an OpenAI-compatible server", "ollama": "Ollama", "gguf": "llama.cpp", "vllm": "vLLM",
    "oci": "any OCI registry",
}  # fmt: skip
"""Targets that the card lists if they accept the model, with the use of each."""


def card_values(
    record: Mapping[str, Any],
    *,
    base_name: str | None = None,
    transformers: str | None = None,
    targets: Collection[str] = (),
) -> Mapping[str, Any]:
    """Return the values that the model card is rendered from."""
    provenance = record["provenance"]
    base, adapter = provenance_part(provenance, "base"), provenance_part(provenance, "adapter")
    fidelity, recipe = provenance_part(provenance, "fidelity"), provenance_part(provenance, "recipe")
    command = provenance.get("rebuild")
    name = adapter.get("name")
    mode = provenance_part(provenance, "quantization").get("mode")
    library = "vllm" if mode == TENSOR_SCALED else "mlx"
    named = isinstance(name, str) and _NAME.fullmatch(name)
    further = [(part.get("adapter"), part) for part in _objects(provenance.get("with"))]
    extras = [(adapter, part.get("weight"), part.get("digest")) for adapter, part in further]
    return {
        "name": record["name"],
        "base": base.get("name"),
        "base_id": base_name or base.get("hub_id") or base.get("name"),
        "library": library,
        "tags": [library, "fusery", "lora", *([adapter["task"]] if adapter.get("task") else [])],
        "note": adapter.get("note"),
        # A hub accepts nothing but its ids in a card's front matter.
        "datasets": [adapter["dataset"]] if is_hub_id(adapter.get("dataset")) else [],
        "quantized": bool(provenance.get("quantization") or recipe.get("bits")),
        "merge_aware": is_merge_aware(recipe),
        "transformers": transformers,
        "adapter_name": name,
        # A sum of adapters needs more than a name; `rebuild` has it.
        "ships": [] if provenance.get("with") or not named else list(_ships(provenance, targets)),
        "licence": licences(base, [(name, adapter), *further, *sources(adapter)]),
        "lineage": list(_lineage(record, base, adapter)),
        "parts": [(name, 1.0, adapter.get("digest")), *extras] if extras else [],
        "training": list(training_rows(adapter)),
        "curve": curve_values(adapter),
        "measured": list(measured_rows(adapter)),
        "precision": _precision(provenance),
        "fidelity": list(_fidelity(fidelity)),
        "worst": list(_worst(fidelity)),
        "rebuild": command if isinstance(command, str) and _COMMAND.fullmatch(command) else None,
        "files": record["files"],
        "provenance": provenance,
    }


def _ships(provenance: Mapping[str, Any], targets: Collection[str]) -> Iterator[tuple[str, str]]:
    dequantized = provenance_part(provenance, "recipe").get("precision") == "dequantize"
    for target, what in SHIPS.items():
        if target in targets:
            options = " --fused --as 16bit" if dequantized else " --fused"
            yield (f"{target}{options}" if target == "vllm" else target), what


def _lineage(
    record: Mapping[str, Any], base: Mapping[str, Any], adapter: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    provenance = record["provenance"]
    yield "model", record["digest"]
    yield "key", provenance.get("key")
    yield "fused model", provenance.get("label")
    if foreign := provenance_part(provenance, "foreign"):
        yield "not made by who wrote this", in_words(dict(foreign))
    yield "base model", base.get("name")
    yield "base model, digest", base.get("digest")
    yield "adapter", adapter.get("name")
    yield "adapter, digest", adapter.get("digest")
    yield "adapter, trained on", adapter.get("trained_on")
    yield "adapter, trained on, digest", adapter.get("trained_on_digest")
    for key in ORIGIN:
        yield f"adapter, {_LABELS.get(key, key)}", adapter.get(key)
    for label, value in computed_rows(adapter):
        yield f"adapter, {label}", value
    for amendment in _objects(adapter.get("amendments")):
        change = f"{amendment.get('from')} -> {amendment.get('to')}"
        yield "adapter, amended", f"{amendment.get('field')}: {change}"
    for key in ("recipe", "created_at", "tool"):
        yield _LABELS.get(key, key), provenance.get(key)


def _precision(provenance: Mapping[str, Any]) -> list[str]:
    form, size, times = (provenance.get(key) for key in ("format", "weights_bytes", "times_base"))
    large = f", {size:,} bytes of weights" if _is_number(size) else ""
    larger = f", {times:.2f} times the base model's" if _is_number(times) else ""
    return [] if form is None else [f"Precision: {form}{large}{larger}."]


def _fidelity(fidelity: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    figures = ("verdict", "retained", "cosine", "relative_error")
    verdict, retained, cosine, error = map(fidelity.get, figures)
    if verdict is not None:
        yield "verdict", f"{verdict}. {_VERDICTS.get(str(verdict), '')}".rstrip()
    if _is_number(retained):
        share = f"{100 * retained:.1f} % of the update that the adapter makes is in the written weights"
        much = " That is too much: the fused model overshoots." if retained > 2 - NEAR_FROM else ""
        yield "share retained", f"{share}, measured along its own direction.{much}"
    if _is_number(cosine):
        noise = "rounding adds noise, which lowers it even where nothing of the update is missing"
        yield "cosine", f"Between the change that was written and the update it is {cosine:.3f}: {noise}."
    if _is_number(error):
        lacks = "What the written change lacks or has too much"
        yield "relative error", f"{lacks} is {error:.3g} times as large as the update."


def _worst(fidelity: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for module in _objects(fidelity.get("worst"))[:_WORST]:
        retained, cosine, error = (module.get(key) for key in ("retained", "cosine", "relative_error"))
        share = f"{100 * retained:.1f} %" if _is_number(retained) else "–"
        numbers = [f"{value:.3g}" if _is_number(value) else "–" for value in (cosine, error)]
        yield module.get("module"), share, *numbers


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list | tuple) else []


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


EVAL_RESULTS = ".eval_results/fusery.yaml"
"""The evaluation results in a hub's repository."""


def measured_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, value, dataset with details, and harness of each metric."""
    for evaluation in _objects(facts.get("evaluations")):
        stderr = evaluation.get("stderr")
        value = f"{evaluation['value']:.6g}" + ("" if stderr is None else f" ± {stderr:.3g}")
        on = "/".join(str(evaluation[name]) for name in ("dataset", "split") if evaluation.get(name))
        details = ", ".join(filter(None, [on, *_details(evaluation)]))
        yield str(evaluation["metric"]), value, details or "–", _harness(evaluation) or "–"


def _harness(evaluation: Mapping[str, Any]) -> str:
    return " ".join(str(evaluation[key]) for key in ("harness", "harness_version") if evaluation.get(key))


def eval_results(facts: Mapping[str, Any], *, name: str) -> bytes | None:
    """Return `.eval_results/fusery.yaml`: the last value of each task with one metric, of benchmarks with a hub's id."""
    last: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for evaluation in _objects(facts.get("evaluations")):
        if is_hub_id(evaluation.get("dataset")):
            task = str(evaluation["metric"]).rpartition(".")[0] or "default"  # a benchmark's only task
            last[evaluation["dataset"], task, str(evaluation["metric"])] = evaluation
    metrics = Counter(key[:2] for key in last)
    entries = [
        _entry(key[0], key[1], evaluation, name)
        for key, evaluation in sorted(last.items())
        if metrics[key[:2]] == 1
    ]
    return "".join(entries).encode() if entries else None


def _entry(dataset: str, task: str, evaluation: Mapping[str, Any], name: str) -> str:
    split = [f"split {evaluation['split']}"] if evaluation.get("split") else []
    details = [*split, *_details(evaluation), _harness(evaluation)]
    notes = ", ".join(filter(None, [f"{evaluation['metric']} of {name}", *details]))
    lines = [
        "- dataset:",
        f"    id: {yaml_string(dataset)}",
        f"    task_id: {yaml_string(task)}",
        f"  value: {_number(evaluation['value'])}",
        *([f"  date: {yaml_string(str(evaluation['at']))}"] if evaluation.get("at") else []),
        f"  notes: {yaml_string(notes)}",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    """Return a number as YAML 1.1 has it: 1.0e-05, not 1e-05."""
    mantissa, e, exponent = repr(float(value)).partition("e")
    return f"{mantissa}{'.0' if e and '.' not in mantissa else ''}{e}{exponent}"


def _details(evaluation: Mapping[str, Any]) -> Sequence[str]:
    templates = {"shots": "{}-shot", "seed": "seed {}", "samples": "{} samples"}
    return [
        text.format(evaluation[key]) for key, text in templates.items() if evaluation.get(key) is not None
    ]


_ARGUMENTS = {
    "batch_size": "batch size",
    "grad_accumulation_steps": "batches to a step",
    "learning_rate": "learning rate",
    "lr_schedule": "schedule",
    "optimizer": "optimizer",
    "max_seq_length": "longest sequence, tokens",
    "mask_prompt": "prompts masked",
    "seed": "seed",
    "checkpoint": "checkpoint, iteration",
    "chosen": "checkpoint chosen",
    "started_at": "started at",
    "seconds": "seconds",
    "trained_tokens": "trained tokens",
    "git_commit": "commit of the training code",
}


ORIGIN = ("task", "version", "date", "rank", "alpha", "scale", "val_loss", "dataset")
"""Facts about an adapter in the section on its origin."""

OUTSIDE_TRAINING = frozenset({*ORIGIN, "name", "digest", "trained_on", "trained_on_digest", "note"})
"""Facts about an adapter outside the section on its training."""


def training_rows(adapter: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield a label and a value for each known fact."""
    titles = {name: part.title for name, part in parts_of(Adapter).items() if part.about.travels}
    facts = {name: title for name, title in titles.items() if name not in OUTSIDE_TRAINING}
    for labels, recorded_facts in ((facts, adapter), (_ARGUMENTS, provenance_part(adapter, "training"))):
        for key, label in labels.items():
            if recorded_facts.get(key) is not None:
                yield label, recorded_facts[key]


def curve_values(adapter: Mapping[str, Any]) -> dict[str, str] | None:
    """Return `file` and `sentence` of the training curve; None if there are too few points to draw."""
    points = adapter.get("curve")
    return None if curve_svg(points) is None else {"file": CURVE, "sentence": _sentence(points)}


def _sentence(points: Any) -> str:
    for key, what in (("val_loss", "validation"), ("train_loss", "training")):
        losses = [
            (point["iteration"], point[key])
            for point in _objects(points)
            if isinstance(point.get("iteration"), int) and isinstance(point.get(key), int | float)
        ]
        if len(losses) > 1:
            (first, start), (last, end) = losses[0], losses[-1]
            at, lowest = min(losses, key=lambda curve_point: curve_point[1])
            return (
                f"The {what} loss was {start:.4g} at iteration {first} and {end:.4g} at iteration {last}; "
                f"the lowest is {lowest:.4g}, at iteration {at}."
            )
    return "Training loss by iteration."
