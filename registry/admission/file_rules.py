"""Rules about the adapter's own files, and the programs, links and pickles beside them, which are not stored."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from fusery.storage.errors import FuseryError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, read_header

from ..adapters import CONFIG, PEFT_WEIGHTS, WEIGHTS, Finding, some
from ..adapters.tokenizer_files import SETTINGS, own_tokenizer, reader, settings_of
from .candidate import Candidate
from .code import always_error, error, info, rule, warning

_FLOATS = ("BF16", "F16", "F32")
_PICKLE_HEADS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLE = (
    ": it is a pickle or a zip archive under another name",
    "if you trust their origin, save the weights with safetensors; fusery never unpickles a file",
)
# First bytes of what is no safetensors file, with what to say of it and what to do.
_OTHER_STARTS = {
    **dict.fromkeys((*_PICKLE_HEADS, b"PK\x03\x04"), _PICKLE),
    b"version ": (
        ": it is the pointer that Git LFS leaves instead of a file",
        "in the clone, run: git lfs pull",
    ),
}

FILE_MISSING = always_error(
    "file_missing",
    "the folder lacks the weights or their configuration",
    "without both, no program can load the adapter",
    "give the folder that mlx_lm.lora or save_pretrained wrote",
)
NOT_SAFETENSORS = always_error(
    "not_safetensors",
    "the weights are not a valid safetensors file, but for example truncated, a pickle or a Git LFS pointer",
    "programs read a malformed header differently; a pickle runs code when it is loaded",
    "save the weights again with mlx-lm or the safetensors library",
)
CONFIG_INVALID = always_error(
    "config_invalid",
    "adapter_config.json or adapter_metadata.json is not JSON, or has an invalid value",
    "rank, scale, layers and declared values come from them",
    "use the adapter_config.json of the training run; adapter_metadata.json is optional",
)
NO_TENSORS = error(
    "no_tensors",
    "the file holds no tensors of an adapter, or empty tensors",
    "nothing would be added to the base",
    "give the adapters.safetensors of the run",
)
UNKNOWN_TENSOR = error(
    "unknown_tensor",
    "tensors are neither LoRA factors nor weights of the base",
    "mlx-lm refuses to load them",
    "give the adapter in the form in which its trainer wrote it",
)
DTYPE_UNSUPPORTED = error(
    "dtype_unsupported",
    "tensors are not in a floating-point format that can be added to a weight",
    "they cannot be fused",
    "save them as float32, float16 or bfloat16",
)


@rule(FILE_MISSING, NOT_SAFETENSORS, CONFIG_INVALID)
def readable_files(candidate: Candidate) -> Iterator[Finding]:
    """Every required file exists and has a valid format."""
    for problem in candidate.folder.problems:
        if problem.absent:
            yield FILE_MISSING.finding(problem.file, problem.message)
        elif problem.file.endswith(".safetensors"):
            head = next((entry.head for entry in candidate.surroundings if entry.path == problem.file), b"")
            starts = (start for start in _OTHER_STARTS if head.startswith(start))
            what, hint = _OTHER_STARTS.get(next(starts, b""), ("", None))
            yield NOT_SAFETENSORS.finding(problem.file, problem.message + what, hint)
        else:
            yield CONFIG_INVALID.finding(problem.file, problem.message)


@rule(NO_TENSORS, UNKNOWN_TENSOR, DTYPE_UNSUPPORTED)
def has_adapter_tensors(candidate: Candidate) -> Iterator[Finding]:
    """The weights are an adapter's tensors in a floating-point format."""
    folder = candidate.folder
    if folder.header is None:
        return
    tensors = folder.header.tensors.values()
    odd = {tensor.name: tensor.dtype for tensor in tensors if tensor.dtype not in _FLOATS}
    text = f"in {some(set(odd.values()))}, not {', '.join(_FLOATS)}"
    yield from DTYPE_UNSUPPORTED.listed(WEIGHTS, odd, "tensor", text)
    empty = [tensor.name for tensor in tensors if not tensor.size]
    yield from NO_TENSORS.listed(WEIGHTS, empty, "tensor", "without elements")
    if folder.config.method == "full":
        return
    if not folder.modules:
        yield NO_TENSORS.finding(WEIGHTS, "the file holds no lora_a and lora_b tensors")
    peft = any(".lora_A." in name or ".lora_B." in name for name in folder.unexpected)
    hint = "these are PEFT's names: leave the file as adapter_model.safetensors beside its own configuration"
    advice, text = (hint if peft else None), "that no LoRA adapter has"
    yield from UNKNOWN_TENSOR.listed(WEIGHTS, folder.unexpected, "tensor", text, advice)


OTHER_KIND = always_error(
    "other_kind",
    "the folder does not hold a language model's LoRA adapter in mlx-lm's or PEFT's form",
    "fusery cannot apply it to a base model",
    "give the folder that mlx_lm.lora or PEFT's save_pretrained wrote",
)

# PEFT's tasks whose models have no language-model head, with the class of transformers for each.
_CLASSIFIERS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
# The command that writes mlx-lm's configuration of a full fine-tune; mlx-lm-lora writes the model's instead.
_FULL = """echo '{"fine_tune_type": "full", "num_layers": -1}' > adapter_config.json"""
_MOST_HEADERS = 4  # Files whose tensors' names are looked at
_IMAGES = "fusery keeps adapters of language models: use it with the program that it was trained for"
_KOHYA = re.compile(r"(lora_(unet|te[0-9]?|transformer|prior|prior_te)_|lycoris_)\w+\.")
_DIFFUSERS = re.compile(r"(?i)(unet|transformer|text_encoder(_[0-9])?|diffusion_model|prior)\.(?=.*lora)")
_VLM = re.compile(r"(?!base_model\.).+\.([AB]|lora_[AB]\.\w+\.weight)")
_MODEL = re.compile(r"(pytorch_)?model(-[0-9]+-of-[0-9]+)?\.(safetensors|bin)")
_FACTORS = re.compile(r"(?:.*/)?(?:adapters|adapter_model)\.safetensors")


def _kind(file: str, what: str, hint: str) -> Finding:
    return OTHER_KIND.finding(file, f"{'this' if file == '.' else file} is {what}", hint)


@rule(OTHER_KIND)
def supported_form(candidate: Candidate) -> Iterator[Finding]:
    """The folder holds an adapter in mlx-lm's or PEFT's form."""
    task = candidate.folder.raw_config.get("task_type")
    top = {entry.path for entry in candidate.surroundings if "/" not in entry.path}
    kind = None
    if candidate.folder.form == "peft" and isinstance(task, str) and task in _CLASSIFIERS:
        hint = f"fusery keeps adapters of language models: load it with PEFT on transformers' {_CLASSIFIERS[task]}"
        kind = _kind(CONFIG, f"the configuration of a classifier's adapter (task_type {task})", hint)
    elif not candidate.folder.modules:
        kind = _by_tensors(candidate, top) or _full_weights(candidate)
        if kind is None and not top & {WEIGHTS, PEFT_WEIGHTS}:
            kind = _by_names(candidate, top)
    if kind is not None:
        yield kind


def _full_weights(candidate: Candidate) -> Finding | None:
    folder, base_weights = candidate.folder, candidate.base.architecture.weights
    if folder.form != "mlx" or folder.header is None or folder.config.method == "full":
        return None
    matrices = (name for name, tensor in folder.header.tensors.items() if len(tensor.shape) == 2)
    if not any(name.removesuffix(".weight") in base_weights for name in matrices):
        return None
    hint = f"in its folder: {_FULL}; or add the merged model as a base: fusery base add FOLDER"
    return _kind(WEIGHTS, "a full fine-tune, whole weights instead of an adapter", hint)


def _by_tensors(candidate: Candidate, top: Collection[str]) -> Finding | None:
    for file in sorted(name for name in top if name.endswith(".safetensors"))[:_MOST_HEADERS]:
        try:
            names = list(read_header(candidate.folder.path / file, limit=BASE_HEADER_LIMIT).tensors)
        except FuseryError:
            continue  # whether it can be read is for another rule to say
        for pattern, form in ((_KOHYA, "kohya's"), (_DIFFUSERS, "diffusers'")):
            if any(map(pattern.match, names)):
                return _kind(file, f"a LoRA of an image or video model in {form} form", _IMAGES)
        if names and all(map(_VLM.fullmatch, names)):
            what = "an adapter in the form that mlx-vlm wrote before it took mlx-lm's"
            return _kind(file, what, "train it again with mlx-vlm 0.6.0 or later, which writes mlx-lm's form")
    return None


_BY_NAME = (
    (
        r"adapter_model\.(?:bin|pt)",
        "a PEFT adapter in a pickle, which runs code when it is loaded and is never opened here",
        (
            "where you trust its origin, load it with PEFT and save it again:"
            " PeftModel.from_pretrained(model, FOLDER).save_pretrained(NEW)"
        ),
    ),
    (
        r"(?:[0-9]+_)?adapters?\.npz",
        "an adapter in the .npz form that mlx-lm wrote before it took safetensors",
        (
            'write it again, and register the folder: python -c "import mlx.core as mx;'
            f" mx.save_safetensors('{WEIGHTS}', mx.load('NAME'))\""
        ),
    ),
    (
        r".*\.fmadapter",
        "an adapter of Apple's foundation models, which is bound to one version of a system",
        "use Apple's adapter toolkit",
    ),
    (
        r".*\.gguf",
        "a file for llama.cpp",
        "register the adapter that it was made from; fusery identify says which one that is, if it is on record",
    ),
)


def _by_names(candidate: Candidate, top: Collection[str]) -> Finding | None:
    for pattern, what, hint in _BY_NAME:
        for name in sorted(top):
            if re.fullmatch(pattern, name):
                return _kind(name, what, hint.replace("NAME", name))
    entries = candidate.surroundings
    below = sorted({entry.path.rpartition("/")[0] for entry in entries if _FACTORS.fullmatch(entry.path)})
    if below:
        hint = f"give one of them: {Path(candidate.folder.path.name, below[-1])}"
        return _kind(".", f"a folder of adapters: {some(below)}", hint)
    models = sorted(filter(_MODEL.fullmatch, top))
    if models and (CONFIG not in top or "config.json" in top):
        return _kind(models[0], "a whole model", "add it as a base: fusery base add FOLDER")
    return None


_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".keras")
# What transformers' Trainer, accelerate and DeepSpeed keep to go on from a checkpoint.
_TRAINER = re.compile(
    r"(?:.*/)?(?:training_args\.bin|(?:optimizer|scheduler|scaler)(?:_[0-9]+)?\.(?:pt|bin)|rng_state(?:_[0-9]+)?\.pth"
    r"|random_states_[0-9]+\.pkl|global_step[0-9]+/[^/]+\.pt|zero_to_fp32\.py|(?:recipe_state/)?recipe_state\.pt)"
)
_PROGRAMS = (
    *(".py", ".pyc", ".sh", ".bash", ".zsh", ".ps1", ".bat", ".cmd", ".js", ".rb", ".pl", ".lua", ".ipynb"),
    *(".exe", ".dll", ".so", ".dylib", ".com", ".scr", ".app", ".jar", ".wasm", ".class"),
)
# A script, ELF, Windows, Mach-O in its four forms, a universal binary, WebAssembly.
_PROGRAM_HEADS = (
    *(b"#!", b"\x7fELF", b"MZ", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe"),
    *(b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"\0asm"),
)

LINK_OUTSIDE = always_error(
    "link_outside",
    "a symbolic link leads out of the folder, or its target does not exist",
    "fusery would read a file that is not in the folder",
    "replace the link by the file itself",
)
SPECIAL_FILE = always_error(
    "special_file",
    "the folder contains a pipe, a socket or a device",
    "reading it may block or have side effects",
    "remove it, or copy the adapter's files elsewhere",
)
UNSAFE_PATH = always_error(
    "unsafe_path",
    "a file name in the folder is invalid, or the folder has far more files than an adapter",
    "unprintable names, and names that differ only in case, are not valid on every system",
    "copy the adapter's files to a folder of their own",
)
PICKLE_FILE = warning(
    "pickle_file",
    "the folder has files in formats that run code when they are loaded",
    "fusery does not store or open them, but other tools may",
    "remove them before you share the folder; an adapter works without optimizer states",
)
TRAINER_FILE = info(
    "trainer_file",
    "the folder has a trainer's files: arguments, optimizer, states of random generators",
    "fusery does not store or open them: they run code when they are loaded",
)
PROGRAM_FILE = warning(
    "program_file",
    "the folder has a program, a library or a script",
    "fusery does not store them; mlx-lm cannot load an adapter that needs them",
    "find out where the folder comes from before you use the adapter",
)
REMOTE_CODE = error(
    "remote_code",
    "a configuration names Python code to run when the model is loaded (auto_map)",
    "loading it with trust_remote_code runs that code",
    "remove auto_map; an adapter needs no code of its own",
)


@rule(PICKLE_FILE, TRAINER_FILE, PROGRAM_FILE)
def no_executable_files(candidate: Candidate) -> Iterator[Finding]:
    """The folder has no programs, and no files that run code when they are loaded."""
    entries = candidate.surroundings
    programs = {e.path for e in entries if e.suffix in _PROGRAMS or e.head.startswith(_PROGRAM_HEADS)}
    # A pickle named .safetensors has its own error, `not_safetensors`.
    others = [entry for entry in entries if entry.suffix != ".safetensors"]
    pickles = {e.path for e in others if e.suffix in _PICKLES or e.head.startswith(_PICKLE_HEADS)} - programs
    trainer = {path for path in pickles | programs if _TRAINER.fullmatch(path)}
    pickles, programs = pickles - trainer, programs - trainer
    for code, paths in ((PICKLE_FILE, pickles), (TRAINER_FILE, trainer), (PROGRAM_FILE, programs)):
        if paths:
            yield code.finding(min(paths), f"beside the adapter: {some(paths)}")


@rule(REMOTE_CODE)
def no_remote_code(candidate: Candidate) -> Iterator[Finding]:
    """No configuration names code to run."""
    raw = candidate.folder.raw_config
    if raw.get("auto_map"):
        yield REMOTE_CODE.finding(CONFIG, f"{CONFIG} has an auto_map, which names code to be run")
    own = own_tokenizer(candidate.folder.kept)
    settings = settings_of(reader(own)) if SETTINGS in own else {}
    if (code := settings.get("auto_map")) and code != settings_of(candidate.base.tokenizer).get("auto_map"):
        yield REMOTE_CODE.finding(SETTINGS, f"{SETTINGS} has an auto_map, which names code to be run")
