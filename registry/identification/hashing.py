"""Digests of what was found, on two threads: each tensor's bytes are read once, and only what must be is read again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import TypeVar

from fusery.storage.copying import Progress
from fusery.storage.digest import Digest, digest_file
from fusery.storage.failures import os_failures

from ..inspection.views import View, exact_digest, loose_digest

T = TypeVar("T")
R = TypeVar("R")


class Hasher:
    """Digests that are computed in the background."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 2), "identify")
        # A whole file is hashed from its beginning to its end, and would end last if it waited for all tensors.
        self._files = ThreadPoolExecutor(1, "identify-files")
        self._lock = Lock()
        self._progress: Progress | None = None
        self._stopped = False

    def tell(self, progress: Progress | None) -> None:
        """From now on, tell somebody the bytes of each piece that was read."""
        self._progress = progress

    def exact(self, views: Iterable[View]) -> dict[View, Future[Digest]]:
        """Begin to hash tensors, the largest first so that all threads end together."""
        ordered = sorted(views, key=lambda view: -view.size)
        return {view: self._pool.submit(self._guarded, exact_digest, view) for view in ordered}

    def loose(self, views: Iterable[View]) -> dict[View, Digest | None]:
        """Return the digests of tensors' numbers as float16."""
        ordered = sorted(views, key=lambda view: -view.size)
        found = {view: self._pool.submit(self._guarded_loose, view) for view in ordered}
        return {view: future.result() for view, future in found.items()}

    def file(self, path: Path) -> Future[Digest]:
        """Begin to hash a whole file."""
        return self._files.submit(self._whole, path)

    def all(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Do something with each item, on all threads."""
        return list(self._pool.map(work, items))

    def close(self) -> None:
        """Give up what is not done."""
        self._stopped = True
        for pool in (self._pool, self._files):
            pool.shutdown(wait=True, cancel_futures=True)

    def told(self, count: int) -> None:
        """Pass on that bytes were read; from any thread, which ends here if nobody wants to know any more."""
        self._still_wanted()
        if self._progress is not None:
            with self._lock:
                self._progress(count)

    def _still_wanted(self) -> None:
        if self._stopped:
            raise CancelledError

    def _guarded(self, work: Callable[..., Digest], view: View) -> Digest:
        with os_failures(f"read {view.path}", near=view.path):
            return work(view, self.told)

    def _guarded_loose(self, view: View) -> Digest | None:
        with os_failures(f"read {view.path}", near=view.path):
            return loose_digest(view, self.told)

    def _whole(self, path: Path) -> Digest:
        with os_failures(f"read {path}", near=path):
            return digest_file(path, self._still_wanted)[0]
