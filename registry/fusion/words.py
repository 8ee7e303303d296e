"""Messages of a fuse: waiting for other processes, results of claims, refusals, and cautions about the result."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import select

from fusery.storage.errors import MissingFileError
from fusery.storage.safetensors import BASE_HEADER_LIMIT, Tensor, read_header

from .. import tables
from ..engine.recipe import Recipe
from ..engine.verdict import PASS, closeness, range_in_words, share_in_words
from ..errors import DatabaseReadOnlyError, FidelityError, RebuildDiffersError
from ..records.fused import Fused
from ..records.fused_label import describe
from .fuse_inputs import FuseInputs
from .known import Measured
from .request import FuseRequest

if TYPE_CHECKING:
    from ..database.leases import Busy
    from ..workspace import Workspace

_GROUPS = (64, 32)
"""Group sizes of MLX below the largest, the larger first."""


def claim_in_words(registry: str, true: bool) -> str:
    """Return whether another registry's claim was true, in words."""
    if true:
        return f"what registry {registry[:8]} has under this key are the same bytes"
    return f"WARNING: what registry {registry[:8]} has under this key is FALSE: other bytes came out here, and ours count"


def waiting(busy: Busy) -> str:
    """Return who is building the model, in words."""
    who = busy.owner.description if busy.owner else "another process"
    return f"being fused by {who}, waiting"


def differing(key: str, made: str, recorded: str) -> RebuildDiffersError:
    """Return the error for a model whose digest differs from its record."""
    return RebuildDiffersError(
        f"rebuilding {key[:12]} gave other bytes than are recorded: {made[:12]}, recorded is {recorded[:12]}",
        hint="fusery audit",
    )


def lost(fuse_inputs: FuseInputs, recipe: Recipe, measured: Measured, request: FuseRequest) -> FidelityError:
    """Return the error for a model that would lose the adapter, with a hint."""
    name, least = describe(recipe), request.min_fidelity
    if least is not None and closeness(measured.retained) < least:
        message = (
            f"{name}: {share_in_words(measured.retained)}, --min-fidelity asks for {range_in_words(least)}"
        )
    else:
        message = f"{name} would lose the adapter: {measured.in_words}"
    larger = recipe.precision != "dequantize" and fuse_inputs.quantized
    if request.budget is not None:
        hint = "allow more: --budget 1.5x, or leave it out"
    elif fuse_inputs.aware is not None:
        # More bits are no nearer to what was trained.
        auto = recipe.quantization is not None or request.precision == "auto"
        hint = "--accept-loss publishes it" if auto else f"fusery fuse {fuse_inputs.adapter.name}"
    elif recipe.precision == "keep" and larger:
        hint = f"fusery fuse {fuse_inputs.adapter.name} --precision auto"
    else:
        hint = (
            f"fusery fuse {fuse_inputs.adapter.name} --precision dequantize"
            if larger
            else "--accept-loss publishes it"
        )
    return FidelityError(message, hint=hint)


def chat_template_problems(workspace: Workspace, adapters: Collection[str]) -> list[str]:
    """Return the recorded problems of the chat templates of adapters, by their names."""
    adapter, finding = tables.Adapter, tables.AdapterFinding
    query = (
        select(adapter.name, finding.code, finding.message)
        .join(adapter, adapter.id == finding.adapter_id)
        .where(adapter.name.in_(adapters), finding.code.startswith("chat_template_", autoescape=True))
        .order_by(finding.id)
    )
    with workspace.database.read() as session:
        return [f"{name}: {code}: {message}" for name, code, message in session.execute(query)]


def cautions(workspace: Workspace, fused: Fused, request: FuseRequest) -> Iterator[str]:
    """Yield cautions about a fused model.

    Cautions are about a verdict that is not PASS, unquantised matrices, a large size, and a chat template with problems.
    """
    verdict = fused.fidelity.verdict
    scale = "" if fused.scale is None else f" --scale {fused.scale:g}"
    added = "".join(f" --with {part.adapter}:{part.weight:g}" for part in fused.with_)
    compare = f"fusery fidelity {fused.adapter}{scale}{added} --formats"
    if verdict != PASS:
        hint = f" {advice}" if (advice := _better_format(fused, f"{scale}{added}", compare)) else ""
        yield f"{verdict}: expect most exact answers of base + adapter to change.{hint}"
    yield from _unquantised(fused)
    if request.precision == "auto" and fused.precision == "dequantize" and fused.quantization is None:
        yield (
            f"16 bits take {fused.times_base:.2f} times the size of the base: `auto` took no smaller format. "
            f"Compare the formats: {compare}"
        )
    yield from chat_template_problems(workspace, [fused.adapter])


def _better_format(fused: Fused, options: str, compare: str) -> str | None:
    """Return how to find a format that retains more; None where there is no other."""
    if fused.recipe.get("aware") is not None:
        return None  # more bits are no nearer to what was trained
    if fused.quantization is None:
        return f"Compare the formats: {compare}" if fused.precision != "keep" else None
    if fused.precision != "dequantize":
        return f"Compare the formats: {compare}"
    bits, size = int(str(fused.quantization["bits"])), int(str(fused.quantization["group_size"]))
    more = next((each for each in (4, 6, 8) if each > bits), None)
    if more is None and size <= min(_GROUPS):
        return None
    return (
        "Use more bits or a smaller group: "
        f"fusery fuse {fused.adapter}{options} --quantize {more or bits} --group-size {min(_GROUPS)}"
    )


def _unquantised(fused: Fused) -> Iterator[str]:
    """Yield how many matrices of a requantised model have no group size that fits, and one that does."""
    if fused.precision != "dequantize" or fused.quantization is None:
        return
    tensors: dict[str, Tensor] = {}
    with suppress(MissingFileError):  # another process may evict the model from the cache
        for path in fused.path.glob("*.safetensors"):
            tensors |= read_header(path, limit=BASE_HEADER_LIMIT).tensors
    paths = [name.removesuffix(".weight") for name, tensor in tensors.items() if len(tensor.shape) >= 2]
    quantised = sum(f"{path}.scales" in tensors for path in paths)
    size = int(str(fused.quantization["group_size"]))
    # Convolutions have short rows, and no group size makes MLX quantise them.
    rows = [
        tensors[f"{path}.weight"].shape[-1]
        for path in paths
        if f"{path}.weight" in tensors and f"{path}.scales" not in tensors
    ]
    left = [columns for columns in rows if columns >= min(_GROUPS) and columns % size]
    if not left:
        return
    fits = next((each for each in _GROUPS if each < size and not any(n % each for n in left)), None)
    hint = "" if fits is None else f" Quantise them too: --group-size {fits}"
    yield (
        f"{len(left)} of {quantised + len(left)} matrices are not quantised: "
        f"the length of their rows is not a multiple of the group size {size}.{hint}"
    )


def unpublished(
    fuse_inputs: FuseInputs, recipe: Recipe, error: DatabaseReadOnlyError
) -> DatabaseReadOnlyError:
    """Return the error for a model that would have to be computed where nothing can be recorded."""
    name = fuse_inputs.adapter.name
    return DatabaseReadOnlyError(
        f"{name} ({describe(recipe)}) is not published, and to fuse it needs the right to write: {error.message}",
        hint=f"have somebody who may write run: fusery fuse {name} --publish full",
    )
