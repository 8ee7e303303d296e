"""The thread with the model: it loads the base model and adapters, and generates all answers, a step of each batch in turn."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..registry.runtime.errors import EngineError, sentence
from ..registry.runtime.mlx_keys import mlx_keys
from ..registry.runtime.switching import Resident, Switchboard
from .batching import Batch
from .prefixes import Prefixes
from .writing import Generation, Piece

LOG = logging.getLogger(__name__)

CONTEXT = 1 << 20  # tokens of context if a model's configuration has no limit

Post = Callable[[Sequence[tuple[Generation, Piece]]], None]


class Engine:
    """The base model and the running answers; other threads queue functions for the one that uses mlx's arrays."""

    def __init__(
        self,
        base: Path,
        post: Post,
        *,
        tokenizer: Path | None = None,
        width: int = 32,
        prompt_cache_bytes: int = 0,
    ) -> None:
        self.context, self.vocabulary = CONTEXT, 1
        self.tokenizer: Any = None
        self.prefixes = Prefixes(prompt_cache_bytes)
        self._base, self._post, self._width = base, post, width
        self._say: Callable[[str], None] = LOG.info
        self._tokenizer = tokenizer
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # By the adapter that the base model is switched to; the batch whose step is longest ago is first.
        self._batches_by_adapter: dict[Resident | None, Batch] = {}
        self._board: Any = None  # the `Switchboard` while the base model is loaded
        self._shared = False  # several owners have jobs
        self._stream: Any = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loaded: Future[None] = Future()

    @property
    def alive(self) -> bool:
        """Return whether the base is loaded and answers can be generated."""
        return self._thread.is_alive() and self._loaded.done() and self._loaded.exception() is None

    @property
    def switches(self) -> int:
        """Return how often the base model was switched to another adapter."""
        return self._board.switches if self._board else 0

    def start(self, say: Callable[[str], None] = LOG.info) -> None:
        """Load the base model and wait for it; `say` gets progress messages in the engine's thread."""
        self._say = say
        self._thread.start()
        self._loaded.result()

    def stop(self) -> None:
        """Drop all answers and the model, and wait for the thread."""
        self._inbox.put(None)
        self._thread.join()

    def load(self, name: str, folder: Path, digest: str | None = None) -> Future[Resident]:
        """Read an adapter between two steps; the future raises `AdapterError`."""
        future: Future[Resident] = Future()

        def load() -> None:
            try:
                future.set_result(self._board.load(name, folder, digest, by_row=self._width > 1))
            except Exception as error:  # noqa: BLE001 - the future raises it
                future.set_exception(error)

        if not self._thread.is_alive():
            future.set_exception(EngineError("the engine has ended"))
        else:
            self._inbox.put(load)
        return future

    def submit(self, job: Generation) -> None:
        """Begin an answer; its pieces go to `post`."""
        self._inbox.put(lambda: self._insert(job))

    def cancel(self, job: Generation) -> None:
        """Cancel an answer; no more pieces of it are posted."""
        job.cancelled = True
        self._inbox.put(lambda: self._drop(job))

    def sweep(self) -> None:
        """Drop cached prompts of removed keys and unloaded adapters."""
        self._inbox.put(self.prefixes.sweep)

    def _run(self) -> None:
        try:
            self._load_base()
        except Exception as error:  # noqa: BLE001 - a model's class may raise any type
            self._loaded.set_exception(EngineError(f"the base cannot be loaded: {sentence(error)}"))
            return
        else:
            self._loaded.set_result(None)
            while self._serve_inbox():
                for resident in self._due():
                    self._step(resident)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Release mlx's resources in the thread that has them; otherwise the interpreter aborts at its end."""
        import mlx.core as mx

        for batch in self._batches_by_adapter.values():
            batch.close()
        self._batches_by_adapter.clear()
        self.prefixes.clear()
        self._board = None
        if self._stream is not None:
            mx.synchronize(self._stream)
        mx.clear_streams()

    def _load_base(self) -> None:
        import mlx.core as mx
        from mlx_lm import load
        from mlx_lm.utils import load_config, load_tokenizer, maybe_set_recommended_wired_limit

        if not (self._base / "config.json").is_file():
            # mlx-lm would look for such a model on a hub.
            raise EngineError("there is no config.json in its folder")
        if mx.default_device() == mx.cpu and "MLX_DISABLE_COMPILE" not in os.environ:
            # On a processor, mlx runs a C++ compiler for every compiled function, which delays the first answers.
            mx.disable_compile()
        # Each generator sets and restores this limit; the last to close must restore the same value.
        maybe_set_recommended_wired_limit()
        self._stream = mx.default_stream(mx.default_device())
        config = json.loads((self._base / "config.json").read_text(encoding="utf-8"))
        model, self.tokenizer = load(
            str(self._base), tokenizer_config={"trust_remote_code": False}, model_config=mlx_keys(config)
        )
        if self._tokenizer is not None:
            own = load_config(self._tokenizer)
            self.tokenizer = load_tokenizer(
                self._tokenizer, {"trust_remote_code": False}, eos_token_ids=own.get("eos_token_id")
            )
        quantization = config.get("quantization")
        if mx.default_device() == mx.cpu and quantization and quantization.get("mode", "affine") == "affine":
            # On a processor, mlx multiplies quantised matrices eight times faster in float32 than in 16 bits.
            model.set_dtype(mx.float32)
        self._board = Switchboard(model, wake=lambda: self._inbox.put(lambda: self._board.sweep()))
        if not self._computes_batches(model):
            self._width = 1
        text = config.get("text_config") or config
        self.context = int(text.get("max_position_embeddings") or CONTEXT)
        self.vocabulary = int(text.get("vocab_size") or len(self.tokenizer))

    def _computes_batches(self, model: Any) -> bool:
        """Return whether the model's class computes several answers in one batch."""
        from mlx_lm.models.cache import make_prompt_cache

        from .batch_generator import computes_batches

        if not all(hasattr(cache, "merge") for cache in make_prompt_cache(model)):
            raise EngineError(f"mlx-lm {version('mlx-lm')} cannot batch the caches of this model's class")
        self._say("testing whether the model computes several answers at a time")
        if computes_batches(model, self._board.rows, self._stream):
            return True
        LOG.warning("answers are written one after the other: this model's class does not compute batches")
        return False

    def _serve_inbox(self) -> bool:
        """Run the queued functions, after waiting for one if no batch runs; return False at the end."""
        while True:
            try:
                message = self._inbox.get(block=not self._batches_by_adapter)
            except queue.Empty:
                return True
            if message is None:
                return False
            try:
                message()
            except Exception as error:  # noqa: BLE001 - other answers go on
                LOG.error("the engine could not do what it was asked to: %s", type(error).__name__)

    def _insert(self, job: Generation) -> None:
        if job.cancelled:
            return
        resident = _whole(job.resident)
        batch = self._batches_by_adapter.get(resident)
        try:
            if batch is None:
                batch = self._batches_by_adapter[resident] = Batch(
                    self._board,
                    self.tokenizer,
                    width=self._width,
                    stream=self._stream,
                    prefixes=self.prefixes,
                )
            batch.insert(job)
        except Exception as error:  # noqa: BLE001 - one bad job must not end the others
            self._fail([job], error)

    def _drop(self, job: Generation) -> None:
        resident = _whole(job.resident)
        batch = self._batches_by_adapter.get(resident)
        if batch is not None:
            batch.remove(job)
            self._close_if_done(resident)

    def _due(self) -> list[Resident | None]:
        """Return the batches to step next: for each owner the one that has waited longest."""
        due: dict[str, Resident | None] = {}
        for resident, batch in self._batches_by_adapter.items():
            for owner in batch.owners():
                due.setdefault(owner, resident)
        self._shared = len(due) > 1
        return list(dict.fromkeys(due.values()))

    def _step(self, resident: Resident | None) -> None:
        batch = self._batches_by_adapter[resident] = self._batches_by_adapter.pop(resident)  # now the last
        try:
            self._board.use(resident)
            pieces = batch.step(shared=self._shared)
            if pieces:
                self._post([(job, piece) for job, piece in pieces if not job.cancelled])
            batch.keep()
        except Exception as error:  # noqa: BLE001 - the other batches go on
            self._batches_by_adapter.pop(resident)
            self._fail(batch.jobs(), error)
            batch.close()
            return
        self._close_if_done(resident)

    def _close_if_done(self, resident: Resident | None) -> None:
        batch = self._batches_by_adapter.get(resident)
        if batch is not None and not batch.jobs():
            del self._batches_by_adapter[resident]
            batch.close()

    def _fail(self, jobs: Sequence[Generation], error: Exception) -> None:
        # Only the type: an error's text may contain the prompt.
        LOG.error("generation failed for %d answers: %s", len(jobs), type(error).__name__)
        self._post([(job, Piece("", 0, "error")) for job in jobs if not job.cancelled])


def _whole(resident: Resident | None) -> Resident | None:
    """Return the adapter that the base model must be switched to; None if rows name theirs."""
    return None if resident is None or resident.by_row else resident
