"""An engine of the model server without the server, and what it posts for each job.  Import it as `from engine_host import EngineHost`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from fusery.registry.server.engine import Engine
from fusery.registry.server.writing import Job, Piece


class EngineHost:
    """An engine that runs, and the pieces of each job.

    Attributes:
        engine: which was started.
        pieces: by job, as they came.
        some: set when a piece has come.
    """

    def __init__(self, base: Path, *, width: int = 4, prompt_cache_bytes: int = 0) -> None:
        self.pieces: dict[Job, list[Piece]] = {}
        self._ended: dict[Job, threading.Event] = {}
        self.some = threading.Event()
        self.engine = Engine(base, self._post, width=width, prompt_cache_bytes=prompt_cache_bytes)
        self.engine.start()

    def _post(self, pieces: Sequence[tuple[Job, Piece]]) -> None:
        for job, piece in pieces:
            self.pieces[job].append(piece)
            if piece.finish is not None:
                self._ended[job].set()
        self.some.set()

    def begin(self, job: Job) -> Job:
        """Submit a job, and return it."""
        self.pieces[job], self._ended[job] = [], threading.Event()
        self.engine.submit(job)
        return job

    def has_ended(self, job: Job) -> bool:
        """Tell whether the last piece of a job has come."""
        return self._ended[job].is_set()

    def finish(self, job: Job) -> str | None:
        """Wait for the end of a job, and return its reason."""
        assert self._ended[job].wait(120)
        return self.pieces[job][-1].finish

    def text(self, job: Job) -> str:
        """Wait for the end of a job, and return its text."""
        assert self.finish(job) != "error"
        return "".join(piece.text for piece in self.pieces[job])

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return list(self.engine.tokenizer.encode(text))
