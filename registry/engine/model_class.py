"""Load a base through mlx-lm's class of the model, if the names on disk are not the names of its modules.

`load_model` builds the class and lets its `sanitize` change tensors, lazily.  An array that is still the object read from a
file is a range of its bytes; any other is computed, one at a time, into a scratch file, on the CPU.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from fusery.storage.processes import temporary_folder
from fusery.storage.safetensors import Tensor

from ..errors import FusionUnsupportedError, MissingExtraError
from ..runtime.mlx_keys import with_mlx_keys
from .architectures import has_tensor_scales
from .base import Base, OwnLayout, Source, is_droppable, read_sources
from .computed import ArrayWatch, Computed, dtype_of, write_computed
from .config import weight_names

LINEAR, EMBEDDING, SWITCH = "linear", "embedding", "switch"

_MODEL_TYPE = re.compile(r"[A-Za-z][\w-]{0,99}")
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_experts", "num_local_experts")
_COUNT_LIMIT = 4096
_REASON_LIMIT = 240
_RENAMED = {"F8_E4M3": "U8", "F8_E8M0": "U8"}  # MLX has no such numbers; it reads and writes their bytes
# The errors of a model class on a configuration or on tensors of another model; olmo without its package exits.
_REFUSALS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError),
    *(ImportError, FileNotFoundError, SystemExit),
)


@dataclass(slots=True)
class _Opened:
    """A model that was loaded lazily: its tensors in files, its configuration, and the watched arrays."""

    sources: Mapping[str, Source]
    written_by_mlx: bool
    mx: ModuleType
    model: Any
    config: Mapping[str, Any]
    watch: ArrayWatch

    @classmethod
    def of(cls, files: Mapping[str, Path], config: Mapping[str, Any]) -> _Opened:
        _require_harmless(config)
        sources, written_by_mlx = read_sources(files)
        try:
            import mlx.core as mx
            import mlx_lm.utils  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("loading a base through mlx-lm's class of it", "mlx") from error
        with temporary_folder("class") as folder:
            # A folder as `load_model` wants it: the weights are links.
            for name in [*weight_names(files), *({"hf_quant_config.json"} & files.keys())]:
                (folder / name).symlink_to(files[name].absolute())
            (folder / "config.json").write_text(json.dumps(with_mlx_keys(config)), encoding="utf-8")
            try:
                return cls(sources, written_by_mlx, mx, *_load(mx, folder))
            except _REFUSALS as error:
                message = f"mlx-lm cannot load this base: {_reason(error)}"
                if has_tensor_scales(config):
                    message = "NVFP4 with a scale per tensor: fusery supports only architectures whose tensors mlx-lm does not rearrange"
                raise FusionUnsupportedError(message) from error

    def parameters(self) -> list[tuple[str, Any]]:
        from mlx.utils import tree_flatten

        return list(tree_flatten(self.model.parameters()))

    def origins(self) -> dict[int, Source]:
        loaded, changed = self.watch.loaded, self.watch.changed
        return {id(array): self.sources[name] for name, array in loaded.items() if id(array) not in changed}

    def forget(self) -> None:
        """Take the arrays out of the model, so that each one can be freed once it is written."""
        from mlx.utils import tree_map

        self.model.update(tree_map(lambda _: self.mx.array([]), self.model.parameters()))
        self.watch.forget()


def load_by_class(files: Mapping[str, Path], config: Mapping[str, Any], scratch: Path) -> Base:
    """Load a base through mlx-lm's class of it, without holding its weights."""
    # Its tensors are what `mlx_lm.fuse` would write: those of the base's files in the order of their bytes,
    # then the computed ones, in a file in `scratch`.
    opened = _Opened.of(files, config)
    model, kinds = opened.model, _kinds(opened.model)
    paths = {id(module): path for path, module in model.named_modules()}
    stems = [paths.get(id(block)) for block in getattr(model, "layers", ())]
    blocks = [
        tuple(path for path in kinds if stem is not None and path.startswith(f"{stem}.")) for stem in stems
    ]
    formats = {
        path: {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
        for path, module in model.named_modules()
        if "scales" in module and hasattr(module, "bits")
    }
    quantizable = _quantizable(model)
    kept, wanted = _origins(opened)
    own = _own_layout(opened, config)
    opened.forget()
    try:
        tensors, scratch_files = write_computed(opened.mx, wanted, files, scratch)
    except _REFUSALS as error:
        raise FusionUnsupportedError(f"mlx-lm cannot load this base: {_reason(error)}") from error
    return Base(
        files={**files, **scratch_files},
        config=opened.config,
        tensors={**kept, **tensors},
        all_linear=True,
        kinds=kinds,
        blocks=blocks,
        formats=formats,
        quantizable=quantizable,
        own=own,
    )


def describe_by_class(files: Mapping[str, Path], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that mlx-lm's class of a base has, by the names of its modules; no weight is read."""
    # Offsets mean nothing: the place of a tensor is left out.
    opened = _Opened.of(files, config)
    tensors = {}
    for name, array in opened.parameters():
        tensors[name] = Tensor(name, dtype_of(name, array.dtype), tuple(array.shape), 0, array.nbytes)
    opened.forget()
    return tensors


def _require_harmless(config: Mapping[str, Any]) -> None:
    model_type, text = config.get("model_type"), config.get("text_config")
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        raise FusionUnsupportedError("the base's config.json has no model_type")
    if config.get("model_file") is not None:
        raise FusionUnsupportedError("the base brings its own code (model_file), which is never run")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for name in _COUNTS:
            if isinstance(part.get(name), int | float) and not part[name] <= _COUNT_LIMIT:
                raise FusionUnsupportedError(f"the base's config.json has {name} over {_COUNT_LIMIT}")


def _load(mx: ModuleType, folder: Path) -> tuple[Any, Mapping[str, Any], ArrayWatch]:
    from mlx_lm.utils import _get_classes, load_model

    watch = ArrayWatch()

    def classes(config: Mapping[str, Any]) -> tuple[type, Any]:
        model_class, arguments = _get_classes(config)

        class Watched(model_class):  # type: ignore[misc, valid-type]
            def sanitize(self, weights: Mapping[str, Any]) -> Mapping[str, Any]:
                watch.loaded = dict(weights)
                own = getattr(super(), "sanitize", None)
                with watch.installed(mx):
                    return own(weights) if own else weights

        return Watched, arguments

    with contextlib.redirect_stdout(io.StringIO()), mx.stream(mx.cpu):
        model, config = load_model(folder, lazy=True, get_model_classes=classes, trust_remote_code=False)
    return model, config, watch


def _kinds(model: Any) -> dict[str, str]:
    from mlx import nn
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

    kinds = {
        LINEAR: (nn.Linear, nn.QuantizedLinear),
        SWITCH: (SwitchLinear, QuantizedSwitchLinear),
        EMBEDDING: (nn.Embedding, nn.QuantizedEmbedding),
    }
    kinds_by_path = {}
    for path, module in model.named_modules():
        if hasattr(module, "to_lora"):
            message = f"mlx-lm adapts {path} in a way of its own ({type(module).__name__})"
            raise FusionUnsupportedError(message)
        for kind, classes in kinds.items():
            if isinstance(module, classes):
                kinds_by_path[path] = kind
    return dict(sorted(kinds_by_path.items()))


def _quantizable(model: Any) -> Mapping[str, Any]:
    from mlx.nn import Module
    from mlx.utils import tree_flatten

    predicate = getattr(model, "quant_predicate", None) or (lambda path, module: True)
    leaves = tree_flatten(model.leaf_modules(), is_leaf=Module.is_module)
    return {
        path: predicate(path, module)
        for path, module in leaves
        if hasattr(module, "to_quantized") or "scales" in module
    }


def _origins(opened: _Opened) -> tuple[dict[str, Source], dict[str, Computed]]:
    origins = opened.origins()
    kept: dict[str, Source] = {}
    computed: dict[str, Computed] = {}
    for name, array in opened.parameters():
        if id(array) in origins:
            kept[name] = _renamed(name, origins[id(array)])
        else:
            pieces = _pieces(array, opened.watch, origins)
            computed[name] = Computed(array.dtype, tuple(array.shape), pieces)
    ordered = sorted(kept.items(), key=lambda item: (item[1].file, item[1].tensor.begin, item[0]))
    return dict(ordered), dict(sorted(computed.items()))


def _own_layout(opened: _Opened, config: Mapping[str, Any]) -> OwnLayout | None:
    """Return the layout on disk; None if mlx-lm wrote it and its class drops no tensor that the model needs."""
    unused = opened.watch.loaded.keys() - _used(opened)
    dropped = sorted(name for name in unused if not is_droppable(name, config))
    if opened.written_by_mlx and not dropped:
        return None
    origins = opened.origins()
    names: dict[str, tuple[Tensor, ...]] = {}
    copied = dict(opened.sources)
    for name, array in opened.parameters():
        pieces = _pieces(array, opened.watch, origins)
        tensors = [piece.tensor for piece in pieces if isinstance(piece, Source)]
        if tensors and all(tensor.name in copied and tensor.dtype not in _RENAMED for tensor in tensors):
            names[name] = tuple(tensors)
            for tensor in tensors:
                del copied[tensor.name]
    return OwnLayout(names, {name: _renamed(name, source) for name, source in copied.items()}, dropped)


def _used(opened: _Opened) -> set[str]:
    """Return the tensors of the files that the model's parameters depend on, from the graph of lazy arrays."""
    mx, loaded = opened.mx, opened.watch.loaded
    numbered = {f"n{number}": name for number, name in enumerate(loaded)}
    arrays = {number: loaded[name] for number, name in numbered.items()}
    outputs = [mx.stop_gradient(array) for _, array in opened.parameters()]
    graph = io.StringIO()
    mx.export_to_dot(graph, *outputs, **arrays)
    return {numbered[number] for number in re.findall(r'^"(n\d+)" -> ', graph.getvalue(), re.MULTILINE)}


def _pieces(array: Any, watch: ArrayWatch, sources_by_id: Mapping[int, Source]) -> list[Any]:
    if id(array) in sources_by_id:
        return [sources_by_id[id(array)]]
    _, parts = watch.joined.get(id(array), (None, ()))
    # An array may have been changed in place after it was joined.
    plain = all(part.dtype == array.dtype and id(part) not in watch.changed for part in parts)
    if not parts or not plain or id(array) in watch.changed:
        return [array]
    return [piece for part in parts for piece in _pieces(part, watch, sources_by_id)]


def _renamed(name: str, source: Source) -> Source:
    tensor = source.tensor
    dtype = _RENAMED.get(tensor.dtype, tensor.dtype)
    return Source(source.file, Tensor(name, dtype, tensor.shape, tensor.begin, tensor.end))


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "it says nothing more"
    if not isinstance(error, ValueError | RuntimeError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _REASON_LIMIT else f"{text[:_REASON_LIMIT]}…"
