"""Rules about other files in the folder: programs, links out of it, and files that do not belong to an adapter.

Only the adapter's own files are stored, so most of these are warnings: about where the adapter comes from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..adapters.files import CONFIG
from ..adapters.finding import Finding, some
from ..adapters.tokenizer_files import SETTINGS, own_tokenizer, reader, settings_of
from .candidate import Candidate, Entry
from .code import always_error, error, info, rule, warning

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".keras")
_PICKLE_HEADS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# What transformers' Trainer, accelerate and DeepSpeed keep to go on from a checkpoint.
_TRAINER = re.compile(
    r"(?:.*/)?(?:training_args\.bin|(?:optimizer|scheduler|scaler)(?:_[0-9]+)?\.(?:pt|bin)|rng_state(?:_[0-9]+)?\.pth"
    r"|random_states_[0-9]+\.pkl|global_step[0-9]+/[^/]+\.pt)"
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
    "the folder has a trainer's own files: its arguments, optimizer and random numbers",
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
    entries = candidate.surroundings.entries
    programs = {e.path for e in entries if e.suffix in _PROGRAMS or e.head.startswith(_PROGRAM_HEADS)}
    pickles = {e.path for e in entries if _is_pickle(e)} - programs
    trainer = {path for path in pickles if _TRAINER.fullmatch(path)}
    pickles -= trainer
    for code, paths in ((PICKLE_FILE, pickles), (TRAINER_FILE, trainer), (PROGRAM_FILE, programs)):
        if paths:
            yield code.finding(min(paths), f"beside the adapter: {some(paths)}")


def _is_pickle(entry: Entry) -> bool:
    # A pickle named .safetensors has its own error, `not_safetensors`.
    pickled = entry.suffix in _PICKLES or entry.head.startswith(_PICKLE_HEADS)
    return pickled and entry.suffix != ".safetensors"


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
