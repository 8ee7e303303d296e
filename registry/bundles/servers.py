"""Common parts of bundles for other servers: adapters in a form that all of them read, and names for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusery.storage.errors import StorageError
from fusery.storage.jsonfile import read_object
from fusery.storage.safetensors import build_header, read_header

from ..adapters.files import CONFIG, PEFT_WEIGHTS
from ..adapters.plain_form import OWN_SERVER
from ..adapters.trained_through import is_merge_aware
from ..documents import provenance_part
from ..errors import BadInputError
from ..models.architecture import Architecture, read_architecture
from .layout import Layout, LayoutError
from .source import BundledAdapter, BundleSource
from .writing import BundleFolder

if TYPE_CHECKING:
    from ..adapters.plain_form import PlainAdapter

_HARMLESS = re.compile(r"/?[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,198}[A-Za-z0-9])?")

_SHOWN = ("name", "task", "version", "rank", "val_loss", "dataset", "digest")


@dataclass(frozen=True, slots=True)
class Served:
    """An adapter in the form that servers compute."""

    adapter: BundledAdapter
    plain: PlainAdapter


def base_architecture(source: BundleSource) -> Architecture:
    """Return the architecture of a bundle's base or fused model."""
    if source.base is not None:
        return source.base
    if source.model is None:
        raise BadInputError(f"nothing is known of the base of {source.name}")
    return read_architecture(source.model.paths)


def served_adapters(source: BundleSource, base: Architecture) -> tuple[Served, ...]:
    """Return a bundle's adapters as servers compute them.

    Raises:
        BadInputError: one is DoRA, or changes a module that the base does not have: servers ignore that silently.
    """
    from ..adapters.plain_form import matched_modules, read_plain

    found = []
    for adapter in source.adapters:
        plain = read_plain(adapter.name, adapter.files.paths)
        matched_modules(adapter.name, plain, base)
        found.append(Served(adapter, plain))
    return tuple(found)


def require_dense(source: BundleSource, base: Architecture, server: str) -> None:
    """Refuse a model that only MLX reads.

    Raises:
        BadInputError: it is quantised as MLX does it, or mlx-lm gives its modules names of its own.
    """
    if base.written_by_mlx:
        require_shared_names(base, server)
    if not isinstance(base.config.get("architectures"), list):
        raise BadInputError(
            f"config.json of {source.name} has no architectures, which {server} finds the model's class by",
            hint='add "architectures" to the base model\'s config.json, and add it again: fusery base add',
        )
    # Check this last: a user who follows its hint must not meet another refusal.
    if is_packed(base):
        recipe = provenance_part(source.provenance, "recipe")
        raise BadInputError(
            f"{source.name} is quantised in MLX's format, which {server} does not read",
            hint=model_hint(base) if is_merge_aware(recipe) else "--precision dequantize",
        )


def is_packed(model: Architecture) -> bool:
    """Tell whether a model is quantised in MLX's format, which only MLX reads."""
    return any(weight.bits is not None for weight in model.weights.values())


def transformers_reads(model: Architecture) -> bool:
    """Tell whether transformers loads a model from its folder, with every tensor and without code from the hub."""
    from ..adapters.peft_form import names_are_shared
    from ..engine.architectures import NOT_IN_TRANSFORMERS

    named = not model.written_by_mlx or names_are_shared(model)
    return named and not is_packed(model) and model.model_type not in NOT_IN_TRANSFORMERS


def transformers_class(model: Architecture) -> str | None:
    """Return the class by which transformers loads a model from its folder; None where it does not load it."""
    if not transformers_reads(model):
        return None
    # Only some models with a vision tower are in the other class, and all of them are in this one.
    return "AutoModelForImageTextToText" if "vision_config" in model.config else "AutoModelForCausalLM"


def model_hint(model: Architecture) -> str:
    """Return the hint to use the target `model`, with the libraries that read its files."""
    return f"--target model, which mlx-lm {'and transformers read' if transformers_reads(model) else 'reads'}"


def require_shared_names(base: Architecture, server: str) -> None:
    """Refuse a model whose modules have other names here than in transformers.

    Raises:
        BadInputError: mlx-lm renames them.
    """
    from ..adapters.peft_form import names_are_shared

    if not names_are_shared(base):
        raise BadInputError(
            f"mlx-lm gives the modules of {base.model_type[:40]!r} other names than {server} does",
            hint=OWN_SERVER,
        )


@dataclass(frozen=True, slots=True)
class NamedBase:
    """The name of the adapters' base for servers that bring the base themselves.

    Attributes:
        name: any text; a hub id, if it came from a hub.
        found: a server that is started with the name finds the model: it is on the hub, or the user gave it.
        revision: the hub's commit, if it is known.
    """

    name: str
    found: bool
    revision: str | None = None

    @property
    def word(self) -> str | None:
        """The name, if a command may have it in it."""
        return harmless(self.name) if self.found else None

    @property
    def known_as(self) -> str | None:
        """The name, if requests and sentences in a script may have it in them."""
        return harmless(self.name)


def named_base(source: BundleSource, base: Architecture, given: str | None, server: str) -> NamedBase:
    """Return the name of the base for servers that bring the base themselves.

    Args:
        source: the bundle's.
        base: its architecture.
        given: the name that the user gave.
        server: which reads it, for the error.

    Raises:
        BadInputError: only MLX can read the base, and the model that it was made from is not known.
    """
    if given:
        return NamedBase(given, found=True)
    if is_packed(base):
        raise BadInputError(
            f"the adapters' base is quantised in MLX's format, which {server} does not read",
            hint="--base-name NAME: the model that it was quantised from, as the server is started with it",
        )
    known = provenance_part(source.provenance, "base")
    hub, revision = known.get("hub_id"), known.get("revision")
    if isinstance(hub, str) and harmless(hub):
        commit = harmless(revision) if isinstance(revision, str) else None
        return NamedBase(hub, found=True, revision=commit)
    return NamedBase(str(known.get("name") or "base"), found=False)


def unfound_base(source: BundleSource, given: str | None) -> str | None:
    """Return the name of the base that adapters were written for, if no server finds a model by it; else None.

    Args:
        source: the bundle's, which `named_base` takes.
        given: the name that the user gave.
    """
    if not source.adapters:
        return None
    named = named_base(source, base_architecture(source), given, "a server")
    return None if named.found else named.name


def harmless(text: str) -> str | None:
    """Return a name if it is one wherever it stands, in a command, in a URL or in a file; else None."""
    return text if _HARMLESS.fullmatch(text) and ".." not in text else None


def write_peft(bundle: BundleFolder, served: Served, base: str, *, under: str | None = None) -> None:
    """Write an adapter's folder with the two files of PEFT's form.

    Args:
        bundle: the folder.
        served: the adapter.
        base: the base's name for the server.
        under: the folder within the bundle, with a slash at its end, or nothing; None for `adapters/NAME/`.
    """
    from ..documents import document_bytes

    folder = f"adapters/{served.adapter.name}/" if under is None else under
    bundle.write(f"{folder}{CONFIG}", document_bytes(served.plain.config(base)))
    tensors = list(served.plain.tensors())
    header = build_header([(name, each.dtype, each.bits.shape) for name, each in tensors], {"format": "pt"})
    with bundle.create(f"{folder}{PEFT_WEIGHTS}") as file:
        file.write(header)
        for _, each in tensors:
            file.write(np.ascontiguousarray(each.bits).tobytes())


def written_adapters(record: dict[str, Any], bundle: BundleFolder) -> dict[str, Any]:
    """Return a bundle's record with the adapters' files as they were written: their form is not the registered one.

    Args:
        record: from `bundle_record`.
        bundle: with each adapter in it, as the folder `adapters/NAME/` or as the file `adapters/NAME.gguf`.
    """
    entries = list(bundle.manifest())
    adapters = []
    for adapter in record["adapters"]:
        stem = f"adapters/{adapter['name']}"
        inside = [entry for entry in entries if entry.path.startswith(f"{stem}/")]
        found = inside or [entry for entry in entries if entry.path == f"{stem}.gguf"]
        place = stem if inside else "adapters"
        files = [{**entry.to_dict(), "path": entry.path.removeprefix(f"{place}/")} for entry in found]
        adapters.append({**adapter, "path": place, "files": files})
    return {**record, "adapters": adapters}


def peft_layout(folder: Path) -> Layout:
    """Read a folder of adapters in PEFT's form, as servers do: a folder for each, named after it.

    Raises:
        LayoutError: an adapter has no effect, or another than its configuration says.
    """
    from ..adapters.peft_folder import sort_tensors

    modules = adapters = 0
    try:
        for place in sorted(folder.iterdir()):
            config, header = read_object(place / CONFIG), read_header(place / PEFT_WEIGHTS)
            found, whole, remarks = sort_tensors(header)
            if config.get("peft_type") != "LORA" or not config.get("base_model_name_or_path"):
                raise LayoutError(
                    f"{CONFIG} of {place.name} is not that of a LoRA for a base that has a name"
                )
            if whole or remarks or not found:
                raise LayoutError(
                    f"{PEFT_WEIGHTS} of {place.name} holds no tensors that a server knows, or others"
                )
            if any(
                each.a is None or each.b is None or each.rank != config.get("r") for each in found.values()
            ):
                raise LayoutError(
                    f"{place.name} has a module without both factors, or of another rank than r"
                )
            modules, adapters = modules + len(found), adapters + 1
    except StorageError as error:
        raise LayoutError(f"the bundle's adapters cannot be read: {error.message}") from error
    return Layout(modules=modules, adapters=adapters)


def facts_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a README says of the adapters; unknown values are None."""
    known = [adapter["facts"] for adapter in record["adapters"]]
    return [{key: facts.get(key) for key in _SHOWN} for facts in known]
