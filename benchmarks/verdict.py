"""Is the verdict right?  Many fuses, each measured twice: from its weights, as fusery does, and by what the model does.

    python benchmarks/verdict.py --bases FOLDER
    python benchmarks/verdict.py --bases FOLDER --quick
    python benchmarks/verdict.py --report --plot docs/pictures/verdict.png

The adapters are those of adapters/, really trained, two tasks; they are fused into bases of 2 to 16 bits, in each
precision, also at other scales than their own, and in sums.  FOLDER holds the bases (adapters/README.md says how to make them);
cases whose base is not there are left out.  A row is kept as soon as it is measured, in `--rows`, and not measured
again; `--report` prints what the rows say and writes results/verdict.json.  behaviour.py says how to make mlx fast; where there
is no mlx, PyTorch runs the models (behaviour_torch.py).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import groupby, product
from pathlib import Path
from typing import Any

from behaviour import Predictions, Sample, compare, dialogue_samples, read_dialogues, text_samples
from thresholds import draw, read_rows, report

from fusery.registry import Registry
from fusery.registry.engine.calibration import CalibrationFile, read_calibration
from fusery.registry.engine.engine import fuse
from fusery.registry.engine.plan import AddedAdapter, make_plan
from fusery.registry.engine.policy import Quantize, WritePolicy
from fusery.registry.records.calibrations import fetch_calibration

if find_spec("mlx"):
    from behaviour import add_adapter, load_model, load_tokenizer, predict
else:
    from behaviour_torch import add_adapter, load_model, load_tokenizer, predict

HERE = Path(__file__).parent
ADAPTERS = HERE / "adapters"
EXAMPLE = HERE.parent / "examples" / "course_rec"
TASKS = {
    "facts": "adapters/data/facts",
    "dates": "adapters/data/dates",
    "courses": "../examples/course_rec/data",
}
ROWS = Path(tempfile.gettempdir()) / "verdict-rows.jsonl"
RESULTS = HERE / "results" / "verdict.json"
SMOL, GEMMA, TINY = "SmolLM2-135M-Instruct", "gemma-3-270m", "tiny-bytes"
V1, V2 = "adapters_course_rec_v1_20261120", "adapters_course_rec_v2_20261124"
CALIBRATED = "-calibrated"
TEXT = 48
"""Tokens of each general text."""


@dataclass(frozen=True, slots=True)
class Case:
    """One fuse.

    Attributes:
        adapter: a folder of adapters/ or of the example course_rec.
        base: a folder of bases.
        precision: of fusery; digits behind it are bits (`mixed5`, and `quantize4` for every layer in groups of 32),
            and with `-calibrated` the rounding goes by what the base's layers get to see of fusery's built-in texts.
        factor: of the adapter's own scale.
        added: another adapter, which is added at its own scale; the task is the first one's.
    """

    adapter: str
    base: str
    precision: str
    factor: float = 1.0
    added: str = ""


@dataclass(frozen=True, slots=True)
class Samples:
    """What a model is run over: questions of the adapter's task, held out, and general text."""

    task: list[Sample]
    general: list[Sample]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a model predicts for both."""

    task: Predictions
    general: Predictions


def cases() -> list[Case]:
    """Return every case of the study."""
    of = "facts_r8", "facts_r2_small", "facts_r8_large", "facts_r32", "facts_qv", "facts_all", "courses_r8"
    main, small, large, wide, _, _, courses = of
    listed = [Case(name, f"{SMOL}-4bit", way) for name in of for way in ("keep", "dither", "mixed5")]
    listed += [
        Case(name, f"{SMOL}-4bit", way)
        for name in (main, small, courses)
        for way in ("mixed6", "mixed8", "dequantize")
    ]
    listed += [
        Case(name, f"{SMOL}-3bit", way) for name in (main, large, courses) for way in ("keep", "dither")
    ]
    listed += [Case(main, f"{SMOL}-3bit", way) for way in ("mixed4", "dequantize")]
    listed += [Case(large, f"{SMOL}-2bit", way) for way in ("keep", "dither")]
    listed += [
        Case(name, f"{SMOL}-{bits}bit", "keep") for bits in (5, 6, 8) for name in (main, small, courses)
    ]
    listed += [Case(small, f"{SMOL}-{bits}bit", "dither") for bits in (5, 6, 8)]
    listed += [Case(name, SMOL, "keep") for name in (main, small)]
    listed += [Case(main, SMOL, f"quantize{bits}") for bits in (3, 4, 8)]
    listed += [
        Case(name, f"{SMOL}-4bit", way, factor)
        for name, factors in {
            main: (0.3, 0.5, 2.0),
            large: (0.1, 0.3),
            wide: (0.3, 3.0),
            courses: (0.5, 2.0),
            small: (0.3, 3.0),
        }.items()
        for factor in factors
        for way in ("keep", "dither")
    ]
    listed += [Case(V1, f"{SMOL}-4bit", way) for way in ("keep", "dither")]
    listed += [Case(V2, f"{SMOL}-4bit", way) for way in ("keep", "dither", "mixed5")]
    listed += [Case(V2, SMOL, way) for way in ("keep", "quantize4")]
    listed += [
        Case(name, base, way)
        for name, base, ways in (
            ("gemma_facts_r8", f"{GEMMA}-4bit", ("keep", "dither", "mixed5", "mixed6")),
            ("gemma_facts_r2_small", f"{GEMMA}-4bit", ("keep", "dither", "mixed5", "mixed6")),
            ("tiny_facts_r8", f"{TINY}-4bit", ("keep", "dither", "mixed5", "dequantize", "quantize3")),
        )
        for way in ways
    ]
    for name, base in (("gemma_facts_r8", GEMMA), ("tiny_facts_r8", TINY)):
        listed += [Case(name, f"{base}-4bit", way, 0.3) for way in ("keep", "dither")]
    shaped = [(name, f"{SMOL}-4bit", 1.0) for name in (*of, V2)] + [(main, f"{SMOL}-3bit", 1.0)]
    shaped += [(main, f"{SMOL}-4bit", 0.3), (small, f"{SMOL}-4bit", 0.3), (large, f"{SMOL}-4bit", 0.1)]
    shaped += [("gemma_facts_r8", f"{GEMMA}-4bit", 1.0), ("gemma_facts_r2_small", f"{GEMMA}-4bit", 1.0)]
    listed += [Case(name, base, "dither-calibrated", factor) for name, base, factor in shaped]
    listed += [Case(name, f"{SMOL}-4bit", "mixed5-calibrated") for name in (main, small, courses)]
    listed += more_cases()
    return sorted(
        set(listed), key=lambda case: (case.base, case.adapter, case.factor, case.added, case.precision)
    )


def more_cases() -> list[Case]:
    """Return the cases that were added to the first 120: other group sizes and scales, sums."""
    of = "facts_r8", "facts_r2_small", "facts_r8_large", "facts_r32", "facts_qv", "facts_all", "courses_r8"
    main, small, _, wide, thin, every, courses = of
    both, four = ("keep", "dither"), f"{SMOL}-4bit"
    listed = [Case(name, f"{four}-g{size}", way) for size, name, way in product((64, 128), of, both)]
    listed += [Case(name, f"{SMOL}-3bit", way) for name, way in product(of, (*both, "mixed5"))]
    listed += [Case(name, f"{SMOL}-2bit", way) for name, way in product((main, wide, courses), both)]
    listed += [
        Case(name, f"{SMOL}-5bit", way) for name, way in product((main, small, thin, every, courses), both)
    ]
    listed += [Case(name, f"{SMOL}-6bit", "keep") for name in (thin, every)]
    listed += [
        Case(name, four, way, factor) for name, factor, way in product(of, (0.2, 0.5, 0.7, 1.5, 2.0), both)
    ]
    listed += [
        Case(name, four, way, factor)
        for name, factor, way in product((main, every, courses), (0.3, 0.6), ("mixed5", "mixed6"))
    ]
    listed += [
        Case(name, SMOL, f"quantize{bits}")
        for name, bits in product((small, thin, every, courses), (3, 4, 8))
    ]
    listed += [
        Case(name, four, way, 1.0, added)
        for (name, added), way in product(
            (
                (main, courses),
                (courses, main),
                (every, courses),
                (small, courses),
                (thin, courses),
                (wide, main),
            ),
            (*both, "mixed5", "mixed6"),
        )
    ]
    listed += [
        Case(name, four, "dither-calibrated", factor)
        for name, factor in product((main, every, courses), (0.5, 2.0))
    ]
    listed += [
        Case(name, f"{GEMMA}-4bit", way, factor)
        for name, factor, way in product(("gemma_facts_r8", "gemma_facts_r2_small"), (0.5, 2.0), both)
    ]
    listed += [
        Case("tiny_facts_r8", f"{TINY}-4bit", way, factor)
        for factor, way in product((0.1, 0.2, 0.5, 0.7), (*both, "mixed5", "mixed6"))
    ]
    return listed


def quick_cases() -> list[Case]:
    """Return the few of --quick."""
    few = ("facts_r8", f"{SMOL}-4bit", 1.0)
    return [case for case in cases() if (case.adapter, case.base, case.factor) == few][:4]


def main() -> None:
    """Measure what is missing and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bases", type=Path, help="folder of the base models")
    parser.add_argument("--adapters", type=Path, default=ADAPTERS)
    parser.add_argument("--rows", type=Path, default=ROWS, help="what was measured (%(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder for fused models")
    parser.add_argument("--samples", type=int, default=15, help="questions of a task")
    parser.add_argument("--quick", action="store_true", help="a few cases and questions only")
    parser.add_argument("--report", action="store_true", help="report and write the results")
    parser.add_argument(
        "--plot", type=Path, help="draw the scatter plot (needs matplotlib: pip install matplotlib)"
    )
    options = parser.parse_args()
    if options.quick:
        options.rows = options.rows.with_name(f"quick-{options.rows.name}")
        options.rows.unlink(missing_ok=True)
    if options.bases:
        wanted, samples = (quick_cases(), 6) if options.quick else (cases(), options.samples)
        measure(wanted, options, samples)
    if options.report or options.plot:
        # From what was measured here, or else from what was published with the benchmark.
        measured = options.rows.exists()
        rows = read_rows(options.rows) if measured else read_results(RESULTS)
        summary = report(rows)
        if measured and not options.quick:
            write_results(RESULTS, summary, rows)
        if options.plot:
            draw(rows, options.plot)


def write_results(file: Path, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write a JSON file with the rows as a table."""
    table = {"columns": list(rows[0]), "rows": [list(row.values()) for row in rows]}
    file.parent.mkdir(exist_ok=True)
    text = json.dumps(summary | table, separators=(",", ":")).replace("[[", "[\n[").replace("],[", "],\n[")
    file.write_text(text + "\n", encoding="utf-8")


def read_results(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of `write_results`."""
    found = json.loads(file.read_text(encoding="utf-8"))
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def measure(wanted: Iterable[Case], options: argparse.Namespace, samples: int) -> None:
    """Measure the cases that have no row yet, base after base, adapter after adapter."""
    done = [padded(row["case"]) for row in read_rows(options.rows)] if options.rows.exists() else []
    missing = [case for case in wanted if [*asdict(case).values()] not in done]
    here = [
        case
        for case in missing
        if _base(case.base, options).exists() and _folder(case.adapter, options).exists()
    ]
    if len(here) < len(missing):
        print(f"{len(missing) - len(here)} cases left out: base or adapter is not there")
    for base_name, of_base in groupby(here, key=lambda case: case.base):
        for row in _rows(_base(base_name, options), list(of_base), options, samples):
            with options.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(*row["case"], f"retained {row['retained']:.3f}  kept {row['kept']:.3f}", flush=True)


def padded(case: list[Any]) -> list[Any]:
    """Return a row's case with what its columns were when it was measured, and nothing added."""
    return case + [""] * (5 - len(case))


def _rows(
    base: Path, of_base: list[Case], options: argparse.Namespace, count: int
) -> Iterator[dict[str, Any]]:
    tokenizer = load_tokenizer(base)
    lines = (ADAPTERS / "data" / "general.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    alone: dict[str, Behaviour] = {}
    for (name, factor, added), of_adapter in groupby(
        of_base, key=lambda case: (case.adapter, case.factor, case.added)
    ):
        adapter = _folder(name, options)
        task, dialogues = _task(adapter), read_dialogues(data_of(adapter))
        some = dialogues[:: max(1, len(dialogues) // count)][:count]
        samples = Samples(dialogue_samples(tokenizer, some), text_samples(tokenizer, texts, TEXT))
        model = load_model(base)
        if task not in alone:
            alone = {task: behave(model, samples)}
        update = add_adapter(model, adapter, factor=factor)
        if added:
            add_adapter(model, _folder(added, options))
        adapted = behave(model, samples)
        del model
        for case in of_adapter:
            started = time.monotonic()
            weights, fused = fused_behaviour(case, base, adapter, samples, options)
            row = {"case": [*asdict(case).values()], "update": update, **weights}
            row |= figures(alone[task], adapted, fused) | {"seconds": time.monotonic() - started}
            yield {
                key: float(f"{value:.5g}") if isinstance(value, float) else value
                for key, value in row.items()
            }


def behave(model: Any, samples: Samples) -> Behaviour:
    """Run a model over both."""
    return Behaviour(predict(model, samples.task), predict(model, samples.general))


def fused_behaviour(
    case: Case, base: Path, adapter: Path, samples: Samples, options: argparse.Namespace
) -> tuple[dict[str, Any], Behaviour]:
    """Fuse with fusery's engine; return the figures of the weights, and what the model does."""
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    calibration = (
        calibration_of(base, options.rows.parent, options.scratch)
        if case.precision.endswith(CALIBRATED)
        else None
    )
    extras = [_extra(_folder(case.added, options))] if case.added else []
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        files = {path.name: path.resolve() for path in base.iterdir()}
        plan = make_plan(
            files,
            json.loads((base / "config.json").read_text(encoding="utf-8")),
            adapter / "adapters.safetensors",
            settings,
            policy(case.precision, calibration),
            weight=case.factor,
            extras=extras,
        )
        found = fuse(plan, Path(folder)).fidelity
        behaviour = behave(load_model(Path(folder)), samples)
    norms = sum(module.norm**2 for module in found.modules)
    lost = sum(module.norm**2 for module in found.modules if module.retained < 0.5)
    weights = {
        "retained": found.retained,
        "cosine": found.cosine,
        "relative_error": found.relative_error,
        "noise": found.noise,
        "least": min(module.retained for module in found.modules),
        "lost_part": lost / norms,
    }
    return weights, behaviour


def _extra(adapter: Path) -> AddedAdapter:
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return AddedAdapter(adapter / "adapters.safetensors", settings, 1.0)


def policy(precision: str, calibration: CalibrationFile | None = None) -> WritePolicy:
    """Return the policy that a case names."""
    name = precision.removesuffix(CALIBRATED)
    word, bits = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
    if word == "quantize":
        return WritePolicy("keep", quantize=Quantize(int(bits), 32))
    return WritePolicy(word, bits={"": int(bits)} if bits else {}, calibration=calibration)


def calibration_of(base: Path, kept_in: Path, scratch: Path | None) -> CalibrationFile:
    """Calibrate a base as `fusery base calibrate` does; the file stays for the next time."""
    file = kept_in / f"{base.name}.calibration.safetensors"
    if not file.exists():
        with tempfile.TemporaryDirectory(dir=scratch) as home, Registry.open(Path(home)) as registry:
            registry.bases.add(base, name="base")
            fetch_calibration(registry.workspace, registry.bases.calibrate("base").digest, file)
    return read_calibration(file)


def figures(alone: Behaviour, adapted: Behaviour, fused: Behaviour) -> dict[str, float]:
    """Compare base, base + adapter and fused model."""
    gain = alone.task.loss - adapted.task.loss
    found = {
        "gain": gain,
        "excess": fused.task.loss - adapted.task.loss,
        "kept": (alone.task.loss - fused.task.loss) / gain,
        "loss_base": alone.task.loss,
        "loss_adapter": adapted.task.loss,
        "loss_fused": fused.task.loss,
        "exact_adapter": adapted.task.exact,
        "exact_fused": fused.task.exact,
    }
    for part in ("task", "general"):
        reference = getattr(adapted, part)
        near, far = compare(reference, getattr(fused, part)), compare(reference, getattr(alone, part))
        found |= {f"kl_{part}": near.kl, f"top1_{part}": near.top1, f"kl_base_{part}": far.kl}
    return found


def _base(name: str, options: argparse.Namespace) -> Path:
    own = HERE / "bases" / name
    return own if own.exists() else Path(options.bases) / name


def _folder(adapter: str, options: argparse.Namespace) -> Path:
    return (EXAMPLE if adapter in (V1, V2) else Path(options.adapters)) / adapter


def data_of(adapter: Path) -> Path:
    """Return the held-out questions of an adapter's task."""
    return (HERE / TASKS[_task(adapter)] / "valid.jsonl").resolve()


def _task(adapter: Path) -> str:
    if adapter.parent == EXAMPLE:
        return "courses"
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return str(settings["data"]).rpartition("/")[2]


if __name__ == "__main__":
    main()
