"""The target `llamacpp`: the base as one GGUF file and each adapter as another, for `--lora`; or a fused model.

llama-server does not map a model's name to an adapter of `--lora`: it applies all of them to each request, also with
`--lora-init-without-apply` (builds of 2026).  Its router goes by the name: it starts a server for each section of an INI file
(`--models-preset`, ggml-org/llama.cpp#17859).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fusery.registry.bundles.source import BundleSource, Choices
from fusery.registry.bundles.target import Layout
from fusery.registry.bundles.writing import BundleFolder, bundle_record
from fusery.registry.documents import provenance_part

from ..common import facts_of, finish, harmless, render, written_adapters
from .bundles import BASE, gguf_layout, write_base_and_adapters
from .bundles import write as write_fused

MODELS = "models.ini"


def write(source: BundleSource, bundle: BundleFolder, choices: Choices) -> None:
    """Write `base.gguf`, `adapters/`, `models.ini` and `serve.sh`, or `NAME.gguf`; README.md and fusery.json."""
    if not source.adapters:
        write_fused(source, bundle, choices, "llamacpp")
        return
    record = bundle_record(source, "llamacpp", None)
    names = write_base_and_adapters(source, bundle, record, choices.gguf_type)
    record = written_adapters(record, bundle)
    base_name = provenance_part(record["provenance"], "base").get("name")
    base = served_name(base_name if isinstance(base_name, str) else "", names)
    bundle.write(MODELS, models_ini(base, names))
    values: dict[str, object] = {"name": source.name, "file": BASE, "base": base, "names": names}
    bundle.write("serve.sh", render("llamacpp_serve.sh.j2", models=MODELS, **values))
    finish(bundle, record, "llamacpp_readme.md.j2", adapters=facts_of(record), lineage=[], **values)


def served_name(base: str, adapters: Iterable[str]) -> str:
    """Return the base model's name in requests: its own, unless it needs quoting or is an adapter's or llama.cpp's."""
    taken = {"default", *(name.casefold() for name in adapters)}
    candidates = (harmless(base), "base", *(f"base-{number}" for number in range(len(taken) + 1)))
    return next(name for name in candidates if name and name.casefold() not in taken)


def models_ini(base: str, adapters: Iterable[str]) -> bytes:
    """Return the INI file of llama-server's router: a section for each model that a request may name."""
    # No key is outside of sections: some builds make a model of it.
    sections = [f"[{base}]\nmodel = {BASE}\n"]
    sections += [f"[{name}]\nmodel = {BASE}\nlora = adapters/{name}.gguf\n" for name in adapters]
    return "\n".join(sections).encode("ascii")


def check(folder: Path) -> Layout:
    """Read the headers of the files."""
    # Beside the adapters there is one file: the base, or a fused model.
    (path,) = folder.glob("*.gguf")
    return gguf_layout(path, sorted((folder / "adapters").glob("*.gguf")))
