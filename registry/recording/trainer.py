"""Run `mlx_lm.lora` in this process, and record the run.

mlx-lm 0.32 passes no callback on, so functions of `mlx_lm.lora` are replaced while it runs: `run`, `load`, `load_dataset`,
`train_model` and `linear_to_lora_layers`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from fusery.storage.errors import FuseryError
from fusery.storage.jsonfile import read_config

from ..adapters.trained_through import ITS_WEIGHTS, QUANTIZATION_AWARE
from ..errors import MissingExtraError, TrainingFailedError
from ..parts import part
from ..record import Record, described
from ..records.adapter import Registered
from ..records.bases import KnownBase
from ..registration.register import data_source
from ..registration.training_record import State
from ..runtime.mlx_keys import mlx_keys
from ..runtime.templates.chat import ChatTemplates
from .callback import RecordRun

# Through the base's quantiser, or with an update that is constant within its groups: options of `fusery train`
Way = Literal["qat", "qa-lora"]
GROUPED = "use_qalora", "qalora_group_size"  # PEFT's entries of the configuration for such an update


def train(
    words: Sequence[str],
    *,
    ready: Callable[[Any], None],
    base: KnownBase | None = None,
    way: Way | None = None,
) -> tuple[int, RecordRun | None]:
    """Run the trainer, on `base` unless the arguments name another, and return its exit code and its run.

    `ready` gets the complete arguments before anything is loaded.
    """
    try:
        from mlx_lm import lora
    except ImportError as error:
        raise MissingExtraError("training", "mlx") from error
    runs: list[RecordRun] = []
    chats = ChatTemplates()
    with (
        contextlib.closing(chats),
        _recorded(lora, ready, runs, chats, way),
        _based(lora, base),
        _replaced(sys, argv=["mlx_lm.lora", *words]),
    ):
        try:
            lora.main()
        except SystemExit as stop:
            # argparse exits after --help and unknown options; it has printed why.
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            return code, None
        except FuseryError:
            raise
        except Exception as error:
            raise _failed(error, runs) from error
    return 0, runs[-1] if runs else None


@contextlib.contextmanager
def _replaced(module: Any, **attributes: Any) -> Iterator[None]:
    """Give attributes of a module other values until the block ends."""
    before = {name: getattr(module, name) for name in attributes}
    vars(module).update(attributes)
    try:
        yield
    finally:
        vars(module).update(before)


def _recorded(
    lora: Any, ready: Callable[[Any], None], runs: list[RecordRun], chats: ChatTemplates, way: Way | None
) -> AbstractContextManager[None]:
    run, load, load_dataset, train_model = lora.run, lora.load, lora.load_dataset, lora.train_model

    def ready_then_run(args: Any, *rest: Any, **named: Any) -> Any:
        if way is not None:
            part("research.quantized_training:require_trainable")(args, way)
        without_format(args)
        ready(args)
        return run(args, *rest, **named)

    def complete_and_load(model: str, *rest: Any, **named: Any) -> Any:
        from mlx_lm.utils import _download

        config = _download(model) / "config.json"  # fetched from a hub if it is no folder here
        keys = mlx_keys(read_config(config)) if config.is_file() else {}
        return load(model, *rest, **named, **({"model_config": keys} if keys else {}))

    def bind_and_load(args: Any, tokenizer: Any) -> Any:
        chats.bind(tokenizer)
        return load_dataset(args, tokenizer)

    def record_and_train(
        args: Any, model: Any, train_set: Any, valid_set: Any, training_callback: Any = None
    ) -> None:
        # Before its arguments are recorded, and before anything is written.
        layers = []
        if way:
            make_layers = part("research.quantized_training:make_layers")
            layers = make_layers(args, model, lora.linear_to_lora_layers, way)

        def unfreeze(*_: Any, **__: Any) -> None:
            """Find the layers that are in the model already, when the trainer has frozen that."""
            for layer in layers:
                layer.unfreeze(keys=["lora_a", "lora_b"], recurse=False)

        record = RecordRun(
            args.adapter_path,
            arguments=args,
            data=data_source(args),
            examples=len(train_set),
            wrapped=training_callback,
        )
        runs.append(record)
        with contextlib.ExitStack() as stack:
            stack.enter_context(record)
            if way:
                stack.enter_context(_replaced(lora, linear_to_lora_layers=unfreeze))
            if way == "qat":
                bound_to_weights = part("research.quantized_training:bound_to_weights")
                stack.enter_context(bound_to_weights(Path(args.adapter_path)))
            train_model(args, model, train_set, valid_set, record)

    return _replaced(
        lora,
        run=ready_then_run,
        load=complete_and_load,
        load_dataset=bind_and_load,
        train_model=record_and_train,
    )


def without_format(args: Any) -> None:
    """Take the format out of arguments that have it from somewhere, such as the configuration of an earlier run that is repeated."""
    for name in (QUANTIZATION_AWARE, ITS_WEIGHTS, *GROUPED):
        if hasattr(args, name):
            delattr(args, name)


def _based(lora: Any, base: KnownBase | None) -> AbstractContextManager[None]:
    """Let the trainer train a base of the registry: as its default, and where that is named."""
    if base is None:
        return contextlib.nullcontext()
    load = lora.load

    def load_base(model: str, *rest: Any, **named: Any) -> Any:
        if model not in base.names or Path(model).exists():
            return load(model, *rest, **named)
        with base.folder() as folder:
            return load(str(folder), *rest, **named)

    return _replaced(lora, load=load_base, CONFIG_DEFAULTS={**lora.CONFIG_DEFAULTS, "model": base.name})


def _failed(error: Exception, runs: list[RecordRun]) -> TrainingFailedError:
    text = " ".join(str(error).split())[:300] or "no message"
    hint = "--debug shows where: fusery --debug train ..."
    if runs and any(Path(runs[-1].folder).glob("*adapters.safetensors")):
        hint = f"what was saved is in {runs[-1].folder}; {hint}"
    return TrainingFailedError(f"the trainer stopped: {type(error).__name__}: {text}", hint=hint)


class TrainingResult(Record):
    """A training run that is over."""

    folder: Path = described("folder that the trainer wrote to")
    state: State = described("how the run ended")
    seconds: float = described("duration in seconds")
    registered: Registered | None = described("the adapter that it left, if it was to be registered")
