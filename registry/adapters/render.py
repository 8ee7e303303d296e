"""One form of an adapter from the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from fusery.storage.digest import Digest
from fusery.storage.errors import FormatError, FuseryError
from fusery.storage.manifest import Manifest, manifest_of

from . import CONFIG, PEFT_WEIGHTS, WEIGHTS

if TYPE_CHECKING:
    from ..models.architecture import Architecture

Form = Literal["mlx", "peft"]  # A form of an adapter
FORMS: tuple[Form, ...] = get_args(Form)
# The files of each form, besides what people write by hand.
FORM_FILES: Mapping[Form, tuple[str, str]] = {"mlx": (WEIGHTS, CONFIG), "peft": (PEFT_WEIGHTS, CONFIG)}


def form_of(names: Iterable[str]) -> Form:
    """Tell the form of an adapter from the names of its files."""
    file_names = set(names)
    return "peft" if PEFT_WEIGHTS in file_names and WEIGHTS not in file_names else "mlx"


def render(
    form: Form, files: Mapping[str, Path], base: Architecture, folder: Path, *, expected: Digest | None = None
) -> dict[str, Path]:
    """Return the files of an adapter in a form; those that are not its own are computed into a folder."""
    if form_of(files) == form:
        if form == "peft":
            return dict(files)
        from .mlx_config import for_todays_mlx

        return for_todays_mlx(files, folder)
    folder.mkdir(parents=True, exist_ok=True)
    if form == "peft":
        from .peft_form import write_peft

        write_peft(files, base, folder)
    else:
        from .mlx_form import plan_mlx, write_mlx
        from .patterns import PatternError
        from .reading import put_on_base, read_peft

        peft = read_peft(files)
        if peft.config is None or peft.header is None:
            raise FormatError(f"{PEFT_WEIGHTS} is not an adapter that can be read")
        try:
            plan = plan_mlx(peft.config, put_on_base(peft.config, peft, base))
            write_mlx(files[PEFT_WEIGHTS], plan, folder)
        except PatternError as error:
            raise FormatError(f"{CONFIG} holds {error}") from error
    rendered = {name: folder / name for name in FORM_FILES[form]}
    if expected is not None and manifest_of(rendered).digest != expected:
        # The same adapter must be the same bytes for ever.
        hint = "use the version of fusery that recorded it, and report this"
        raise FormatError("the adapter's other form came out differently from what is recorded", hint=hint)
    return {**{name: path for name, path in files.items() if name not in (WEIGHTS, PEFT_WEIGHTS)}, **rendered}


def other_forms(
    files: Mapping[str, Path], base: Architecture, forms: Iterable[str], scratch: Path
) -> Iterator[tuple[Form, Manifest]]:
    """Yield those forms of an adapter that can be computed from its files, with their manifests."""
    wanted, own = set(forms), form_of(files)
    for form in FORMS:
        if form == own or form not in wanted:
            continue
        try:
            rendered = render(form, files, base, scratch / form)
        except FuseryError:
            continue  # it has no such form, whatever is claimed
        yield form, manifest_of({name: rendered[name] for name in FORM_FILES[form]})
