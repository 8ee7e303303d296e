"""The targets of bundles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast, get_args

from fusery.storage.plugins import Plugin, blaming, find_plugin, load_plugin, plugins

from ..adapters.render import Form
from ..errors import BadInputError
from .layout import Layout, LayoutError

if TYPE_CHECKING:
    from .choices import Choices
    from .source import BundleSource
    from .writing import BundleFolder

Content = Literal["fused", "adapters"]
"""What a bundle holds: one model with the adapters in its weights, or adapters beside their base."""


class _Writer(Protocol):
    """The module of a target."""

    def write(self, source: BundleSource, bundle: BundleFolder, choices: Choices) -> None: ...

    def check(self, folder: Path) -> Layout: ...


@dataclass(frozen=True, slots=True)
class Target:
    """A consumer of bundles, and the module that writes them.

    The module has two functions: `write(source, bundle, choices)` fills a folder, and `check(folder)` reads it again as
    the consumer would, counts what that finds, and raises `LayoutError` where it would find something else.

    A plugin has one of these for each target that it adds (docs/guides/plugins.md).

    Attributes:
        name: for `--target`.
        module: its full name; with a dot before it, within this package.
        contents: what it can hold; the first is the default.
        form: of the adapters that are not fused.
        base: bundles of adapters include their base.
        single: the bundle is one file, an archive, whose name says how it is compressed.
        names_base: its server is given the location of the base at start.
        whole: who reads its adapters takes whole tensors beside the factors.
        located: its files say where it will be found.
        plugin: that brings it; None for one of fusery's own.
        tokenizer: its bundles of adapters include the tokenizer that these need instead of the base's.
    """

    name: str
    module: str
    contents: tuple[Content, ...] = ("fused",)
    form: Form = "mlx"
    base: bool = True
    single: bool = False
    names_base: bool = False
    whole: bool = False
    located: bool = False
    plugin: Plugin | None = None
    tokenizer: bool = False

    def content(self, wanted: Content | None, adapters: int) -> Content:
        """Return what a bundle will hold.

        Args:
            wanted: the requested content; None for the default.
            adapters: how many there will be.

        Raises:
            BadInputError: the target does not hold that.
        """
        chosen = wanted or self.contents[0]
        if chosen not in self.contents:
            other = "--unfused" if chosen == "adapters" else "--fused"
            raise BadInputError(f"the target {self.name} takes no {other}", hint=f"leave out {other}")
        if chosen == "fused" and adapters > 1:
            raise BadInputError(
                f"the target {self.name} holds one fused model, and {adapters} adapters were given",
                hint="--target adapters, or --with for the sum of several",
            )
        return chosen

    def write(self, source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
        """Fill a folder.

        Raises:
            PluginError: a plugin did not.
        """
        module = self._module()
        with blaming(self.plugin):
            module.write(source, bundle, choices)

    def check(self, folder: Path) -> Layout:
        """Read what was written as its consumer would.

        Raises:
            LayoutError: it would find something else than is meant.
            PluginError: a plugin did not.
        """
        module = self._module()
        if self.plugin is None:
            # A file that has to be there is not, or is another one than it should be.
            try:
                return module.check(folder)
            except (FileNotFoundError, ValueError) as error:
                raise LayoutError(f"the bundle for {self.name} lacks what belongs in it") from error
        with blaming(self.plugin):
            found: object = module.check(folder)
            if not isinstance(found, Layout):
                raise self.plugin.wrong("returns no Layout from check(folder)")
        return found

    def require(self) -> None:
        """Import the module.

        Raises:
            PluginError: a plugin's cannot be imported, or is no target's.
        """
        self._module()

    def _module(self) -> _Writer:
        with blaming(self.plugin, "cannot be imported"):
            module = import_module(self.module, __package__)
        if self.plugin is not None and not all(callable(getattr(module, each, None)) for each in _FUNCTIONS):
            raise self.plugin.wrong(f"has no functions write and check in {self.module}")
        return cast("_Writer", module)


_FUNCTIONS = ("write", "check")
_ALL = (
    Target("model", ".targets.model"),
    Target("archive", ".targets.archive", single=True),
    Target("docker", ".targets.docker"),
    Target("adapters", ".targets.adapters", ("adapters",), tokenizer=True),
    Target(
        "vllm",
        ".targets.vllm",
        ("adapters", "fused"),
        form="peft",
        base=False,
        names_base=True,
        tokenizer=True,
    ),
    Target("k8s", ".targets.k8s", ("adapters",), form="peft", base=False, located=True),
    Target("lorax", ".targets.lorax", ("adapters",), form="peft", base=False, names_base=True),
    Target("ollama", ".targets.ollama", ("fused", "adapters"), form="peft"),
    Target("llamacpp", ".targets.llamacpp", ("adapters", "fused"), form="peft"),
    Target("gguf", ".targets.gguf"),
    Target("onnx", ".targets.onnx"),
    Target("oci", ".targets.oci"),
    Target("hub", ".targets.hub", ("fused", "adapters"), form="peft", base=False, whole=True, tokenizer=True),
)
TARGETS = {target.name: target for target in _ALL}
"""Fusery's own targets by name."""

_GROUP: Literal["fusery.targets"] = "fusery.targets"


def find_target(name: str) -> Target:
    """Return a target by its name: one of fusery's own, or a plugin's.

    Raises:
        BadInputError: there is none.
        PluginError: there is one, and it is none that can be used.
    """
    if (own := TARGETS.get(name)) is not None:
        return own
    plugin = find_plugin(_GROUP, name)
    if plugin is None:
        raise BadInputError(f"there is no target {name[:40]!r}", hint=f"--target {'|'.join(target_names())}")
    return target_of(plugin)


def target_names() -> list[str]:
    """Return the names of all targets, fusery's own first; no plugin is imported."""
    return [*TARGETS, *dict.fromkeys(each.name for each in plugins(_GROUP) if each.name not in TARGETS)]


def target_of(plugin: Plugin) -> Target:
    """Return the target that a plugin adds.

    Raises:
        PluginError: it is none.
    """
    found = load_plugin(plugin, own=TARGETS)
    with blaming(plugin):
        if not isinstance(found, Target):
            raise plugin.wrong(f"is no Target, which {plugin.value} has to be")
        if found.name != plugin.name:
            raise plugin.wrong(f"calls itself {found.name!r}")
        if not found.contents or not set(found.contents) <= set(get_args(Content)):
            raise plugin.wrong("does not say that it holds what is fused, or adapters")
        made = replace(found, plugin=plugin)
    made.require()
    return made
