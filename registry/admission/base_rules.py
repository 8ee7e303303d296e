"""Rules about the base: that it is the one the adapter was trained on, and has the modules that are adapted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..adapters.files import CONFIG, METADATA, WEIGHTS
from ..adapters.finding import Finding, some
from ..engine.config import has_vision
from ..errors import BadInputError
from ..names import parse_base_name
from ..parsing import plural
from .candidate import Candidate, tail
from .code import Code, rule

_BLIND = (
    "mlx-lm has the language model alone: adapt nothing that sees (PEFT: exclude_modules; Unsloth: "
    "finetune_vision_layers=False), or fuse it in the library that trained it"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")

BASE_MISMATCH = Code(
    "base_mismatch",
    "error",
    "the adapter's files name another base than the one given",
    "an adapter on a model that it was not trained on gives nonsense that looks like an answer",
    "give the base that it was trained on; or say it with --trained-on, where the one given is its twin at another precision",
)
BASE_UNVERIFIED = Code(
    "base_unverified",
    "warning",
    "the adapter's files name the base by a path, which cannot be compared",
    "nobody has said that this is the base it was trained on",
    "write the base's name as base_model in adapter_metadata.json",
)
BASE_ALIAS = Code(
    "base_alias",
    "info",
    "the adapter's files name the base by one of its further names",
    "the record shows the base's first name, which somebody may not expect",
    "",
)
BASE_REVISION = Code(
    "base_revision",
    "warning",
    "the adapter's files name another commit of the base than those that the base here is known to be of",
    "a model that was changed since is another model, and the update was learned on what it was",
    "add the base at that commit: fusery base add OWNER/NAME --revision COMMIT",
)
BASE_QUANTISED = Code(
    "base_quantised_in_training",
    "warning",
    "the base was quantised only while the adapter was trained, and the one given is not",
    "the update was learned beside rounded weights, which exist nowhere as a model",
    "add the base at that precision, and give it with --base; or with --trained-on, where the adapter is for the dense one",
)
_TIED = "the base's head is its embedding: name the base that it was trained on, which has a separate head"
UNKNOWN_MODULE = Code(
    "unknown_module",
    "error",
    "adapted modules are not in the base",
    "their updates have nothing to be added to",
    "the adapter belongs to another base model",
)


@rule(BASE_MISMATCH, BASE_UNVERIFIED, BASE_ALIAS)
def declared_base(candidate: Candidate) -> Iterator[Finding]:
    """The base that the files name is the one that was given."""
    for file, name in (
        (CONFIG, candidate.folder.config.model),
        (METADATA, candidate.folder.metadata.base_model),
    ):
        if name:
            yield from _one_declared_base(candidate, file, name)


@rule(BASE_REVISION, BASE_QUANTISED)
def base_as_in_training(candidate: Candidate) -> Iterator[Finding]:
    """The base is at the commit and the precision at which the adapter was trained."""
    raw, base = candidate.folder.raw_config, candidate.base
    # Unsloth's name for it, and PEFT's.
    commit = raw.get("base_model_commit_hash") or raw.get("revision")
    known = {revision for revision in base.revisions if _COMMIT.fullmatch(revision)}
    # Of the base that it was trained on, if that is another, no commits are at hand.
    same = candidate.trained_on is None
    if same and isinstance(commit, str) and _COMMIT.fullmatch(commit) and known and commit not in known:
        message = f"{CONFIG} says the base was at commit {commit[:12]}, and {base.name} is of {some(each[:12] for each in known)}"
        yield BASE_REVISION.found(CONFIG, message)
    rounded = raw.get("requires_unsloth_mlx_runtime_quantization") is True
    if rounded and candidate.trained_on is None and base.architecture.quantization is None:
        settings = raw.get("base_quantization_config")
        bits = settings.get("bits") if isinstance(settings, dict) else None
        how = f" to {bits} bits" if bits in range(2, 9) else ""
        message = f"{CONFIG} says the base was quantised{how} while it was trained, and {base.name} is not"
        yield BASE_QUANTISED.found(CONFIG, message)


def _one_declared_base(candidate: Candidate, file: str, name: str) -> Iterator[Finding]:
    base, end = candidate.base, tail(name)
    trained = candidate.trained_on
    if trained is not None and end in {tail(known) for known in trained.known_as} - {""}:
        return
    if end and end in {tail(known) for known in base.known_as}:
        # Who writes a metadata file by hand names the base that the adapter is for; a trainer the one that it had.
        if trained is not None and file == CONFIG:
            message = f"{file} says the adapter was trained on {name!r}, which is the base given, and not on {trained.name!r}"
            yield BASE_MISMATCH.found(file, message, "leave out --trained-on")
            return
        if end != tail(base.name) and (alias := next((a for a in base.aliases if tail(a) == end), None)):
            yield BASE_ALIAS.found(file, f"{file} calls the base {alias}, which is {base.name} here")
        return
    meant = base.name if trained is None else trained.name
    other = next((first for known, first in base.others.items() if end and tail(known) == end), None)
    if other is not None:
        message = f"{file} says the adapter was trained on {name!r}, which is registered as {other!r}, not {meant!r}"
        twin = f"give --base {other}; or --trained-on {other}, where {base.name} is the same at another precision"
        yield BASE_MISMATCH.found(file, message, twin if trained is None else f"give --trained-on {other}")
    elif _is_local_path(name):
        message = f"{file} names the base by the path {name!r}, which cannot be compared with {meant!r}"
        yield BASE_UNVERIFIED.found(file, message)
    else:
        message = f"{file} says the adapter was trained on {name!r}, and the base given is {meant!r}"
        twin = "; if it is the same at another precision, add it as a base of its own, and give --trained-on"
        yield BASE_MISMATCH.found(file, message, _same_model(file, name) + ("" if trained else twin))


def _same_model(file: str, name: str) -> str:
    """Return what to do when both names mean one model: not every name can be given to a base."""
    try:
        parse_base_name(name)
    except BadInputError:
        return f"if both are the same model, write the name of the base given in {file}"
    return f"if both are the same model, run: fusery base add SOURCE --name '{name}'"


def _is_local_path(name: str) -> bool:
    return (
        not tail(name)
        or name.startswith(("/", "./", "../", "~"))
        or "\\" in name
        or name.count("/") > 1
        or Path(name).suffix == ".gguf"
    )


@rule(UNKNOWN_MODULE)
def modules_of_base(candidate: Candidate) -> Iterator[Finding]:
    """Every adapted module is a module of the base."""
    weights = candidate.base.architecture.weights
    unknown = {path for path in candidate.folder.modules if path not in weights}
    if candidate.folder.form == "peft":
        unknown -= candidate.tied_heads  # PEFT_TIED_EMBEDDING reports them
    if unknown:
        message = f"{plural(len(unknown), 'adapted module')} not in {candidate.base.name}: {some(unknown)}"
        hint = _BLIND if has_vision(unknown) else UNKNOWN_MODULE.hint
        if unknown <= candidate.tied_heads:
            hint = _TIED
        yield UNKNOWN_MODULE.found(WEIGHTS, message, hint)
