"""What a found thing may be, looked up at a server by the digests and shapes of what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from fusery.storage.jsonfile import is_keepable

from .. import tables
from ..database import events
from ..database.engine import batches
from ..errors import BadInputError
from ..records.bundles import written_bundle
from ..records.transfer import Candidates, SentBundle, Sought, SoughtTensor, SoughtUnit
from ..wire import encode
from ..workspace.workspace import Workspace
from .files import look_at
from .library import Hasher, Index
from .owners import PlausibleOwners, RecordedItem, owners_in, owners_of
from .tensors import View

_MOST = 20  # things that are fetched to be compared, for one unit of weights
_UNITS, _TENSORS, _FILES = 100, 3_000, 5_000  # most in one request


def sought(path: str | Path) -> Sought:
    """Return the digests of the files and tensors at a path."""
    look = look_at(Path(path))
    with closing(Hasher()) as hasher:
        tensors = hasher.tensors(view for unit in look.units for view in unit.views)
        digests = hasher.files(file.real for file in look.files)
        files = {file.path: str(digests[file.real]) for file in look.files}
        units = tuple(
            SoughtUnit(
                is_adapter=unit.is_adapter,
                files=tuple(files[weights.path] for weights in unit.weights),
                tensors=tuple(
                    SoughtTensor(name=view.name, shape=view.shape, digest=str(tensors[view]))
                    for view in unit.views
                ),
            )
            for unit in look.units
        )
        return Sought(files=tuple(files.values()), units=units)


def in_parts(sought: Sought) -> Iterator[Sought]:
    """Yield what was found in requests that a server takes; of a large model, some tensors are enough."""
    for start in range(0, len(sought.files) or 1, _FILES):
        yield Sought(files=sought.files[start : start + _FILES], units=())
    some: list[SoughtUnit] = []
    for unit in sought.units:
        unit = replace(unit, tensors=unit.tensors[:_TENSORS])
        if some and (len(some) == _UNITS or sum(len(u.tensors) for u in (*some, unit)) > _TENSORS):
            yield _of_units(some)
            some = []
        some.append(unit)
    if some:
        yield _of_units(some)


def _of_units(units: Sequence[SoughtUnit]) -> Sought:
    return Sought(files=tuple({digest: None for unit in units for digest in unit.files}), units=tuple(units))


def candidates(workspace: Workspace, sought: Sought) -> Candidates:
    """Return what is on record with one of the files, else with some of the tensors, else what has such shapes."""
    if len(sought.units) > _UNITS:
        problem = f"too many models and adapters in one request: {len(sought.units):,} (at most {_UNITS})"
        raise BadInputError(problem, hint="send several requests")
    if not is_keepable(encode(sought)):
        raise BadInputError("invalid characters in a digest or in the name of a tensor")
    index = Index(workspace)
    with workspace.database.read() as session:
        whole = _with_files(session, sought.files)
        owners = [owner for several in owners_of(session, list(whole)).values() for owner in several]
        bundles = [owner for owner in owners if owner.kind == "bundle"]
        owners += [inner for owner in bundles for inner in owners_in(session, owner)]
        recorded, shaped = set[str]().union(*whole.values()), PlausibleOwners(session, _MOST)
        for unit in sought.units:
            if not set(unit.files) <= recorded:
                owners += _with_tensors(session, index, shaped, unit)
        written = [_written(session, owner) for owner in bundles]
    fetched = [owner for owner in owners if owner.kind != "bundle"]
    names = [str(owner.facts["key"]) if owner.kind == "fused" else owner.name for owner in fetched]
    return Candidates(names=tuple(dict.fromkeys(names)), bundles=tuple(filter(None, written)))


def _with_files(session: Session, digests: Sequence[str]) -> dict[int, set[str]]:
    files, by_manifest = tables.ManifestFileRow, dict[int, set[str]]()
    for some in batches(sorted(set(digests))):
        query = select(files.manifest_id, files.sha256).where(files.sha256.in_(some))
        for manifest, digest in session.execute(query):
            by_manifest.setdefault(manifest, set()).add(digest)
    return by_manifest


def _with_tensors(
    session: Session, index: Index, shaped: PlausibleOwners, unit: SoughtUnit
) -> list[RecordedItem]:
    holders = index.holders([tensor.digest for tensor in unit.tensors])
    most = [manifest for manifest, _ in holders.most_common(_MOST)]
    views = [View(tensor.name, "", tensor.shape, Path(), 0, 0) for tensor in unit.tensors]
    return [
        *(owner for several in owners_of(session, most).values() for owner in several),
        *shaped.find(views, adapter=unit.is_adapter)[-_MOST:],
    ]


def _written(session: Session, owner: RecordedItem) -> SentBundle | None:
    rows = events.history(session, kind="bundle", subject=owner.digest)
    return next((bundle for row in rows if (bundle := written_bundle(session, row))), None)
