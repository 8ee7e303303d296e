"""The inputs of a fuse: the files of a base and of adapters, and the engine that combines them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusery.storage.digest import Digest
from fusery.storage.jsonfile import read_config, read_object
from fusery.storage.manifest import Manifest
from fusery.storage.progress import tally
from fusery.storage.safetensors import tensor_bytes
from fusery.storage.transfer import Need, needs_of, require_rooms
from fusery.storage.verified_files import require_digests, watched

from .. import tables
from ..adapters import CONFIG, WEIGHTS
from ..adapters.render import form_of, render
from ..adapters.tokenizer_files import GENERATION, SETTINGS, TOKENIZER, with_own_end, with_tokenizer
from ..adapters.trained_through import aware_of, require_fusable, require_usable_unfused
from ..documents import write_document
from ..engine.architectures import TENSOR_SCALED, fingerprint, taken_by_name, within_layer
from ..engine.recipe import (
    BY_CLASS,
    ENGINE,
    KEYS,
    OWN_TOKENS,
    SEEING,
    Precision,
    Recipe,
    artifact_key,
    seed_of,
)
from ..errors import BadInputError
from ..records.bases import blob_generations, locate_files, record_verified, recorded_architecture, unproven
from ..records.calibrations import current_calibration, learned_with
from ..records.fused_rows import names
from ..records.references import resolve_adapter, resolve_base
from ..records.renderings import require_factors_alone
from ..records.withdrawals import refuse_yanked
from ..runtime.mlx_keys import written_config
from .adapter_part import AdapterPart, calibration_of, fits_biases, part_of, policy_of, whole_of
from .base_forms import require_form

if TYPE_CHECKING:
    from fusery.storage.copying import Progress

    from ..engine.calibration import CalibrationFile
    from ..engine.engine import Sampled
    from ..engine.fidelity import FuseFidelity
    from ..engine.plan import FusePlan
    from ..engine.policy import WritePolicy
    from ..engine.whole import ReplacedTensors
    from ..records.fused import FusedLabel
    from ..workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class FuseInputs:
    """A base and adapters, read from the database once; the first adapter is the one to fuse."""

    workspace: Workspace
    base: tables.BaseModelRow
    parts: tuple[AdapterPart, ...]
    calibration: Digest | None = None  # of the base
    learned: Digest | None = None  # the newest calibration for this adapter that was learned with the base's

    @property
    def base_digest(self) -> Digest:
        """The base's identity."""
        return Digest(self.base.digest)

    @property
    def adapter(self) -> AdapterPart:
        """The adapter to fuse."""
        return self.parts[0]

    @property
    def extras(self) -> tuple[AdapterPart, ...]:
        """Further adapters, added to it."""
        return self.parts[1:]

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """MLX's `quantization` entry of the base."""
        return self.base.quantization

    @property
    def fits_biases(self) -> bool:
        """Every adapter's update is constant within the groups that the base is quantised in, so that biases can hold it."""
        groups = [part.group if part.method == "lora" else None for part in self.parts]
        return self.aware is None and fits_biases(groups, self.quantization)

    @property
    def aware(self) -> Mapping[str, Any] | None:
        """The format that the adapter was trained through and must be fused into; None for any format."""
        return self.adapter.aware

    @property
    def aware_precisions(self) -> tuple[Precision, ...]:
        """The precisions that write all adapted modules with the numbers of the adapter's training."""
        if self.aware is None:
            return ()
        own = self.quantization or {}
        for path in self.base.weights:
            special = own.get(path, {})
            form = {"mode": "affine", **own, **special} if isinstance(special, Mapping) else {}
            adapted = within_layer(path) in self.adapter.target_modules
            if adapted and any(form.get(key) != value for key, value in self.aware.items()):
                return ()
        # MLX lacks this format, and uses the same numbers in 16 bits.
        return ("keep", "dequantize") if self.aware["mode"] == TENSOR_SCALED else ("keep",)

    @property
    def shaped(self) -> bool:
        """A calibration can shape the rounding: of LoRA on affine codes, and not of what was trained through a quantiser."""
        affine = self.quantization is not None and self.quantization.get("mode", "affine") == "affine"
        return affine and self.aware is None and all(part.method == "lora" for part in self.parts)

    def key(self, recipe: Recipe) -> Digest:
        """Return the key of what a recipe makes of them."""
        return artifact_key(self.base_digest, self.adapter.digest, recipe)

    def label(self, recipe: Recipe) -> FusedLabel:
        """Return what the model of a recipe is called."""
        return names(self.adapter.name, recipe, [(part.name, part.weight) for part in self.extras])

    def engine(self, *, quantize: bool = False) -> str:
        """Name the arithmetic that will run, before any file is read."""
        names = [file.path for file in self.base.manifest.files]
        keys = f"; {KEYS}" if written_config(self.base.config) != self.base.config else ""
        if any(entry.path in (TOKENIZER, SETTINGS) for entry in self.adapter.files):
            keys += f"; {OWN_TOKENS}"
        engine = SEEING if self.base.config.get("vision_config") else ENGINE
        if taken_by_name(self.base.config, names, written_by_mlx=self.base.written_by_mlx, quantize=quantize):
            return f"{engine}{keys}"
        by_class = SEEING if engine == SEEING else BY_CLASS
        return f"{by_class}{keys}; {fingerprint()}"

    @contextmanager
    def opened(
        self, progress: Callable[[int, int], None] | None = None, *, verify: bool = True
    ) -> Iterator[InputFiles]:
        """Hold the files, fetched when first needed, until the block ends; without `verify` (never to publish), damaged ones too."""
        with ExitStack() as stack:
            yield InputFiles(self, stack, tally(progress, self.base.bytes), verify)


class InputFiles:
    """The files of a base and of adapters on this machine."""

    def __init__(self, fuse_inputs: FuseInputs, stack: ExitStack, arrived: Progress, verify: bool) -> None:
        self.fuse_inputs, self._workspace = fuse_inputs, fuse_inputs.workspace
        self._stack, self._arrived, self._verify = stack, arrived, verify

    @cached_property
    def _scratch(self) -> Path:
        cache = self._workspace.cache
        cache.sweep()
        return self._stack.enter_context(cache.scratch())

    def plan(
        self, policy: WritePolicy, recipe: Recipe, metadata: Mapping[str, str] | None = None
    ) -> FusePlan:
        """Plan a fuse."""
        from ..engine.plan import AddedAdapter, make_plan

        adapters = self.adapters
        added = zip(adapters[1:], self.fuse_inputs.extras, strict=True)
        extras = [AddedAdapter(own[WEIGHTS], read_object(own[CONFIG]), part.weight) for own, part in added]
        return make_plan(
            self._tokenized,
            read_config(self.base["config.json"]),
            adapters[0][WEIGHTS],
            read_object(adapters[0][CONFIG]),
            policy,
            scale=recipe.scale,
            extras=extras,
            whole=self._whole,
            metadata=metadata,
            scratch=Path(tempfile.mkdtemp(prefix="loaded-", dir=self._scratch)),
        )

    @cached_property
    def _tokenized(self) -> dict[str, Path]:
        """The base's files with the adapter's tokenizer, and its end token in the generation settings."""
        files = with_tokenizer(self.base, self.adapters[0])
        if (generation := with_own_end(self.base, files)) is not None:
            files[GENERATION] = self._scratch / GENERATION
            write_document(files[GENERATION], generation)
        return files

    @cached_property
    def _whole(self) -> ReplacedTensors | None:
        part = self.fuse_inputs.adapter
        if form_of(entry.path for entry in part.files) == "mlx" or not self.adapters:
            return None
        files = {entry.path: self._place(0, entry.path) for entry in part.files}
        return whole_of(part.name, files, self.base, self._scratch / "whole.safetensors")

    def sample(self, recipe: Recipe, *, shaped: bool = False) -> Sampled:
        """Estimate the fidelity of a recipe without writing anything; at random where its calibration is not to shape it."""
        from ..engine.engine import Sampled, own_bits, sample

        inputs = self.fuse_inputs
        plan = self.plan(policy_of(recipe, 0, self._calibration(recipe) if shaped else None), recipe)
        sizes, own = {}, {}
        for module in plan.modules:
            sizes[module.path] = sum(tensor_bytes(dtype, shape) for _, dtype, shape in module.written())
            own[module.path] = own_bits(module.grid, inputs.quantization)
        return Sampled(sample(plan), plan.size, sizes, own)

    def _calibration(self, recipe: Recipe) -> CalibrationFile | None:
        ours = self.fuse_inputs
        return calibration_of(self._workspace, recipe, ours.base, ours.adapter, self._scratch)

    def compute(
        self,
        recipe: Recipe,
        key: Digest,
        folder: Path,
        check: Callable[[], None],
        progress: Callable[[int, int], None] | None,
        *,
        publish: bool = False,
    ) -> tuple[Manifest, FuseFidelity]:
        """Write the fused model into an empty folder, verifying every byte that is read."""
        from ..engine.engine import fuse

        policy = policy_of(recipe, seed_of(key), self._calibration(recipe))
        plan = self.plan(policy, recipe, {"fusery.key": key})
        # There must be room in the cache, beside the database and, where it goes there, in the store.
        held = self._workspace.cache.in_use_here()
        needs = [Need(folder.parent, [held, *plan.sizes], taken=held), *self._workspace.notes]
        needs += needs_of(self._workspace.store, plan.sizes) if publish else ()
        hint = "fusery admin cache prune, or set FUSERY_CACHE_DIR to a folder on another disk"
        require_rooms(needs, hint=hint)
        fuse_progress = None if progress is None else lambda done: progress(done, plan.size)
        if not self._verify:
            fused = fuse(plan, folder, check=check, progress=fuse_progress)
            return Manifest.of(fused.files), fused.fidelity
        manifest = self.fuse_inputs.base.manifest.value
        with watched(self.base, manifest) as watch:
            copied = {name for name, path in self._tokenized.items() if self.base.get(name) == path}
            unverified = unproven(self._workspace, manifest, self.base)
            left = Manifest.of(entry for entry in unverified if entry.path in copied)
            require_digests(self.base, Manifest.of(entry for entry in unverified if entry.path not in copied))
            expected = {entry.path: entry.sha256 for entry in left}
            fused = fuse(plan, folder, check=check, progress=fuse_progress, expected=expected)
            record_verified(self._workspace, watch, left)
        return Manifest.of(fused.files), fused.fidelity

    @cached_property
    def base(self) -> dict[str, Path]:
        """The base's files by name."""
        base = self.fuse_inputs.base
        return locate_files(self._workspace, base, self._scratch, progress=self._arrived)

    @cached_property
    def adapters(self) -> list[dict[str, Path]]:
        """The files of each adapter by name, verified: they are small, and read whole by the plan."""
        return [self._fetched(number, part) for number, part in enumerate(self.fuse_inputs.parts)]

    def _place(self, number: int, path: str) -> Path:
        return self._scratch / f"adapter-{number}-{path.replace('/', '-')}"

    def _fetched(self, number: int, part: AdapterPart) -> dict[str, Path]:
        digests = [entry.sha256 for entry in part.files]
        generations = blob_generations(self._workspace, digests)
        fetched_files = {}
        for entry in part.files:
            fetched_files[entry.path] = self._place(number, entry.path)
            generation = generations[entry.sha256]
            local_path = self._workspace.store.local_path(entry.sha256, generation=generation)
            if local_path is not None and not self._verify:
                shutil.copyfile(local_path, fetched_files[entry.path])
            else:
                self._workspace.store.fetch(entry.sha256, fetched_files[entry.path], generation=generation)
        expected = part.rendering if self._verify else None
        base = recorded_architecture(self.fuse_inputs.base)
        scratch = self._scratch / f"rendered-{number}"
        return render("mlx", fetched_files, base, scratch, expected=expected)


def gather(
    workspace: Workspace,
    reference: str,
    extras: Sequence[tuple[str, float]] = (),
    *,
    base: str | None = None,
    yanked: bool = False,
) -> FuseInputs:
    """Return the inputs for fusing an adapter onto its base model, or onto another form of that."""
    with workspace.database.read() as session:
        adapters = [resolve_adapter(session, text) for text in (reference, *(text for text, _ in extras))]
        weights = [1.0, *(weight for _, weight in extras)]
        onto = adapters[0].base if base is None else resolve_base(session, base)
        for adapter in adapters:
            require_fusable(adapter.name, adapter.method, adapter.training, onto.quantization)
            if extras:
                require_usable_unfused(adapter.name, adapter.method, adapter.training, "added to others")
                require_factors_alone(
                    adapter, "and cannot be added to others: it replaces tensors of the base"
                )
            if not yanked:
                refuse_yanked(session, adapter)
            if adapter.base_id != onto.id and base is not None:
                _require_fitting(adapter)
            elif adapter.base_id != onto.id:
                first = f"{adapters[0].name} on {onto.name}"
                message = f"{adapter.name} was trained on {adapter.base.name}, {first}"
                raise BadInputError(message, hint="fusery list --base NAME")
        parts = tuple(part_of(adapter, weight) for adapter, weight in zip(adapters, weights, strict=True))
        own = {adapter.base.id: (adapter.base, adapter.name) for adapter in adapters}
        for row in (onto, *(row for row, _ in own.values())):
            assert row.names is not None
            assert row.manifest.files is not None
        inputs = FuseInputs(workspace, onto, parts)
        calibration = current_calibration(session, onto) if inputs.shaped else None
    for row, name in own.values():
        require_form(workspace, onto, row, name)
    if calibration is None:
        return inputs
    learned = [] if extras else learned_with(workspace, parts[0].digest, calibration)
    return replace(inputs, calibration=Digest(calibration.digest), learned=learned[0] if learned else None)


def _require_fitting(adapter: tables.AdapterRow) -> None:
    """Refuse to fuse an adapter onto another form of its base if only its own base gives it a meaning."""
    aware = aware_of(adapter.method, adapter.training) is not None
    if aware or adapter.method == "full":
        what = "was trained through a quantiser" if aware else "is the result of full fine-tuning"
        hint = f"fusery fuse {adapter.name}"
        raise BadInputError(f"{adapter.name} {what}, for its own base model alone", hint=hint)
    require_factors_alone(adapter, "and cannot be fused onto another form of its base model")
