"""What each way to write a fused model costs and keeps: size, the task's loss, and how near it is to base + adapter.

    python benchmarks/policies.py --bases FOLDER
    python benchmarks/policies.py --bases FOLDER --pair facts_r8 --quick
    python benchmarks/policies.py --report --page docs/precision.md

FOLDER holds the bases; adapters/README.md says how to make them.  SmolLM2-135M-Instruct in 4 bits is what `fusery demo`
converts, after

    mlx_lm.convert --hf-path SmolLM2-135M-Instruct --mlx-path SmolLM2-135M-Instruct-4bit -q --q-bits 4 --q-group-size 32

The product is used as a user would: a base is added, an adapter registered, fused, the base calibrated with the built-in
texts, fused again; only `mixed` at a given width goes to the engine, since the command line has budgets instead.  The
models are run in float32 over all held-out questions of the task and over general text: licences as Debian ships them,
docstrings of Python's library, and adapters/data/general.jsonl; none of it is in the built-in texts of `calibrate`.

A row goes to results/policies.json as soon as it is measured, and is not measured again; `--report` prints the tables.
behaviour.py says how to make mlx fast.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from behaviour import (
    Sample,
    add_adapter,
    compare,
    dialogue_samples,
    load_model,
    load_tokenizer,
    read_dialogues,
    text_samples,
)
from policies_report import Row, filled, tables
from verdict import ADAPTERS, GEMMA, HERE, SMOL, V2, Behaviour, Samples, _folder, behave, data_of

from fusery.registry import Registry, Reporter
from fusery.registry.fusion.fuse import FuseRequest

RESULTS = HERE / "results" / "policies.json"
PAIRS = {
    "facts_r8": f"{SMOL}-4bit",
    "facts_r2_small": f"{SMOL}-4bit",
    "courses_r8": f"{SMOL}-4bit",
    "facts_qv": f"{SMOL}-4bit",
    V2: f"{SMOL}-4bit",
    "gemma_facts_r8": f"{GEMMA}-4bit",
}
"""Adapter to base; the first is the main one."""

KEYS = 5
"""Seeds of `dither` for the main pair; the others get two."""
QUESTIONS = 42
"""Of a task, at most."""
WIDTHS = 5, 6, 8
BUDGETS = 1.1, 1.2
LICENCES = Path("/usr/share/common-licenses")
TEXTS = ("GPL-3", "Artistic", "MPL-2.0")
MODULES = ("argparse", "statistics", "threading", "decimal")
TOKENS = 256
"""Of each general text."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to write the model.

    Attributes:
        name: as the table has it.
        request: what the registry is asked for; None if it is not the registry that writes.
        bits: of `mixed` at one width, which is asked of the engine.
        calibrated: the base was calibrated before.
        seed: of `dither`.
    """

    name: str
    request: FuseRequest | None = None
    bits: int | None = None
    calibrated: bool = False
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A fused model on disk.

    Attributes:
        folder: where.
        facts: what fusery says of it.
        like: the way that wrote the same tensors.
    """

    folder: Path
    facts: dict[str, Any] = field(default_factory=dict)
    like: str | None = None


def ways(seeds: int, *, few: bool = False) -> list[Way]:
    """Return every way, or only those that matter most; those that want no calibration first."""
    listed = [Way("keep", FuseRequest("keep", accept_loss=True)), Way("mlx_lm.fuse")]
    listed += [Way("dequantize", FuseRequest("dequantize"))]
    for calibrated in (False, True):
        some = [
            Way("dither", FuseRequest("dither", seed=seed, accept_loss=True), seed=seed)
            for seed in range(seeds)
        ]
        some += [Way("auto", FuseRequest())]
        some += [Way(f"mixed, {bits} bits", bits=bits) for bits in WIDTHS]
        some += [
            Way(f"mixed, budget {budget}x", FuseRequest("mixed", budget=budget, accept_loss=True))
            for budget in BUDGETS
        ]
        listed += [replace(way, calibrated=calibrated) for way in some]
    if few:
        main = ("dither", "auto", "mixed, 6 bits", f"mixed, budget {BUDGETS[-1]}x")
        listed = [way for way in listed if not (way.calibrated and way.name not in main)]
        listed = [
            way
            for way in listed
            if way.calibrated or way.name in ("dither", "keep", "mlx_lm.fuse", "dequantize")
        ]
    return listed


def main() -> None:
    """Measure what is missing, then print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bases", type=Path, help="folder of the base models")
    parser.add_argument("--adapters", type=Path, default=ADAPTERS)
    parser.add_argument("--pair", action="append", choices=PAIRS, help="adapter, again for more (all)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="what was measured (%(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder for fused models")
    parser.add_argument("--quick", action="store_true", help="few questions, texts and seeds, nothing kept")
    parser.add_argument("--report", action="store_true", help="only print what was measured")
    parser.add_argument("--page", type=Path, help="put the tables into this page, between its marks")
    options = parser.parse_args()
    results = Results(None if options.quick else options.results)
    if options.bases and not options.report:
        for adapter in options.pair or PAIRS:
            base = _base_folder(PAIRS[adapter], options.bases)
            if not base.exists():
                print(f"{adapter} is left out: {PAIRS[adapter]} is not there")
                continue
            Pair(base, _folder(adapter, options), quick=options.quick).measure(results, options.scratch)
    print(tables(results.rows))
    if options.page:
        text = options.page.read_text(encoding="utf-8")
        options.page.write_text(filled(text, results.rows), encoding="utf-8")


class Results:
    """The rows so far, and the file they are in."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.rows: list[Row] = []
        if file is not None and file.exists():
            self.rows = json.loads(file.read_text(encoding="utf-8"))["rows"]

    def missing(self, adapter: str, wanted: Sequence[Way]) -> list[Way]:
        """Return the ways that have no row yet."""
        done = {
            (row["output"], row["calibrated"], row["seed"]) for row in self.rows if row["adapter"] == adapter
        }
        return [way for way in wanted if (way.name, way.calibrated, way.seed) not in done]

    def add(self, row: Row) -> None:
        """Keep a row, at once."""
        self.rows.append(
            {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}
        )
        shown = {key: value for key, value in self.rows[-1].items() if value is not None}
        print(*(f"{key} {value}" for key, value in shown.items()), sep="  ", flush=True)
        if self._file is None:
            return
        self._file.parent.mkdir(exist_ok=True)
        versions = {name: version(name) for name in ("mlx", "mlx-lm", "numpy")}
        about = {"python": platform.python_version(), **versions, "general": [*TEXTS, *MODULES]}
        lines = ",\n".join(json.dumps(row) for row in self.rows)
        self._file.write_text(f'{{"about": {json.dumps(about)},\n"rows": [\n{lines}\n]}}\n', encoding="utf-8")


class Pair:
    """A base and an adapter."""

    def __init__(self, base: Path, adapter: Path, *, quick: bool = False) -> None:
        self.base, self.adapter, self.quick = base, adapter, quick

    def measure(self, results: Results, scratch: Path | None) -> None:
        """Measure what has no row yet."""
        references = [Way("base"), Way("base + adapter")]
        first = self.adapter.name == next(iter(PAIRS))
        wanted = [*references, *(ways(1) if self.quick else ways(KEYS) if first else ways(2, few=True))]
        missing = results.missing(self.adapter.name, wanted)
        if not missing:
            return
        samples = self._samples()
        model = load_model(self.base)
        alone = behave(model, samples)
        add_adapter(model, self.adapter)
        adapted = behave(model, samples)
        del model
        for way, found in zip(references, (alone, adapted), strict=True):
            if way in missing:
                results.add(self._row(way, {"size": 1.0}, figures(adapted, found)))
        del alone, found
        seen: dict[str, dict[str, float]] = {}
        with tempfile.TemporaryDirectory(dir=scratch) as folder, Writer(self, Path(folder)) as writer:
            for way in missing:
                if way in references:
                    continue
                written = writer.write(way)
                found_like = seen.get(written.like or "")
                if found_like is None:
                    found_like = figures(adapted, behave(load_model(written.folder), samples))
                seen[way.name] = found_like
                results.add(self._row(way, written.facts, found_like))

    def _samples(self) -> Samples:
        tokenizer = load_tokenizer(self.base)
        held_out = read_dialogues(data_of(self.adapter))
        texts = list(general_texts(tokenizer))
        held_out = held_out[:: max(1, len(held_out) // QUESTIONS)][:QUESTIONS]
        if self.quick:
            held_out, texts = held_out[:6], texts[:2]
        return Samples(dialogue_samples(tokenizer, held_out), texts)

    def _row(self, way: Way, facts: dict[str, Any], found: dict[str, float]) -> Row:
        unknown = dict.fromkeys(("wrote", "size", "verdict", "retained", "noise"))
        return {
            "adapter": self.adapter.name,
            "base": self.base.name,
            "output": way.name,
            "calibrated": way.calibrated,
            "seed": way.seed,
            **unknown,
            **facts,
            **found,
        }


def figures(adapted: Behaviour, found: Behaviour) -> dict[str, float]:
    """Compare what a model does with what base + adapter does."""
    known = {
        "loss": found.task.loss,
        "excess": found.task.loss - adapted.task.loss,
        "exact": found.task.exact,
        "questions": int(found.task.owners.max()) + 1,
        "tokens": len(found.general.targets),
    }
    for part in ("task", "general"):
        near = compare(getattr(adapted, part), getattr(found, part))
        known |= {f"kl_{part}": near.kl, f"top1_{part}": near.top1}
    return known


def general_texts(tokenizer: Any) -> Iterator[Sample]:
    """Yield samples of text that has nothing to do with any task, nor with the texts of `calibrate`."""
    lines = (ADAPTERS / "data" / "general.jsonl").read_text(encoding="utf-8").splitlines()
    yield from text_samples(tokenizer, [json.loads(line)["text"] for line in lines], TOKENS)
    for name in TEXTS:
        # From some way in, where it is prose and not a title page.
        text = (LICENCES / name).read_text(encoding="utf-8")
        yield from text_samples(tokenizer, [text[len(text) // 3 :]], TOKENS)
    for name in MODULES:
        yield from text_samples(tokenizer, [_docstrings(name)], TOKENS)


def _docstrings(name: str) -> str:
    module = importlib.import_module(name)
    documented = [value for word, value in vars(module).items() if not word.startswith("_")]
    found = [inspect.getdoc(value) or "" for value in documented if getattr(value, "__module__", "") == name]
    return "\n\n".join(dict.fromkeys(filter(None, [module.__doc__ or "", *found])))


class Writer:
    """A registry of its own with the pair in it; it is calibrated when the first way asks for that."""

    def __init__(self, pair: Pair, folder: Path) -> None:
        self._pair, self._folder = pair, folder
        self._registry = Registry.open(folder / "home")
        self._calibration: Path | None = None
        self._registry.bases.add(pair.base, name=pair.base.name)
        found = self._registry.adapters.register(pair.adapter, base=pair.base.name, task="task", version=1)
        self._name = str(found["name"])
        self._base_bytes = _weights(pair.base)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._registry.close()

    def write(self, way: Way) -> Written:
        """Write a model."""
        if way.calibrated:
            self._calibrate()
        if way.request is not None:
            fused = self._registry.fused.fuse(self._name, way.request, reporter=Reporter(print))
            return self._written(fused.path, fused["fidelity"], _recipe_in_words(fused), self._noise(fused))
        folder = self._folder / f"{way.name}-{way.calibrated}"
        if way.bits is None:
            self._run_mlx_lm(folder)
            equal, every = self._same(folder)
            facts = {"size": _weights(folder) / self._base_bytes, "same": f"{equal} of {every}"}
            return Written(folder, facts, "keep" if equal == every else None)
        fidelity = self._run_engine(folder, way.bits)
        return self._written(folder, fidelity, f"{way.bits} bits", fidelity["noise"])

    def _written(self, folder: Path, fidelity: dict[str, Any], wrote: str, noise: float | None) -> Written:
        facts = {
            "wrote": wrote,
            "size": _weights(folder) / self._base_bytes,
            "verdict": fidelity["verdict"],
            "retained": fidelity["retained"],
            "noise": noise,
        }
        return Written(folder, facts)

    def _noise(self, view: Any) -> float | None:
        from fusery.registry.fusion.known import recorded_measurement

        measured = recorded_measurement(self._registry.workspace, view["key"]).settled
        return None if measured is None else measured.noise

    def _calibrate(self) -> None:
        if self._calibration is not None:
            return
        from fusery.registry.records.calibrations import fetch_calibration

        report = self._registry.bases.calibrate(self._pair.base.name)
        print(f"calibrated: {report.tokens} tokens, {report.seconds:.0f} s", flush=True)
        self._calibration = fetch_calibration(
            self._registry.workspace, report.digest, self._folder / "calibration.safetensors"
        )

    def _run_engine(self, folder: Path, bits: int) -> dict[str, Any]:
        from fusery.registry.engine.calibration import read_calibration
        from fusery.registry.engine.engine import fuse
        from fusery.registry.engine.plan import make_plan
        from fusery.registry.engine.policy import WritePolicy

        known = None if self._calibration is None else read_calibration(self._calibration)
        base, adapter = self._pair.base, self._pair.adapter
        folder.mkdir()
        plan = make_plan(
            {path.name: path.resolve() for path in base.iterdir()},
            json.loads((base / "config.json").read_text(encoding="utf-8")),
            adapter / "adapters.safetensors",
            json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")),
            WritePolicy("mixed", bits={"": bits}, calibration=known),
        )
        found = fuse(plan, folder).fidelity
        return {"verdict": found.verdict, "retained": found.retained, "noise": found.noise}

    def _run_mlx_lm(self, folder: Path) -> None:
        # A preloaded BLAS multiplies in another order: these are to be the bits that mlx-lm writes by itself.
        plain = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
        command = [sys.executable, "-m", "mlx_lm", "fuse", "--model", self._pair.base.resolve()]
        command += ["--adapter-path", self._pair.adapter, "--save-path", folder]
        subprocess.run([*map(str, command)], check=True, env=plain, capture_output=True)

    def _same(self, folder: Path) -> tuple[int, int]:
        """Return how many of its tensors are those that `keep` writes, bit for bit, and of how many."""
        import mlx.core as mx

        kept = self._registry.fused.fuse(self._name, FuseRequest("keep", accept_loss=True)).path
        theirs, ours = (
            {
                name: value
                for path in place.glob("*.safetensors")
                for name, value in mx.load(str(path)).items()
            }
            for place in (folder, kept)
        )
        equal = 0
        for name, value in theirs.items():
            with suppress(KeyError):
                other = ours[name]
                equal += value.dtype == other.dtype and np.array_equal(
                    np.array(value.view(mx.uint8)), np.array(other.view(mx.uint8))
                )
        return equal, len(theirs | ours)


def _recipe_in_words(view: Any) -> str:
    recipe = view["recipe"]
    bits = sorted(set((recipe.get("bits") or {}).values()))
    words = [view["precision"], *([f"{'/'.join(map(str, bits))} bits"] if bits else [])]
    return " ".join(words)


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _base_folder(name: str, bases: Path) -> Path:
    own = HERE / "bases" / name
    return own if own.exists() else bases / name


if __name__ == "__main__":
    main()
