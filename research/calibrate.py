"""Calibrate a base: store statistics of its linear layers' inputs over some text, by which a fuse shapes its rounding.

For inputs x of n numbers, H is the mean of x x^T, never stored: it is multiplied with a few vectors as the model runs, first random
ones, then a basis of their images (the randomised range finder of Halko, Martinsson and Tropp, arXiv:0909.4061, algorithm 4.4).
H Q gives the approximation of Nystroem, H ~ (H Q) (Q^T H Q)^-1 (H Q)^T, never larger than H (algorithm 5.5 there).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusery.registry.engine.architectures import fingerprint
from fusery.registry.engine.arithmetic import BF16, rounded
from fusery.registry.engine.calibration import Directions, write_calibration
from fusery.registry.errors import ModelUnusableError
from fusery.registry.records.bases import base_folder
from fusery.registry.records.calibrations import (
    CALIBRATION,
    CalibrationReport,
    Reading,
    calibration_report,
    choose_calibration,
    current_calibration,
    record_calibration,
    recorded_calibration,
)
from fusery.registry.records.deposit import Deposit
from fusery.registry.records.references import resolve_base
from fusery.registry.workspace.workspace import Workspace
from fusery.storage.digest import Digest
from fusery.storage.progress import SILENT, Reporter

from .models import LoadedModel, batches, load_tokenizer
from .prompts import Sample, Texts, tokenise

LIMIT = 128  # default number of prompts of a file
FEW = 1_000  # tokens below which the directions say more of the texts than of the base
RANK = 32  # the number of directions stored per input


def calibrate(
    workspace: Workspace, base_reference: str, *, prompts: Path | None = None, reporter: Reporter = SILENT
) -> CalibrationReport:
    """Run a base over prompts, once for the same ones, and store the statistics of its layers' inputs for the fuses from now on."""
    texts, started = Texts.of(prompts, LIMIT), time.monotonic()
    reading = Reading(texts.label, texts.digest, RANK)
    with workspace.database.read() as session:
        base = resolve_base(session, base_reference)
        name, quantization = base.name, base.quantization
    if not isinstance(quantization, dict) or quantization.get("mode", "affine") != "affine":
        reporter.say(f"{name} is not quantised in affine codes: no fuse on it takes a calibration")
    if (calibration := recorded_calibration(workspace, base, reading)) is not None:
        _take(workspace, base.digest, calibration, reporter)
        return calibration
    with workspace.scratch() as scratch:
        file = scratch / CALIBRATION
        digest, tokens = _write(workspace, base_reference, texts, file, reporter)
        report = store(workspace, file, digest, reading, tokens, started, reporter)
    _take(workspace, digest, report, reporter)
    return report


def store(
    workspace: Workspace,
    file: Path,
    base_digest: str,
    reading: Reading,
    tokens: int,
    started: float,
    reporter: Reporter,
) -> CalibrationReport:
    """Put a calibration's file into the store and record it."""
    reporter.say("storing")
    deposit = Deposit(workspace.database, workspace.store, workspace.owner())
    deposit.put({CALIBRATION: file})
    with deposit.recording() as session:
        base = resolve_base(session, base_digest)
        manifest = deposit.commit(session)
        row, created = record_calibration(
            workspace, session, manifest, base, reading, tokens=tokens, engine=fingerprint()
        )
        return calibration_report(row, created=created, seconds=time.monotonic() - started)


def _take(workspace: Workspace, base: str, report: CalibrationReport, reporter: Reporter) -> None:
    with workspace.database.read() as session:
        current = current_calibration(session, resolve_base(session, base))
    if current is None or current.digest == report.digest:
        return
    with workspace.database.write() as session:
        made = {row.digest: row for row in resolve_base(session, base).calibrations}
        before = choose_calibration(session, made[report.digest])
    if before is not None:
        reporter.say(f"a fuse takes it from now on, and no longer {before.digest[:12]} on {before.prompts}")


def _write(
    workspace: Workspace, reference: str, texts: Texts, file: Path, reporter: Reporter
) -> tuple[Digest, int]:
    with workspace.database.read() as session:
        digest = Digest(resolve_base(session, reference).digest)
    with base_folder(workspace, digest) as folder:
        samples = tokenise(texts.prompts, load_tokenizer(folder), strict=texts.strict)
        tokens = sum(len(sample.tokens) for sample in samples)
        reporter.say(f"the base reads {tokens:,} tokens, {PASSES} times")
        if tokens < FEW:
            reporter.say(f"that is little: with {FEW:,} tokens or more, the texts matter less")
        model = LoadedModel.load(folder, numpy=True)
        input_moments = moments(model, samples, RANK, progress=reporter.progress)
    ids = {key: str(number) for number, key in enumerate(sorted(input_moments.inputs))}
    inputs = {ids[key]: _kept(moment) for key, moment in input_moments.inputs.items()}
    modules = {path: ids[key] for path, key in input_moments.modules.items()}
    write_calibration(file, inputs, modules, base=digest, tokens=tokens, prompts=texts.digest)
    return digest, tokens


def _kept(moment: Moment) -> Directions:
    directions = rounded(np.ascontiguousarray(moment.directions.T, np.float32), BF16)
    rest = moment.diagonal - np.square(directions, dtype=np.float64).sum(axis=0)
    return Directions(directions, np.maximum(rest, 0).astype(np.float32), float(moment.diagonal.mean()))


Matrix = NDArray[np.float64]
Inputs = NDArray[np.float32]

SPARE = 16  # how many directions are followed besides those that are wanted, so that the last of those are right, too
PASSES = 2
_SEED = 1871
_NEGLIGIBLE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """The statistics of the input of one or several linear layers."""

    directions: Matrix  # float64 (n, K), eigenvectors of about H times the roots of their eigenvalues
    diagonal: Matrix  # float64 (n,), of H, exact


@dataclass(frozen=True, slots=True)
class Moments:
    """The statistics of the inputs of all linear layers of a model."""

    modules: dict[str, str]  # path of a layer to the key of its input; layers with one input have one key
    inputs: dict[str, Moment]  # by key


@dataclass(slots=True)
class _Pass:
    """One run over all samples: H times a basis, summed up for each input."""

    basis: Callable[[str, int], NDArray[Any]]  # the factor of H, by key
    modules: dict[str, str]  # path of a layer to the key of its input, the path of its first layer
    images: dict[str, NDArray[Any]] = field(default_factory=dict)  # sum of x (x^T basis), by key
    squares: dict[str, Matrix] = field(default_factory=dict)  # sum of x * x, by key
    _seen: dict[bytes, str] = field(default_factory=dict)

    def add(self, path: str, inputs: Inputs) -> None:
        key = self.modules.get(path)
        if key is None:
            # Layers that share an input get the very same numbers, so that these tell which they are.
            key = self.modules[path] = self._seen.setdefault(sha256(inputs.tobytes()).digest(), path)
        if key != path:
            return
        basis = self.basis(key, inputs.shape[-1])
        exact = inputs.astype(np.float64)
        # In the precision of the basis: to find a span takes less than to find numbers.
        rows = exact if basis.dtype == np.float64 else inputs
        image = rows.T @ (rows @ basis)
        squares = np.einsum("ti,ti->i", exact, exact)
        if not np.isfinite(squares).all():
            raise ModelUnusableError(f"what goes into {path} is not finite")
        if key in self.images:
            self.images[key] += image
            self.squares[key] += squares
        else:
            self.images[key], self.squares[key] = image, squares


def moments(
    model: LoadedModel,
    samples: Sequence[Sample],
    rank: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Moments:
    """Return the largest directions of each linear layer's inputs: the same numbers for the same model, samples and libraries."""
    tokens = sum(len(sample.tokens) for sample in samples)
    done, counted = 0, ""

    def run(one: _Pass) -> None:
        def add(path: str, inputs: Inputs) -> None:
            nonlocal done, counted
            one.add(path, inputs)
            counted = counted or path  # tokens are counted by the first layer's inputs
            if path == counted and progress is not None:
                done += len(inputs)
                progress(done, PASSES * tokens)

        # Inputs that are not finite are refused, so NumPy need not warn of them.
        with np.errstate(invalid="ignore", over="ignore"):
            inputs_of(model, samples, add)

    random = cache(partial(_random, rank + SPARE))
    first = _Pass(lambda _, width: random(width), {})
    run(first)
    if not first.images:
        raise ModelUnusableError("the model has no linear layers that could be watched")
    bases = {key: np.linalg.qr(first.images.pop(key).astype(np.float64))[0] for key in list(first.images)}
    second = _Pass(lambda key, _: bases[key], first.modules)
    run(second)
    inputs = {}
    for key, basis in bases.items():
        directions = _directions(basis, second.images.pop(key) / tokens, rank)
        inputs[key] = Moment(directions, second.squares[key] / tokens)
    return Moments(first.modules, inputs)


def _random(count: int, width: int) -> Inputs:
    """Return random vectors (width, count), float32, the same for the same width."""
    return np.random.default_rng(_SEED).standard_normal((width, min(count, width)), np.float32)


def _directions(basis: Matrix, image: Matrix, rank: int) -> Matrix:
    """Return U (n, rank) with U U^T about H."""
    core = basis.T @ image
    values, vectors = np.linalg.eigh((core + core.T) / 2)
    kept = values > max(values[-1], 0.0) * _NEGLIGIBLE
    half = image @ (vectors[:, kept] / np.sqrt(values[kept]))
    left, sizes, _ = np.linalg.svd(half, full_matrices=False)
    directions = np.zeros((len(basis), min(rank, basis.shape[1])))
    count = min(directions.shape[1], len(sizes))
    directions[:, :count] = left[:, :count] * sizes[:count]
    return directions


def inputs_of(model: LoadedModel, samples: Sequence[Sample], report: Callable[[str, Inputs], None]) -> None:
    """Run a model (numpy=True) and report each linear layer's path and inputs (tokens, in), not to be changed; experts are left out."""
    from .layers import LINEAR, watch

    # The layer that an adapter wraps is called by the wrapper, which is watched under the layer's own path.
    watched = {
        path: module
        for path, module in model.network.named_modules()
        if isinstance(module, LINEAR) and not path.endswith(".linear")
    }

    def without_padding(path: str, real: NDArray[np.bool_], values: Inputs) -> None:
        if values.shape[: real.ndim] == real.shape:
            report(path, values[real])

    try:
        for _, tokens, real in batches(samples):
            for path, module in watched.items():
                watch(module, partial(without_padding, path, real))
            model.run(tokens, np.zeros(tokens.shape, bool))
    finally:
        for module in watched.values():
            watch(module, None)
