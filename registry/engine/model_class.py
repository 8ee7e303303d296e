"""A base as mlx-lm's own class of the model sees it, for where the names on disk are not the names of the modules.

mlx-lm loads lazily: `load_model` builds the class, lets its `sanitize` rename, drop and compute tensors, and exchanges
the layers of a quantised base, all without reading a tensor.  Then the objects tell what happened.  A tensor that is
still the very object that was read from a file is a range of that file's bytes, under whatever name.  Any other is
computed, one at a time, into a scratch file.

Everything runs on the CPU, whatever the device.
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

from fusery.storage.errors import FormatError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Tensor, read_header
from fusery.storage.temporary import temporary_folder

from ..errors import FusionUnsupportedError, MissingExtraError
from ..server.mlx_keys import with_mlx_keys
from .base import OwnLayout, Source
from .computed import Computed, dtype_of, write_computed
from .config import weight_names
from .fingerprint import fingerprint
from .own_layout import is_droppable
from .watch import Watch

LINEAR, EMBEDDING, SWITCH = "linear", "embedding", "switch"

_MODELOPT = "hf_quant_config.json"
_MODEL_TYPE = re.compile(r"[A-Za-z][\w-]{0,99}")
_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_experts", "num_local_experts")
_COUNT_LIMIT = 4096
_REASON_LIMIT = 240
_RENAMED = {"F8_E4M3": "U8", "F8_E8M0": "U8"}
"""MLX has no such numbers; it reads and writes their bytes."""

# What a model class raises on a configuration or on tensors that it was not made for; olmo without its package exits.
_REFUSALS = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError),
    *(ImportError, FileNotFoundError, SystemExit),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A base as mlx-lm's own model class sees it.

    Attributes:
        tensors: what `mlx_lm.fuse` would write of this base, by name: those that lie in the base's files in the order
            of their bytes, then the computed ones.
        files: the scratch file that holds the computed ones, by the name it has in `tensors`; empty if there are none.
        kinds: what each module that mlx-lm can adapt is, by path: `linear`, `embedding` or `switch`, quantised or not.
        blocks: for each block of the model, in order, the paths that an adapter without `keys` adapts.
        formats: how each quantised module is quantised, as an entry of MLX's `quantization` says it.
        quantizable: every module that mlx-lm can quantise, in its order: True, or parameters that the class asks for,
            or False where it asks not to.
        fingerprint: the versions and the machine that computed tensors depend on.
        computed: names of the tensors that were computed, sorted.
        config: `config.json` as mlx-lm has it after loading.
        own: the layout on disk, where the class renames, stacks or drops tensors; None if the files have mlx-lm's.
    """

    tensors: Mapping[str, Source]
    files: Mapping[str, Path]
    kinds: Mapping[str, str]
    blocks: tuple[tuple[str, ...], ...]
    formats: Mapping[str, Mapping[str, Any]]
    quantizable: Mapping[str, Any]
    fingerprint: str
    computed: tuple[str, ...]
    config: Mapping[str, Any]
    own: OwnLayout | None = None


def load_by_class(files: Mapping[str, Path], config: Mapping[str, Any], scratch: Path) -> Loaded:
    """Load a base through mlx-lm's class of it, without holding its weights.

    Args:
        files: every file of the base, name to local path.
        config: the parsed `config.json`.
        scratch: existing, empty folder for the tensors that have to be computed; which may be larger than the base.

    Raises:
        FusionUnsupportedError: mlx-lm cannot load this base, or adapts its layers in a way of its own.
        MissingExtraError: mlx-lm is not installed.
        FormatError: a weight file is malformed, or there is none.
        MissingFileError: a file cannot be read.
        OutOfSpaceError: the scratch folder has no room for the computed tensors.
    """
    sources, mx, model, result, watch = _opened(files, config)
    kinds = _kinds(model)
    blocks, formats, quantizable = _blocks(model, kinds), _formats(model), _quantizable(model)
    kept, wanted = _origins(model, watch, sources)
    own = _own_layout(mx, model, watch, sources, config, written_by_mlx=_written_by_mlx(files))
    _let_go(mx, model)
    watch.forget()
    try:
        tensors, scratch_files = write_computed(mx, wanted, files, scratch)
    except _REFUSALS as error:
        raise FusionUnsupportedError(f"mlx-lm cannot load this base: {_reason(error)}") from error
    return Loaded(
        tensors={**kept, **tensors},
        files=scratch_files,
        kinds=kinds,
        blocks=blocks,
        formats=formats,
        quantizable=quantizable,
        fingerprint=fingerprint(),
        computed=tuple(sorted(tensors)),
        config=result,
        own=own,
    )


def describe_by_class(files: Mapping[str, Path], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that mlx-lm's class of a base has, by the names of its modules; no weight is read.

    Offsets mean nothing: where a tensor lies is left out.

    Args:
        files: every file of the base, name to local path.
        config: the parsed `config.json`.

    Raises:
        FusionUnsupportedError: mlx-lm cannot load this base.
        MissingExtraError: mlx-lm is not installed.
        FormatError: a weight file is malformed, or there is none.
        MissingFileError: a file cannot be read.
    """
    _, mx, model, _, watch = _opened(files, config)
    from mlx.utils import tree_flatten

    found = {
        name: Tensor(name, dtype, tuple(array.shape), 0, array.nbytes)
        for name, array in tree_flatten(model.parameters())
        if (dtype := dtype_of(name, array.dtype))
    }
    _let_go(mx, model)
    watch.forget()
    return found


def _opened(
    files: Mapping[str, Path], config: Mapping[str, Any]
) -> tuple[dict[str, Source], ModuleType, Any, dict[str, Any], Watch]:
    """Load a model lazily; return where its tensors lie, mlx, the model, its configuration, and what was watched."""
    _require_harmless(config)
    sources = _sources(files)
    mx = _mlx()
    with temporary_folder("class") as folder:
        _lay_out(folder, files, with_mlx_keys(config))
        try:
            model, result, watch = _load(mx, folder)
        except _REFUSALS as error:
            raise FusionUnsupportedError(f"mlx-lm cannot load this base: {_reason(error)}") from error
    return sources, mx, model, result, watch


def _mlx() -> ModuleType:
    try:
        import mlx.core
        import mlx_lm.utils  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("loading a base through mlx-lm's class of it", "mlx") from error
    module: ModuleType = mlx.core
    return module


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


def _sources(files: Mapping[str, Path]) -> dict[str, Source]:
    """Return every tensor of the weight files; parsed strictly before mlx sees them."""
    names = weight_names(files)
    if not names:
        raise FormatError("the base has no weights in safetensors format (model*.safetensors)")
    found: dict[str, Source] = {}
    for file in names:
        for name, tensor in read_header(files[file], limit=BASE_HEADER_LIMIT).tensors.items():
            if name in found:
                raise FormatError(f"two weight files of the base hold the tensor {name!r}")
            found[name] = Source(file, tensor)
    return found


def _written_by_mlx(files: Mapping[str, Path]) -> bool:
    headers = (read_header(files[name], limit=BASE_HEADER_LIMIT) for name in weight_names(files))
    return all(header.metadata.get("format") == "mlx" for header in headers)


def _lay_out(folder: Path, files: Mapping[str, Path], config: Mapping[str, Any]) -> None:
    """Make a folder as `load_model` wants it: the weights are links."""
    for name in weight_names(files):
        (folder / name).symlink_to(files[name].absolute())
    if _MODELOPT in files:
        (folder / _MODELOPT).symlink_to(files[_MODELOPT].absolute())
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _load(mx: ModuleType, folder: Path) -> tuple[Any, dict[str, Any], Watch]:
    from mlx_lm.utils import _get_classes, load_model

    watch = Watch()

    def classes(config: dict[str, Any]) -> tuple[type, Any]:
        model_class, arguments = _get_classes(config)

        class Watched(model_class):  # type: ignore[misc, valid-type]
            def sanitize(self, weights: dict[str, Any]) -> dict[str, Any]:
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
    found = {}
    for path, module in model.named_modules():
        if hasattr(module, "to_lora"):
            raise FusionUnsupportedError(
                f"mlx-lm adapts {path} in a way of its own ({type(module).__name__}), which cannot be fused here"
            )
        for kind, classes in kinds.items():
            if isinstance(module, classes):
                found[path] = kind
    return dict(sorted(found.items()))


def _blocks(model: Any, kinds: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    paths = {id(module): path for path, module in model.named_modules()}
    blocks = []
    for block in getattr(model, "layers", ()):
        prefix = paths.get(id(block))
        blocks.append(tuple(path for path in kinds if prefix is not None and path.startswith(f"{prefix}.")))
    return tuple(blocks)


def _formats(model: Any) -> dict[str, dict[str, Any]]:
    return {
        path: {"group_size": module.group_size, "bits": module.bits, "mode": module.mode}
        for path, module in model.named_modules()
        if "scales" in module and hasattr(module, "bits")
    }


def _quantizable(model: Any) -> dict[str, Any]:
    from mlx.nn import Module
    from mlx.utils import tree_flatten

    predicate = getattr(model, "quant_predicate", None) or (lambda path, module: True)
    leaves = tree_flatten(model.leaf_modules(), is_leaf=Module.is_module)
    return {
        path: predicate(path, module)
        for path, module in leaves
        if hasattr(module, "to_quantized") or "scales" in module
    }


def _origins(
    model: Any, watch: Watch, sources: Mapping[str, Source]
) -> tuple[dict[str, Source], dict[str, Computed]]:
    """Tell the tensors that lie in the base's files from those to compute."""
    from mlx.utils import tree_flatten

    found = {id(array): sources[name] for name, array in watch.loaded.items()}
    for changed in watch.changed:
        found.pop(changed, None)
    kept: dict[str, Source] = {}
    computed: dict[str, Computed] = {}
    for name, array in tree_flatten(model.parameters()):
        if id(array) in found:
            kept[name] = _renamed(name, found[id(array)])
        else:
            computed[name] = Computed(array.dtype, tuple(array.shape), _pieces(array, watch, found))
    ordered = sorted(kept.items(), key=lambda item: (item[1].file, item[1].tensor.begin, item[0]))
    return dict(ordered), dict(sorted(computed.items()))


def _own_layout(
    mx: ModuleType,
    model: Any,
    watch: Watch,
    sources: Mapping[str, Source],
    config: Mapping[str, Any],
    *,
    written_by_mlx: bool,
) -> OwnLayout | None:
    """Return the layout on disk; None if mlx-lm wrote it and its class drops no tensor that the model needs."""
    from mlx.utils import tree_flatten

    used = _used(mx, model, watch)
    dropped = sorted(name for name in watch.loaded.keys() - used if not is_droppable(name, config))
    if written_by_mlx and not dropped:
        return None
    found = {
        id(array): sources[name] for name, array in watch.loaded.items() if id(array) not in watch.changed
    }
    names: dict[str, tuple[Tensor, ...]] = {}
    copied = dict(sources)
    for name, array in tree_flatten(model.parameters()):
        tensors = [piece.tensor for piece in _pieces(array, watch, found) if isinstance(piece, Source)]
        if tensors and all(tensor.name in copied and tensor.dtype not in _RENAMED for tensor in tensors):
            names[name] = tuple(tensors)
            for tensor in tensors:
                del copied[tensor.name]
    return OwnLayout(names, {name: _renamed(name, source) for name, source in copied.items()}, dropped)


def _used(mx: ModuleType, model: Any, watch: Watch) -> set[str]:
    """Return the tensors of the files that the model's parameters depend on, from the graph of lazy arrays."""
    from mlx.utils import tree_flatten

    numbered = {f"n{number}": name for number, name in enumerate(watch.loaded)}
    arrays = {number: watch.loaded[name] for number, name in numbered.items()}
    outputs = [mx.stop_gradient(array) for _, array in tree_flatten(model.parameters())]
    graph = io.StringIO()
    mx.export_to_dot(graph, *outputs, **arrays)
    return {numbered[number] for number in re.findall(r'^"(n\d+)" -> ', graph.getvalue(), re.MULTILINE)}


def _pieces(array: Any, watch: Watch, found: Mapping[int, Source]) -> list[Any]:
    if id(array) in found:
        return [found[id(array)]]
    _, parts = watch.joined.get(id(array), (None, ()))
    # What was changed in place may have been changed after it was joined.
    plain = all(part.dtype == array.dtype and id(part) not in watch.changed for part in parts)
    if not parts or not plain or id(array) in watch.changed:
        return [array]
    return [piece for part in parts for piece in _pieces(part, watch, found)]


def _let_go(mx: ModuleType, model: Any) -> None:
    """Take the arrays out of a model, so that each one can be freed once it is written."""
    from mlx.utils import tree_map

    model.update(tree_map(lambda _: mx.array([]), model.parameters()))


def _renamed(name: str, source: Source) -> Source:
    tensor = source.tensor
    dtype = _RENAMED.get(tensor.dtype, tensor.dtype)
    return Source(source.file, Tensor(name, dtype, tensor.shape, tensor.begin, tensor.end))


def _reason(error: BaseException) -> str:
    """Return what an exception says in one line."""
    text = " ".join(str(error).split()) or "it says nothing more"
    if not isinstance(error, ValueError | RuntimeError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= _REASON_LIMIT else f"{text[:_REASON_LIMIT]}…"
