"""What the registry has, to be compared with: the index of tensors, filled as far as it is needed, and the bytes behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import Digest
from fusery.storage.errors import FuseryError

from ..inspection.views import (
    NUMBERS,
    View,
    exact_digest,
    header_digest,
    loose_digest,
    loose_of,
    named_digest,
    read_views,
    values,
)
from .by_files import recorded_files
from .hashing import Hasher
from .index import HEADER, Entry, Index
from .owners import Owner
from .recorded_files import NotHereError, configuration, open_files

if TYPE_CHECKING:
    import numpy as np

    from ..engine.base import Base
    from ..gguf.write_numbers import Numbers
    from ..workspace import Workspace

    Array = np.ndarray[Any, Any]

CASTS = {"F32": "F32", "F16": "F16", "BF16": "BF16", "ggml:8": "Q8_0"}
"""Formats that numbers on record can be turned into, to see whether that is what was found; by the dtype of a view."""


class Library:
    """Things on record, opened when they are first compared with, and held until this is closed.

    Args:
        workspace: the registry's parts.
        hasher: what hashes.
        scratch: gives a folder for what has to be fetched, when it is first needed.
        say: called with what is read, and what cannot be.
        fresh: take nothing from the index.
    """

    def __init__(
        self,
        workspace: Workspace,
        hasher: Hasher,
        scratch: Callable[[], Path],
        say: Callable[[str], None],
        *,
        fresh: bool,
    ) -> None:
        self.index = Index(workspace, fresh=fresh)
        self.missing: dict[int, str] = {}
        self._workspace, self._hasher, self._scratch, self.say = workspace, hasher, scratch, say
        self._held = ExitStack()
        self._files: dict[int, dict[str, Path]] = {}
        self._bases: dict[int, Base | None] = {}
        self._views: dict[int, dict[str, View]] = {}

    def close(self) -> None:
        """Let go of everything."""
        self._held.close()

    def files(self, owner: Owner) -> dict[str, Path] | None:
        """Return where a thing's files are, None if they are nowhere; `missing` then says why."""
        if owner.manifest not in self._files and owner.manifest not in self.missing:
            try:
                held = open_files(self._workspace, owner, self._scratch())
                self._files[owner.manifest] = self._held.enter_context(held)
            except NotHereError as error:
                self.missing[owner.manifest] = str(error)
        return self._files.get(owner.manifest)

    def learn(self, owner: Owner) -> bool:
        """Put a thing's tensors into the index, having seen that its files are what is on record; tell whether that was possible."""
        files = self.files(owner)
        if files is None:
            return False
        weights = {path: file for path, file in files.items() if path.endswith(".safetensors")}
        try:
            whole = {path: self._hasher.file(file) for path, file in weights.items()}
            views = self._hasher.exact(self._tensors(owner).values())
            entries = {view.name: Entry(future.result()) for view, future in views.items()}
            digests = {path: future.result() for path, future in whole.items()}
            recorded = recorded_files(self._workspace, owner.manifest)
            if any(recorded.get(path) != digest for path, digest in digests.items()):
                return self._give_up(owner, "its files are damaged")
            entries |= {HEADER + path: _header(file) for path, file in weights.items()}
        except (FuseryError, OSError) as error:
            return self._give_up(owner, str(error))
        self.index.keep(owner.manifest, entries)
        return True

    def round(self, owner: Owner, names: Collection[str] | None = None) -> None:
        """Add the loose digests of a thing's tensors to the index, of all or of some, as far as they are not there.

        Where the bytes are nowhere, nothing is added.
        """
        known = self.index.entries(owner.manifest)
        wanted = {
            name
            for name, entry in known.items()
            if entry.loose is None and (names is None or name in names) and not name.startswith(HEADER)
        }
        if not wanted or self.files(owner) is None:
            return
        try:
            views = [view for name, view in self._tensors(owner).items() if name in wanted]
            found = self._hasher.all(lambda view: self._rounded(owner, view), views)
        except (FuseryError, OSError) as error:
            self._give_up(owner, str(error))
            return
        self.index.keep(
            owner.manifest,
            {
                view.name: Entry(exact, loose)
                for view, (exact, loose) in zip(views, found, strict=True)
                if exact == known[view.name].digest
            },
        )

    def cast(self, owner: Owner, name: str, dtype: str) -> Digest | None:
        """Return the digest that a tensor has once its numbers are turned into another dtype; None where that cannot be told."""
        kind = CASTS.get(dtype)
        if kind is None or self.files(owner) is None:
            return None
        try:
            view = self._tensors(owner).get(name)
            if view is None:
                return None
            numbers = self._numbers(owner, name)
            if numbers is not None:
                return _digest(dtype, numbers.shape, numbers.blocks(kind))
            if view.dtype not in NUMBERS:
                return None
            return _digest(dtype, view.shape, _transposed(view, kind))
        except (FuseryError, OSError, ImportError):
            return None

    def numbers(self, owner: Owner, name: str, rows: int) -> Array | None:
        """Return the first rows of a tensor, unpacked, as float32; None where there is no such tensor, or it cannot be read."""
        import numpy as np

        if self.files(owner) is None:
            return None
        try:
            view = self._tensors(owner).get(name)
            if view is None or not view.is_matrix:
                return None
            packed = self._numbers(owner, name)
            if packed is None and view.dtype not in NUMBERS:
                return None
            width = (packed.shape if packed is not None else view.shape)[-1]
            found, wanted = [], rows * width
            for block in _plain(packed) if packed is not None else values(view):
                found.append(np.asarray(block, np.float32).reshape(-1))
                wanted -= found[-1].size
                if wanted <= 0:
                    break
            whole = np.concatenate(found)
            return whole[: len(whole) // width * width].reshape(-1, width)[:rows]
        except (FuseryError, OSError, ImportError) as error:
            self._give_up(owner, str(error))
            return None

    def _tensors(self, owner: Owner) -> dict[str, View]:
        if owner.manifest not in self._views:
            files = self._files[owner.manifest]
            found: dict[str, View] = {}
            for path in sorted(files):
                if path.endswith(".safetensors"):
                    for view in read_views(files[path]):
                        found.setdefault(view.name, view)
            self._views[owner.manifest] = found
        return self._views[owner.manifest]

    def _rounded(self, owner: Owner, view: View) -> tuple[Digest, Digest]:
        exact = exact_digest(view)
        if view.name.endswith(".weight") and (numbers := self._numbers(owner, view.name)) is not None:
            return exact, loose_of(numbers.shape, _plain(numbers))
        return exact, loose_digest(view, self._hasher.told) or exact

    def _numbers(self, owner: Owner, name: str) -> Numbers | None:
        """Return the numbers of a packed weight, None of one that is not packed."""
        module, _, part = name.rpartition(".")
        if part != "weight" or f"{module}.scales" not in self._tensors(owner):
            return None
        from ..gguf.write_numbers import numbers_of

        base = self._base(owner)
        if base is None or name not in base.tensors:
            return None
        return numbers_of(base, name)

    def _base(self, owner: Owner) -> Base | None:
        if owner.manifest not in self._bases:
            from ..engine.base import read_base

            files = self._files[owner.manifest]
            config = configuration(files)
            try:
                self._bases[owner.manifest] = read_base(files, config) if config else None
            except FuseryError:
                self._bases[owner.manifest] = None
        return self._bases[owner.manifest]

    def _give_up(self, owner: Owner, why: str) -> bool:
        self._files.pop(owner.manifest, None)
        self.missing[owner.manifest] = why
        self.say(f"{owner.title} cannot be compared with: {why}")
        return False


def _header(file: Path) -> Entry:
    from fusery.storage.safetensors import BASE_HEADER_LIMIT, read_header

    digest = header_digest(file, read_header(file, limit=BASE_HEADER_LIMIT).data_start)
    return Entry(digest, digest)


def _digest(dtype: str, shape: tuple[int, ...], blocks: Iterator[bytes]) -> Digest:
    running = hashlib.sha256()
    for block in blocks:
        running.update(block)
    return named_digest(dtype, shape, running.hexdigest())


def _plain(numbers: Numbers) -> Iterator[Any]:
    """Yield the numbers of a packed weight, as MLX unpacks them."""
    import numpy as np

    from ..engine.arithmetic import decode

    for block in numbers.blocks(numbers.form.name):
        yield decode(np.frombuffer(block, numbers.form.stored), numbers.form)


def _transposed(view: View, kind: str) -> Iterator[bytes]:
    """Yield a plain tensor's numbers in another format."""
    import numpy as np

    from ..engine.arithmetic import FORMATS, encode

    with np.errstate(over="ignore", invalid="ignore"):
        for block in values(view):
            plain = block.astype(np.float32)
            if kind == "Q8_0":
                from gguf import GGMLQuantizationType
                from gguf.quants import quantize

                # As one row: gguf goes by sixteen rows, and the groups of 32 are the same ones.
                yield quantize(plain.reshape(1, -1), GGMLQuantizationType.Q8_0).tobytes()
            else:
                yield encode(plain, FORMATS[kind]).tobytes()
