"""The targets of bundles."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from ..adapters.render import Form
from ..errors import BadInputError

if TYPE_CHECKING:
    from .choices import Choices
    from .layout import Layout
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

    Attributes:
        name: for `--target`.
        module: in `targets`.
        contents: what it can hold; the first is the default.
        form: of the adapters that are not fused.
        base: bundles of adapters include their base.
        single: the bundle is one file.
        names_base: its server is given the location of the base at start.
        whole: who reads its adapters takes whole tensors beside the factors.
        located: its files say where it will be found.
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
        """Fill a folder."""
        self._module().write(source, bundle, choices)

    def check(self, folder: Path) -> Layout:
        """Read what was written as its consumer would."""
        return self._module().check(folder)

    def _module(self) -> _Writer:
        return cast("_Writer", import_module(f".targets.{self.module}", __package__))


_ALL = (
    Target("model", "model"),
    Target("archive", "archive", single=True),
    Target("docker", "docker"),
    Target("adapters", "adapters", ("adapters",)),
    Target("vllm", "vllm", ("adapters", "fused"), form="peft", base=False, names_base=True),
    Target("k8s", "k8s", ("adapters",), form="peft", base=False, located=True),
    Target("lorax", "lorax", ("adapters",), form="peft", base=False, names_base=True),
    Target("ollama", "ollama", ("fused", "adapters"), form="peft"),
    Target("llamacpp", "llamacpp", ("adapters", "fused"), form="peft"),
    Target("gguf", "gguf"),
    Target("onnx", "onnx"),
    Target("oci", "oci"),
    Target("hub", "hub", ("fused", "adapters"), form="peft", base=False, whole=True),
)
TARGETS = {target.name: target for target in _ALL}
"""The targets by name."""


def find_target(name: str) -> Target:
    """Return a target by its name.

    Raises:
        BadInputError: there is none.
    """
    found = TARGETS.get(name)
    if found is None:
        raise BadInputError(f"there is no target {name[:40]!r}", hint=f"--target {'|'.join(TARGETS)}")
    return found
