"""Make the page of architectures from the installed mlx-lm: how a base of each `model_type` reaches a fuse.

`python docs/make_architectures.py` writes it; with `--check` it only says whether it is up to date.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from fusery.registry.engine.architectures import CHANGED_BY_LOADING, architecture_of

PAGE = Path(__file__).resolve().parent / "reference" / "architectures.md"
NOTE = "<!-- Made by docs/make_architectures.py from the code and the installed mlx-lm; do not edit. -->\n"
TEXT = """# Architectures

How the tensors of a base reach a fuse, for each of the {count} values of `model_type` in `config.json` that
mlx-lm {version} knows ({modules} classes of models):

- **by name**: the names of the tensors on disk are those of the modules, so the files are read as they are. mlx and
  mlx-lm are not needed, no tensor is held whole, and the digest of the result is the same on every platform.
- **by class**: mlx-lm's own class of the model says which tensor is which; fusery asks it without reading weights.
  Tensors that are only renamed are read in place from the base's files. Tensors that must be computed (experts put together,
  projections split, convolutions transposed, fp8 unpacked) are written to a temporary file once, piece by piece, and the
  fuse reads them from there. This needs the extra `mlx`, and room on disk for the computed tensors. Their bits
  hold within one version of mlx-lm and MLX on one platform, which the record of the fuse names.
- **refused**: mlx-lm cannot load it, or adapts it in a way that cannot be repeated here. The reason is said before
  anything is written.

A base that mlx-lm wrote itself (`mlx_lm.convert`, `mlx_lm.fuse`, so most of the hub's `mlx-community`) has gone
through the class already, and its tensors have the names of the modules whatever the architecture. The class is still
asked where names do not decide: which layers an adapter was meant to adapt when it has no tensors for
some of them, or how a layer is quantised. A base quantised by another tool (AWQ, GPTQ, fp8, mxfp4 of gpt-oss,
compressed-tensors, ModelOpt, BitNet) always goes by class, except NVFP4 of ModelOpt, which is read by name. A base that brings its own code (`model_file`) is refused.

The last column says how the class changes the tensors of a base from the hub, as far as the source of its
`sanitize` shows it.

| `model_type` | class of | as on the hub | written by mlx-lm | what loading does |
| --- | --- | --- | --- | --- |
"""
BY_NAME, BY_CLASS, REFUSED = "by name", "by class", "refused"

MARKS = {
    "puts experts together": r"mx\.stack\((?!bad)",
    "joins or splits": r"mx\.split|mx\.concatenate|\.split\([\[\w]+, axis|mx\.contiguous\(\s*\w+\[",
    "transposes or reshapes": r"transpose\(|swapaxes\(|moveaxis\(|\breshape\(|\bsqueeze\(|\.flatten\(|\.view\(|\w\.T\b",
    "changes numbers": r"from_fp8|dequant|linalg|\+ 1(\.0)?\b|\w \*= |-8 \* |\.astype\(|mx\.exp|mx\.quantize",
    "renames": r"\.replace\(|removeprefix\(|re\.sub|\"(language_)?model\.\" \+|f\"(language_)?model\.\{(?!l\}|i\})",
    "drops": r"(?<!self)\.pop\([^)]*None|not in k\b|not in name\b|\bcontinue\b|\bdel weights|to_remove|if not k\.|k: v for",
}
"""What is done to tensors, by what is looked for in the source of `sanitize`."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    model_type: str
    target: str
    hub: str
    mlx: str
    changes: str

    def __str__(self) -> str:
        return f"| `{self.model_type}` | {self.target} | {self.hub} | {self.mlx} | {self.changes} |"


def modules() -> Iterator[tuple[str, ModuleType | None]]:
    """Yield every module of mlx-lm that holds a model, None where it cannot be imported."""
    from mlx_lm import models

    for found in pkgutil.iter_modules(models.__path__):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                module = importlib.import_module(f"mlx_lm.models.{found.name}")
        except (ImportError, SystemExit):
            yield found.name, None
            continue
        if hasattr(module, "Model") and hasattr(module, "ModelArgs"):
            yield found.name, module


def sanitize_source(owner: Any, seen: frozenset[Any] = frozenset()) -> str:
    """Return the source of a class's `sanitize`, with those of the classes that it hands the tensors on to."""
    method = getattr(owner, "sanitize", None)
    if method is None or owner in seen:
        return ""
    source = inspect.getsource(method)
    home = vars(sys.modules[method.__module__])
    for part in re.findall(r"self\.([\w.]+)\.sanitize\(", source):
        attribute = part.rpartition(".")[2]
        for made in re.findall(rf"self\.{attribute} = ([\w.]+)\(", inspect.getsource(owner)):
            source += sanitize_source(resolve(home, made), seen | {owner})
    for handed in re.findall(r"\b([A-Z]\w+)\.sanitize\(self\b", source):
        source += sanitize_source(resolve(home, handed), seen | {owner})
    if "super().sanitize(" in source:
        for parent in owner.__mro__[1:]:
            source += sanitize_source(parent, seen | {owner})
    return source


def resolve(names: dict[str, Any], dotted: str) -> Any:
    """Return what a dotted name in the source of a module means, None if it means nothing there."""
    first, *rest = dotted.split(".")
    name = names.get(first)
    for part in rest:
        name = getattr(name, part, None)
    return name


def changes(module: ModuleType) -> str:
    """Say in words what the class of a module does to the tensors of a base."""
    source = sanitize_source(module.Model)
    if not source:
        return "nothing"
    return ", ".join(word for word, mark in MARKS.items() if re.search(mark, source)) or "nothing"


def row(model_type: str, target: str, module: ModuleType | None) -> Row:
    """Return the line of a `model_type`."""
    if module is None:
        return Row(model_type, target, REFUSED, REFUSED, "needs a package that mlx-lm does not bring")
    source = inspect.getsource(module)
    if "def to_lora(" in source:
        return Row(model_type, target, REFUSED, REFUSED, "has layers that are adapted in a way of their own")
    hub = BY_NAME if architecture_of(model_type) and model_type not in CHANGED_BY_LOADING else BY_CLASS
    mlx = BY_CLASS if model_type in CHANGED_BY_LOADING else BY_NAME
    return Row(model_type, target, hub, mlx, changes(module))


def page() -> str:
    """Return the page."""
    from mlx_lm.utils import MODEL_REMAPPING

    found = dict(modules())
    rows = [row(name, "", module) for name, module in found.items()]
    rows += [row(name, f"`{target}`", found[target]) for name, target in MODEL_REMAPPING.items()]
    lines = [str(line) for line in sorted(rows, key=lambda line: line.model_type.lower())]
    text = TEXT.format(count=len(rows), modules=len(found), version=version("mlx-lm"))
    return "\n".join([NOTE, text + "\n".join(lines), "", summary(rows), ""])


def summary(rows: list[Row]) -> str:
    """Count the paths."""
    parts = []
    for title, paths in (
        ("as on the hub", [r.hub for r in rows]),
        ("written by mlx-lm", [r.mlx for r in rows]),
    ):
        counts = ", ".join(f"{paths.count(path)} {path}" for path in (BY_NAME, BY_CLASS, REFUSED))
        parts.append(f"{title}: {counts}")
    return f"In all, {'; '.join(parts)}."


def main() -> int:
    """Write the page, or say that it is out of date."""
    text = page()
    current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
    if "--check" in sys.argv[1:]:
        if not current:
            click.echo("docs/reference/architectures.md is out of date; run: make docs", err=True)
        return 0 if current else 1
    if not current:
        PAGE.write_text(text, encoding="utf-8")
        click.echo("wrote docs/reference/architectures.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
