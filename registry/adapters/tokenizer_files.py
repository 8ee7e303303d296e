"""The tokenizer files of an adapter (`save_pretrained` of transformers 4.57 and 5.3), which replace the base's in all outputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fusery.storage.errors import FormatError, StorageError
from fusery.storage.jsonfile import MAX_VALUES, parse_json
from fusery.storage.manifest import FileEntry

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ADDED = "added_tokens.json"
TEMPLATE = "chat_template.jinja"
TOOLS_TEMPLATE = "additional_chat_templates/tool_use.jinja"
GENERATION = "generation_config.json"
_CONFIG = "config.json"

# The most values in one of them; the largest vocabularies, with their merges, have half as many.
MOST_VALUES = 4_000_000
# The most bytes of each file.
_LIMITS: Mapping[str, int] = {
    TOKENIZER: 64 << 20,
    SETTINGS: 32 << 20,  # of a speech model: all of its 65,536 audio tokens
    **dict.fromkeys((SPECIAL, ADDED, GENERATION), 4 << 20),
    **dict.fromkeys((TEMPLATE, TOOLS_TEMPLATE), 1 << 20),
}
TOKENIZER_FILES = frozenset(_LIMITS)
_OF_BASE = re.compile(
    r"tokenizer[\w.-]*\.(json|model|txt|tiktoken|jinja)|[\w.-]+\.(jinja|tiktoken)|vocab\.[\w-]+|merges\.txt|spiece\.model"
    r"|(added_tokens|special_tokens_map|chat_template)\.json|additional_chat_templates/.+"
)
_OTHER_FORMS = re.compile(r"(tokenizer|spiece)\.model|vocab\.[\w-]+|merges\.txt|[\w.-]+\.tiktoken")
_OTHER_TEMPLATES = re.compile(r"chat_template\.json|additional_chat_templates/(?!tool_use\.)[\w.-]+\.jinja")
_OF_TEMPLATES = re.compile(r"[\w.-]+\.jinja|chat_template\.json|additional_chat_templates/.+")
_ROLES = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
DEFAULT, TOOLS = "default", "tool_use"
_ENCODING = frozenset({"add_bos_token", "add_eos_token", "add_prefix_space", "split_special_tokens"})
_GENERATING = frozenset(
    (
        *("bos_token_id", "do_sample", "eos_token_id", "min_p", "repetition_penalty", "temperature"),
        *("top_k", "top_p"),
    )
)
_TOKENS = frozenset(f"{role}_token" for role in _ROLES if role != "pad")
_MOST_KEYS = 20  # of one file, that are named
_DIGITS = 19  # of a token id at most
# Keys that are compared elsewhere, or that versions of transformers write for the same tokenizer in different ways.
_SPELLED = frozenset(
    (
        *("added_tokens_decoder", "additional_special_tokens", "backend", "chat_template"),
        *("extra_special_tokens", "is_local", "name_or_path", "special_tokens_map_file"),
        *("tokenizer_file", "transformers_version"),
    )
)
Read = Callable[[str], bytes | None]


def is_tokenizer_file(path: str) -> bool:
    """Tell whether a file in an adapter's folder is kept as one of its tokenizer files."""
    return path in _LIMITS


def is_other_form(path: str, *, whole: bool) -> bool:
    """Tell whether fusery does not keep a file with a named template or, unless there is a `tokenizer.json` (`whole`), a tokenizer."""
    forms = (_OTHER_TEMPLATES,) if whole else (_OTHER_TEMPLATES, _OTHER_FORMS)
    return any(form.fullmatch(path) for form in forms)


def tokenizer_entries(files: Iterable[FileEntry]) -> frozenset[FileEntry]:
    """Return the tokenizer files among an adapter's files, with their digests."""
    return frozenset(entry for entry in files if is_tokenizer_file(entry.path))


def refusal(path: str, size: int) -> str | None:
    """Return why a tokenizer file cannot be kept; None if it can."""
    most = _LIMITS[path]
    return f"{path} is too large: {size:,} bytes (at most {most:,})" if size > most else None


def require_readable(path: str, data: bytes) -> None:
    """Refuse a tokenizer file that is neither a JSON object nor a chat template in UTF-8."""
    if path.endswith(".jinja"):
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{path} is not UTF-8 text") from error
        return
    most = MOST_VALUES if path in (TOKENIZER, SETTINGS) else MAX_VALUES
    if not isinstance(parse_json(data, path, most=most), dict):
        raise FormatError(f"{path} is not a JSON object")


def own_tokenizer(files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the tokenizer files among an adapter's files."""
    return {name: path for name, path in files.items() if is_tokenizer_file(name)}


def with_tokenizer(base: Mapping[str, Path], adapter: Mapping[str, Path]) -> dict[str, Path]:
    """Return a base's files, with its tokenizer files replaced by an adapter's."""
    # A whole tokenizer replaces the base's whole tokenizer. A chat template alone replaces all templates of the base,
    # since transformers prefers files to the one in `tokenizer_config.json`.
    own = own_tokenizer(adapter)
    replaced = _replaced_names(own)
    left = {name: path for name, path in base.items() if replaced is None or not replaced.fullmatch(name)}
    return {**left, **own}


def reader_with(base: Read, adapter: Mapping[str, Path]) -> Read:
    """Return a function that reads a base's tokenizer files, with an adapter's instead as in `with_tokenizer`."""
    own = own_tokenizer(adapter)
    replaced, ours = _replaced_names(own), reader(own)

    def read(name: str) -> bytes | None:
        if name in own:
            return ours(name)
        return None if replaced is not None and replaced.fullmatch(name) else base(name)

    return read


def _replaced_names(own: Mapping[str, Path]) -> re.Pattern[str] | None:
    """Return the pattern of the base's files that an adapter's tokenizer files replace, besides those of the same name."""
    if TOKENIZER in own and SETTINGS in own:
        return _OF_BASE
    patterns = [_OF_TEMPLATES.pattern] if own and templates_of(reader(own)) else []
    if SETTINGS in own:  # the base's special_tokens_map.json would win in transformers
        patterns.append(re.escape(SPECIAL))
    return re.compile("|".join(patterns)) if patterns else None


def with_own_end(base: Mapping[str, Path], files: Mapping[str, Path]) -> Mapping[str, Any] | None:
    """Return a model's generation settings with the end token of its adapter's tokenizer; None if they need no change."""
    # transformers' Trainer adds the end token in training (`align_special_tokens`), but PEFT saves no generation settings.
    if files.get(TOKENIZER) == base.get(TOKENIZER) and files.get(SETTINGS) == base.get(SETTINGS):
        return None
    read = reader(files)
    token, generation = dict(special_tokens(settings_of(read)))["eos_token"], settings_of(read, GENERATION)
    end = (token_ids(read(TOKENIZER) or b"", TOKENIZER) or {}).get(token) if token else None
    config = settings_of(reader(base), _CONFIG)
    if GENERATION not in files:  # transformers takes these from `config.json` only where the file is missing
        generation = {key: config[key] for key in ("bos_token_id", "pad_token_id") if key in config}
    ends = generation.get("eos_token_id")
    ends = config.get("eos_token_id") if ends is None else ends
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return None if end is None or end in ends else {**generation, "eos_token_id": [end, *ends]}


def token_ids(data: bytes, name: str) -> Mapping[str, int] | None:
    """Return the ids of a tokenizer's tokens, or None where the file is of a form that is not known."""
    try:
        return _ids(parse_json(data, name, most=MOST_VALUES), name)
    except (StorageError, AttributeError, TypeError, ValueError, LookupError):
        return None


def _ids(document: Any, name: str) -> Mapping[str, int]:
    if name == SETTINGS:
        added = (document.get("added_tokens_decoder") or {}).items()
        return {str(token["content"]): int(number[:_DIGITS]) for number, token in added}
    ids = document if name == ADDED else document["model"]["vocab"]
    if name == TOKENIZER:
        if isinstance(ids, list):  # Unigram: pairs of token and score, numbered as they come
            ids = {str(pair[0]): number for number, pair in enumerate(ids)}
        ids = ids | {str(token["content"]): token["id"] for token in document.get("added_tokens") or ()}
    if not all(type(number) is int and number >= 0 for number in ids.values()):
        raise TypeError("an id is not a number")
    return dict(ids)


def is_tokenizer_of_base(path: str) -> bool:
    """Tell whether a base's tokenizer is loaded from a file, in any tokenizer format."""
    return _OF_BASE.fullmatch(path) is not None or is_tokenizer_file(path)


def reader(files: Mapping[str, Path]) -> Read:
    """Return a function that reads files by name."""

    def read(name: str) -> bytes | None:
        path = files.get(name)
        return None if path is None else path.read_bytes()

    return read


def settings_of(read: Read, name: str = SETTINGS) -> Mapping[str, Any]:
    """Return the contents of a model's JSON file; empty if it cannot be read."""
    data = read(name)
    try:
        contents = parse_json(data, name, most=MOST_VALUES) if data else {}
    except StorageError:
        return {}
    return contents if isinstance(contents, dict) else {}


def templates_of(read: Read) -> dict[str, tuple[str, str]]:
    """Return the chat templates that servers use, by name, each with its file and source, in transformers' precedence."""
    templates = {
        name: (file, data.decode("utf-8", "replace"))
        for name, file in ((DEFAULT, TEMPLATE), (TOOLS, TOOLS_TEMPLATE))
        if (data := read(file)) is not None
    }
    listed = settings_of(read).get("chat_template")
    if templates or not listed:
        return templates
    if isinstance(listed, list):
        named_items = (
            item for item in listed if isinstance(item, dict) and isinstance(item.get("name"), str)
        )
        listed = {item["name"]: item.get("template") for item in named_items}
    named = listed if isinstance(listed, dict) else {DEFAULT: listed}
    return {name: (SETTINGS, named[name]) for name in (DEFAULT, TOOLS) if isinstance(named.get(name), str)}


def special_tokens(settings: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the special tokens that a template may use; a token that the settings lack is empty."""
    tokens = []
    for name in (f"{role}_token" for role in _ROLES):
        value = settings.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        tokens.append((name, text if isinstance(text, str) else ""))
    return tuple(tokens)


def differences(ours: Read, theirs: Read, *, every_key: bool = False) -> list[tuple[str, str]]:
    """Return what differs in each tokenizer file and changes text, tokens or answers; with `every_key`, all settings count."""
    # Padding, truncation and the spelling of different transformers versions do not count.
    differing = []
    one, two = ours(TOKENIZER), theirs(TOKENIZER)
    if one != two and _tokenizer(one) != _tokenizer(two):
        differing.append((TOKENIZER, "tokenizer"))
    own, other = templates_of(ours), templates_of(theirs)
    for name in dict.fromkeys([*own, *other]):
        (file, source), (their_file, their_source) = own.get(name, ("", "")), other.get(name, ("", ""))
        if source.strip() != their_source.strip():
            what = "chat template" if name == DEFAULT else f"chat template {name}"
            differing.append((file or their_file, what))
    for name, counted in ((SETTINGS, _ENCODING | _TOKENS), (GENERATION, _GENERATING)):
        differing_keys = _differing_keys(settings_of(ours, name), settings_of(theirs, name), name)
        if keys := sorted(differing_keys if every_key else differing_keys & counted):
            differing.append((name, f"keys {', '.join(keys[:_MOST_KEYS])}"))
    return differing


def _differing_keys(one: Mapping[str, Any], two: Mapping[str, Any], name: str) -> set[str]:
    # Each version of transformers omits different defaults: of most keys, both files must have one.
    differing = {
        key
        for key in one.keys() & two.keys()
        if one[key] != two[key] and key not in _SPELLED and not key.startswith(("padding", "truncation"))
    }
    if name == GENERATION:
        return differing | {key for key in _GENERATING if one.get(key) != two.get(key)}
    if "tokenizer_class" in differing:
        # But for the fast form; transformers 5 writes TokenizersBackend for any.
        classes = {str(settings["tokenizer_class"]).removesuffix("Fast") for settings in (one, two)}
        if len(classes) == 1 or "TokenizersBackend" in classes:
            differing.remove("tokenizer_class")
    tokens = set(special_tokens(one)) ^ set(special_tokens(two))
    return (differing - _TOKENS - {"pad_token"}) | {token for token, _ in tokens} - {"pad_token"}


def _tokenizer(data: bytes | None) -> Any:
    """Return the contents of a tokenizer.json, without entries that do not change token ids."""
    try:
        document = None if data is None else parse_json(data, TOKENIZER, most=MOST_VALUES)
    except StorageError:
        return data
    if not isinstance(document, dict):
        return data
    for key in ("version", "truncation", "padding"):
        document.pop(key, None)
    processor: Any = document.get("post_processor")
    kind = processor.get("type") if isinstance(processor, dict) else "ByteLevel"
    # transformers 5 writes one without tokens, and ByteLevel only changes offsets.
    if kind == "ByteLevel" or (kind == "TemplateProcessing" and not processor.get("special_tokens")):
        document.pop("post_processor", None)
    model = document.get("model")
    if isinstance(model, dict):
        # Versions of the library write a merge as one string or as two, and write or omit defaults, which are all false.
        own = {key: value for key, value in model.items() if value not in (None, False, "")}
        if isinstance(merges := own.get("merges"), list):
            own["merges"] = [" ".join(map(str, one)) if isinstance(one, list) else one for one in merges]
        document["model"] = own
    return document
