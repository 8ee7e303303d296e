"""Rules that name what a folder holds when it is no adapter in a supported form; they run first.

Recognised by the names of files and tensors alone.  Sources: kohya's sd-scripts (`lora_unet_….lora_down.weight`), diffusers
(`pytorch_lora_weights.safetensors`), the older layers of mlx-vlm (`.A` and `.B`, rank and alpha at the top of the
configuration), the older files of mlx-lm (`adapters.npz`) and of PEFT (`adapter_model.bin`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusery.storage.errors import FuseryError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, read_header

from ..adapters.files import CONFIG, PEFT_WEIGHTS, WEIGHTS
from ..adapters.finding import Finding, some
from .candidate import Candidate
from .code import Code, rule

OTHER_KIND = Code(
    "other_kind",
    "error",
    "the folder holds something else than the LoRA adapter of a language model in mlx-lm's or PEFT's form",
    "it cannot be put on a base here",
    "give the folder that mlx_lm.lora or PEFT's save_pretrained wrote",
    fixed=True,
)

_CLASSIFIERS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
"""PEFT's tasks whose models have no language-model head, with the class of transformers for each."""

_FULL = """echo '{"fine_tune_type": "full", "num_layers": -1}' > adapter_config.json"""
"""The command that writes mlx-lm's configuration of a full fine-tune; mlx-lm-lora writes the model's instead."""

_MOST_HEADERS = 4
"""Files whose tensors' names are looked at."""

_MOST_RANK, _MOST_ALPHA = 65536, 1e30
"""The largest numbers in a configuration that hints compute with."""

_IMAGES = "fusery keeps adapters of language models: use it with the program that it was trained for"
_KOHYA = re.compile(r"(lora_(unet|te[0-9]?|transformer|prior|prior_te)_|lycoris_)\w+\.")
_DIFFUSERS = re.compile(
    r"(unet|transformer|text_encoder(_[0-9])?|diffusion_model|prior)\.(?=.*lora)", re.IGNORECASE
)
_VLM = re.compile(r"(?!base_model\.).+\.([AB]|lora_[AB]\.\w+\.weight)")
_VLM_PLAIN = re.compile(r".+\.[AB]")
_VLM_RETRAIN = "train it again with mlx-vlm 0.6.0 or later, which writes mlx-lm's form"
_VLM_REWRITE = (
    "rewrite the files in their folder, then register it."
    " mlx-vlm 0.5.0 and later multiply by {divided}, earlier versions by {plain}; the files do not tell which."
    ' Put one of the two instead of SCALE (pip show mlx-vlm prints the version): python -c "import sys, json, mlx.core as mx;'
    f" scale = float(sys.argv[1]); c = json.load(open('{CONFIG}')); t = dict(mx.load('{WEIGHTS}')); mx.eval(t);"
    f" mx.save_safetensors('{WEIGHTS}', {{{{n[:-1] + 'lora_' + n[-1].lower(): t[n] for n in t}}}});"
    " p = dict(rank=c['rank'], scale=scale, dropout=c.get('dropout', 0.0), keys=sorted({{n[:-2] for n in t}}));"
    f" json.dump(dict(fine_tune_type='lora', num_layers=-1, lora_parameters=p), open('{CONFIG}', 'w'))\" SCALE"
)
_MODEL = re.compile(r"(pytorch_)?model(-[0-9]+-of-[0-9]+)?\.(safetensors|bin)")
_FACTORS = re.compile(r"(?:.*/)?(?:adapters|adapter_model)\.safetensors")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a folder is, and what its owner can do.

    Attributes:
        file: the one that tells.
        what: with its article.
        hint: what to do.
    """

    file: str
    what: str
    hint: str


def other_kind(candidate: Candidate) -> Kind | None:
    """Return what a folder is that holds no adapter as it is read here; None if it does, or if nobody knows."""
    task = candidate.folder.raw_config.get("task_type")
    if candidate.folder.form == "peft" and isinstance(task, str) and task in _CLASSIFIERS:
        hint = f"fusery keeps adapters of language models: load it with PEFT on transformers' {_CLASSIFIERS[task]}"
        return Kind(CONFIG, f"the configuration of a classifier's adapter (task_type {task})", hint)
    if candidate.folder.modules:
        return None
    top = {entry.path for entry in candidate.surroundings.entries if "/" not in entry.path}
    return (
        _by_tensors(candidate, top)
        or _full_weights(candidate)
        or (None if _weights(top) else _by_names(candidate, top))
    )


def _full_weights(candidate: Candidate) -> Kind | None:
    """Return the kind of a folder with whole weights, if its configuration does not declare a full fine-tune."""
    folder = candidate.folder
    if folder.form != "mlx" or folder.header is None or folder.config.method == "full":
        return None
    known = candidate.base.architecture.weights
    tensors = folder.header.tensors.items()
    if not any(len(tensor.shape) == 2 and name.removesuffix(".weight") in known for name, tensor in tensors):
        return None
    hint = f"in its folder: {_FULL}; or add the merged model as a base: fusery base add FOLDER"
    return Kind(WEIGHTS, "a full fine-tune, whole weights instead of an adapter", hint)


def _weights(top: Collection[str]) -> set[str]:
    return {WEIGHTS, PEFT_WEIGHTS}.intersection(top)


def _by_tensors(candidate: Candidate, top: Collection[str]) -> Kind | None:
    root = candidate.surroundings.root
    for name in sorted(name for name in top if name.endswith(".safetensors"))[:_MOST_HEADERS]:
        try:
            names = list(read_header(root / name, limit=BASE_HEADER_LIMIT).tensors)
        except FuseryError:
            continue  # whether it can be read is for another rule to say
        if any(map(_KOHYA.match, names)):
            return Kind(name, "a LoRA of an image or video model in kohya's form", _IMAGES)
        if any(map(_DIFFUSERS.match, names)):
            return Kind(name, "a LoRA of an image or video model in diffusers' form", _IMAGES)
        if names and all(map(_VLM.fullmatch, names)):
            plain = name == WEIGHTS and all(map(_VLM_PLAIN.fullmatch, names))
            hint = _vlm_hint(candidate.folder.raw_config) if plain else _VLM_RETRAIN
            return Kind(name, "an adapter in the form that mlx-vlm wrote before it took mlx-lm's", hint)
    return None


def _vlm_hint(config: Mapping[str, Any]) -> str:
    """Return the command that rewrites mlx-vlm's older form, with the scale of each version.

    Its layers multiply by `alpha` up to 0.4.4, and by `alpha / rank` in 0.5.0 (mlx_vlm/trainer/lora.py, commit 6b0ad8f).
    """
    rank: Any = config.get("rank")
    alpha: Any = config.get("alpha")
    numbers = isinstance(rank, int) and isinstance(alpha, int | float)
    if numbers and 1 <= rank <= _MOST_RANK and abs(alpha) <= _MOST_ALPHA:
        divided, plain = f"alpha / rank = {alpha / rank}", f"alpha = {float(alpha)}"
        return _VLM_REWRITE.format(divided=divided, plain=plain)
    return _VLM_REWRITE.format(divided="alpha / rank", plain="alpha")


def _by_names(candidate: Candidate, top: Collection[str]) -> Kind | None:
    for name in ("adapter_model.bin", "adapter_model.pt"):
        if name in top:
            what = "a PEFT adapter in a pickle, which runs code when it is loaded and is never opened here"
            hint = (
                "where you trust its origin, load it with PEFT and save it again:"
                " PeftModel.from_pretrained(model, FOLDER).save_pretrained(NEW)"
            )
            return Kind(name, what, hint)
    for name in sorted(top):
        if re.fullmatch(r"(?:[0-9]+_)?adapters?\.npz", name):
            hint = (
                f'write it anew, and register the folder: python -c "import mlx.core as mx;'
                f" mx.save_safetensors('{WEIGHTS}', mx.load('{name}'))\""
            )
            return Kind(
                name, "an adapter in the .npz form that mlx-lm wrote before it took safetensors", hint
            )
        if name.endswith(".fmadapter"):
            what = "an adapter of Apple's foundation models, which is bound to one version of a system"
            return Kind(name, what, "use Apple's adapter toolkit")
        if name.endswith(".gguf"):
            hint = "register the adapter that it was made from; fusery identify says which one that is, if it is on record"
            return Kind(name, "a file for llama.cpp", hint)
    below = sorted(
        {
            entry.path.rpartition("/")[0]
            for entry in candidate.surroundings.entries
            if _FACTORS.fullmatch(entry.path)
        }
    )
    if below:
        return Kind(
            ".",
            f"a folder of adapters: {some(below)}",
            f"give one of them: {Path(candidate.surroundings.root.name, below[-1])}",
        )
    models = sorted(filter(_MODEL.fullmatch, top))
    if models and (CONFIG not in top or "config.json" in top):
        return Kind(models[0], "a whole model", "add it as a base: fusery base add FOLDER")
    return None


@rule(OTHER_KIND)
def kind_is_known(candidate: Candidate) -> Iterator[Finding]:
    """The folder holds an adapter in a form that is read here."""
    kind = other_kind(candidate)
    if kind is not None:
        yield OTHER_KIND.found(
            kind.file, f"{'this' if kind.file == '.' else kind.file} is {kind.what}", kind.hint
        )
