"""The other forms of an adapter, computed to be compared with their records or to be recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fusery.storage.errors import FuseryError
from fusery.storage.manifest import Manifest, manifest_of

from .render import FORM_FILES, FORMS, Form, form_of, render_mlx, render_peft

if TYPE_CHECKING:
    from ..models.architecture import Architecture


def other_forms(
    files: Mapping[str, Path], base: Architecture, forms: Iterable[str], scratch: Path
) -> Iterator[tuple[Form, Manifest]]:
    """Yield those forms of an adapter that can be computed from its files, with their manifests.

    Args:
        files: the adapter's files by name.
        base: what it stands on.
        forms: which; its own is none of them, and what is no form is passed over.
        scratch: a folder for files.
    """
    wanted, own = set(forms), form_of(files)
    for form in FORMS:
        if form == own or form not in wanted:
            continue
        try:
            if form == "mlx":
                rendered = render_mlx(files, base, scratch / form)
            else:
                rendered = render_peft(files, base, scratch / form)
        except FuseryError:
            continue  # it has no such form, whatever is claimed
        yield form, manifest_of({name: rendered[name] for name in FORM_FILES[form]})
