"""The targets of bundles, and writing a bundle with its self-test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from fusery.storage.errors import StorageError
from fusery.storage.jsonfile import read_config, read_object
from fusery.storage.manifest import Manifest
from fusery.storage.plugins import Plugin, blaming, find_plugin, load_plugin, plugins
from fusery.storage.safetensors import read_header

from ..adapters.render import Form
from ..errors import BadInputError, RegistryError
from ..parts import has_part, part
from ..record import Record, described
from .source import BundleSource, Choices
from .writing import BundleFolder

if TYPE_CHECKING:
    from collections.abc import Mapping

Content = Literal["fused", "adapters"]
"""The content of a bundle: a fused model, or adapters beside their base model."""

INDEX = "model.safetensors.index.json"


class LayoutError(RegistryError):
    """The layout of a new bundle is invalid: a bug in fusery, found before the bundle was written."""

    code = "bad_layout"


class Layout(Record, kw_only=False):
    """Counts of a bundle's content."""

    tensors: int = described("tensors of the model", default=0)
    modules: int = described("adapted modules", default=0)
    adapters: int = described("adapters", default=0)


def model_layout(folder: Path) -> Layout:
    """Read a model's folder as mlx-lm and transformers do: configuration, index, headers."""
    try:
        config = read_config(folder / "config.json")
        paths = sorted(folder.glob("*.safetensors"))
        names_by_file = {path.name: set(read_header(path).tensors) for path in paths}
        index = read_object(folder / INDEX).get("weight_map") if (folder / INDEX).is_file() else None
    except StorageError as error:
        raise LayoutError(f"the bundle's model cannot be read: {error.message}") from error
    if not isinstance(config.get("model_type"), str):
        raise LayoutError("the bundle's config.json names no model_type")
    tensors = [name for names in names_by_file.values() for name in names]
    if not tensors or len(tensors) != len(set(tensors)):
        raise LayoutError("the bundle's model has no tensors, or one of them twice")
    if len(names_by_file) > 1 and index is None:
        raise LayoutError(f"the bundle's model is in several files without {INDEX}")
    if index is not None and index != {name: file for file, names in names_by_file.items() for name in names}:
        raise LayoutError(f"the bundle's {INDEX} does not say where its tensors are")
    return Layout(tensors=len(tensors))


@dataclass(frozen=True, slots=True)
class Target:
    """A consumer of bundles, and the module that writes them.

    The module's `write(source, bundle, choices)` fills a folder; `check(folder)` reads it as the consumer does, and returns
    counts or raises `LayoutError`.  It may have `accepts(source)`, whether it supports a fused model (default: all), and
    `unfound_base(source, given)`, the base model whose location its server needs at start (default: none).  A plugin has one
    `Target` for each that it adds (docs/guides/plugins.md).
    """

    name: str
    module: str  # its full name; with a dot before it, within this package
    contents: tuple[Content, ...] = ("fused",)  # the first is the default
    form: Form = "mlx"
    base: bool = True
    single: bool = False  # the bundle is one archive, whose suffix names the compression
    whole: bool = False  # its consumer reads whole tensors beside the factors
    located: bool = False  # its files contain its location
    plugin: Plugin | None = None
    tokenizer: bool = False  # its bundles of adapters include their own tokenizer
    service: tuple[str, str] | None = None  # its own URL scheme, and `module:class` of the place

    def content(self, wanted: Content | None, adapters: int) -> Content:
        """Return the content of a bundle."""
        chosen = wanted or self.contents[0]
        if chosen not in self.contents:
            other = "--unfused" if chosen == "adapters" else "--fused"
            raise BadInputError(f"the target {self.name} takes no {other}", hint=f"leave out {other}")
        if chosen == "fused" and adapters > 1:
            message = f"the target {self.name} holds one fused model, and {adapters} adapters were given"
            raise BadInputError(message, hint="--target adapters, or --with for the sum of several")
        return chosen

    def write(self, source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
        """Fill a folder."""
        module = self.require()
        with blaming(self.plugin):
            module.write(source, bundle, choices)

    def check(self, folder: Path) -> Layout:
        """Read the bundle as its consumer does."""
        module = self.require()
        if self.plugin is None:
            try:
                return cast("Layout", module.check(folder))
            except (OSError, ValueError, StorageError) as error:
                raise LayoutError(f"the bundle for {self.name} lacks what belongs in it: {error}") from error
        with blaming(self.plugin):
            layout: object = module.check(folder)
            if not isinstance(layout, Layout):
                raise self.plugin.wrong("returns no Layout from check(folder)")
        return layout

    def unfound_base(self, source: BundleSource, given: str | None) -> str | None:
        """Return the base model's name if the target's server needs its location at start; else None."""
        unfound: str | None = getattr(self.require(), "unfound_base", lambda *_: None)(source, given)
        return unfound

    def require(self) -> Any:
        """Import the module, and return it."""
        with blaming(self.plugin, "cannot be imported"):
            module = import_module(self.module, __package__)
        functions = [getattr(module, name, None) for name in ("write", "check")]
        if self.plugin is not None and not all(map(callable, functions)):
            raise self.plugin.wrong(f"has no functions write and check in {self.module}")
        return module


_CORE = (
    Target("model", ".targets.model"),
    Target("archive", ".targets.archive", single=True),
    Target("docker", ".targets.docker"),
    Target("adapters", ".targets.adapters", ("adapters",), tokenizer=True),
)
_GROUP: Literal["fusery.targets"] = "fusery.targets"


@cache
def own_targets() -> Mapping[str, Target]:
    """Return fusery's own targets by name: the core's, and those of `integrations` if it is installed."""
    added: tuple[Target, ...] = part("integrations:TARGETS") if has_part("integrations") else ()
    return MappingProxyType({target.name: target for target in (*_CORE, *added)})


def find_target(name: str) -> Target:
    """Return a target by its name: one of fusery's own, or a plugin's."""
    if (own := own_targets().get(name)) is not None:
        return own
    plugin = find_plugin(_GROUP, name)
    if plugin is None:
        raise BadInputError(f"unknown target {name[:40]!r}", hint=f"--target {'|'.join(target_names())}")
    return target_of(plugin)


def target_names() -> list[str]:
    """Return the names of all targets, fusery's own first; no plugin is imported."""
    return list(dict.fromkeys([*own_targets(), *(plugin.name for plugin in plugins(_GROUP))]))


def target_of(plugin: Plugin) -> Target:
    """Return the target that a plugin adds."""
    target = load_plugin(plugin, own=own_targets())
    with blaming(plugin):
        if not isinstance(target, Target):
            raise plugin.wrong(f"is no Target, which {plugin.value} has to be")
        if target.name != plugin.name:
            raise plugin.wrong(f"calls itself {target.name!r}")
        if not target.contents or not set(target.contents) <= set(get_args(Content)):
            raise plugin.wrong("has invalid contents: not fused or adapters")
        made = replace(target, plugin=plugin)
    made.require()
    return made


@dataclass(frozen=True, slots=True)
class Written:
    """A bundle in a local folder: its files, and counts of its content."""

    manifest: Manifest
    layout: Layout


def write_bundle(source: BundleSource, target: Target, folder: Path, choices: Choices) -> Written:
    """Fill an empty folder with a bundle, without anything about this machine, and read it again; equal sources give equal bytes."""
    if target.plugin is not None:
        source = replace(source, provenance={**source.provenance, "plugin": str(target.plugin)})
    source.check()
    bundle = BundleFolder(folder)
    target.write(source, bundle, choices)
    return Written(bundle.manifest(), target.check(folder))
