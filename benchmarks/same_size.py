"""How near a fuse at exactly the base's size comes to base + adapter: bases, tasks and seeds.

    python benchmarks/same_size.py --bases FOLDER --torch-python .venv-peft/bin/python
    python benchmarks/same_size.py --bases FOLDER --torch-python PYTHON --base gemma-3-270m-4bit
    python benchmarks/same_size.py --report --page docs/precision.md

FOLDER holds the bases (adapters/README.md says how to make them); those that are not there are left out.  fusery's engine writes the
models, by `keep`, whose tensors are those of `mlx_lm.fuse`, and by `dither`, with what `fusery base calibrate` gives for the base where
the format takes that.  A process with PyTorch and transformers runs them in float32 over all held-out questions of the task and over
the general text of policies.py, and compares with base + adapter.  With `--learn` scales and biases are learned for each adapter, too,
from what `fusery base calibrate BASE --adapter REF` takes where a run recorded its data.  A row goes to results/same_size.json as
soon as its pair is measured, and is not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusery.registry.engine.policy import WritePolicy

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "same_size.json"
SMOL, GEMMA, QWEN = "SmolLM2-135M-Instruct", "gemma-3-270m", "Qwen2.5-Coder-0.5B-Instruct"
TASKS = "facts_r8", "courses_r8", "dates_r4"
BASES = {
    f"{SMOL}-4bit": TASKS,
    f"{SMOL}-4bit-g64": TASKS,
    f"{GEMMA}-4bit-g32": tuple(f"gemma_{name}" for name in TASKS),
    f"{GEMMA}-4bit": tuple(f"gemma_{name}" for name in TASKS),
    f"{QWEN}-4bit": ("qwen_facts_r8",),
    f"{SMOL}-3bit": TASKS,
    f"{SMOL}-mxfp4": TASKS[:1],
    f"{SMOL}-nvfp4": TASKS[:1],
}
"""Base to adapters."""

CALIBRATED = "affine"
"""The format that a calibration shapes."""

SEEDS = 5
REFERENCE = "base + adapter"
MARKS = "<!-- made by benchmarks/same_size.py --report --page -->", "<!-- end -->"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Output:
    """One way to write a model; `codes` and `learned` are `dither` with the base's scales, and with those that were learned."""

    way: str
    seed: int = 0

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.way}-{self.seed}"


def outputs(base: str, adapter: str, seeds: int, *, learn: bool) -> list[Output]:
    """Return what is written for a pair."""
    ways = ("codes", "dither") if (base, adapter) == (f"{SMOL}-4bit", TASKS[0]) else ("dither",)
    some = [Output("keep"), *(Output(way, seed) for way in ways for seed in range(seeds))]
    return [*some, Output("learned")] if learn else some


def main() -> None:
    """Measure what is missing, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bases", type=Path, help="folder of the base models")
    parser.add_argument("--base", action="append", help="one of them, again for more (all)")
    parser.add_argument("--adapters", type=Path, default=HERE / "adapters")
    parser.add_argument("--adapter", action="append", help="one of them, again for more (all)")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--learn", action="store_true", help="also learn scales and biases, which takes long")
    parser.add_argument("--rows", type=Path, default=RESULTS, help="what was measured (%(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder for fused models and calibrations")
    parser.add_argument("--torch-python", type=Path, help="a Python with PyTorch and transformers")
    parser.add_argument("--report", action="store_true", help="only print what was measured")
    parser.add_argument("--page", type=Path, help="put the tables into this page, between its marks")
    parser.add_argument("--judge", type=Path, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.judge is not None:
        judge(*options.judge)
        return
    if options.bases and not options.report:
        measure(options)
    rows = read_rows(options.rows)
    print(tables(rows))
    if options.page:
        before, mark, rest = options.page.read_text(encoding="utf-8").partition(MARKS[0])
        _, end, after = rest.partition(MARKS[1])
        if not (mark and end):
            raise SystemExit(f"the page has no place for tables, which is {' … '.join(MARKS)}")
        options.page.write_text(f"{before}{mark}\n\n{tables(rows)}\n\n{end}{after}", encoding="utf-8")


def read_rows(file: Path) -> list[Row]:
    """Return what was measured."""
    found: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return found


def measure(options: argparse.Namespace) -> None:
    """Measure each pair that has no rows yet."""
    for base_name, adapters in BASES.items():
        base = options.bases / base_name
        if not base.exists() or base_name not in (options.base or BASES):
            continue
        for name in adapters:
            known = read_rows(options.rows)
            done = {row["output"] for row in known if (row["base"], row["adapter"]) == (base_name, name)}
            adapter = options.adapters / name
            wanted = outputs(base_name, name, options.seeds, learn=options.learn)
            wanted = [output for output in wanted if output.name not in done]
            if not wanted or not adapter.exists() or name not in (options.adapter or adapters):
                continue
            found = [
                row for row in measured_pair(base, adapter, wanted, options) if row["output"] not in done
            ]
            rows = [*read_rows(options.rows), *found]
            lines = ",\n".join(json.dumps(row) for row in rows)
            options.rows.parent.mkdir(exist_ok=True)
            options.rows.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
            print(tables(rows), flush=True)


def measured_pair(
    base: Path, adapter: Path, wanted: Sequence[Output], options: argparse.Namespace
) -> list[Row]:
    """Write the models of a pair and have them judged."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        seconds = write(base, adapter, wanted, folder, options)
        command = [options.torch_python, __file__, "--judge", base, adapter, folder]
        done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
    about = {"base": base.name, "adapter": adapter.name}
    return [
        {**about, **row, **({"seconds": seconds[row["output"]]} if row["output"] in seconds else {})}
        for row in json.loads(done.stdout.splitlines()[-1])
    ]


def write(
    base: Path, adapter: Path, wanted: Sequence[Output], folder: Path, options: argparse.Namespace
) -> dict[str, float]:
    """Write the models; return the seconds of processors that each took."""
    from behaviour import dialogue_samples, load_tokenizer, read_dialogues
    from policies import general_texts
    from verdict import calibration_of, data_of

    from fusery.registry.engine.calibration import read_calibration
    from fusery.registry.engine.policy import WritePolicy

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    shaped = config["quantization"].get("mode", CALIBRATED) == CALIBRATED
    kept_in = options.scratch or Path(tempfile.gettempdir())
    calibration = calibration_of(base, kept_in, options.scratch) if shaped else None
    took: dict[str, float] = {}
    for output in wanted:
        policy = WritePolicy("keep")
        if output.way != "keep":
            fitted = output.way == "dither" and shaped
            policy = WritePolicy("dither", seed=output.seed, calibration=calibration, fitted=fitted)
        if output.way == "learned":
            own = read_calibration(learned_for(base, adapter, kept_in, options.torch_python))
            assert own.learned is not None
            policy = WritePolicy("dither", seed=own.learned.seed, calibration=own, fitted=True)
        started = time.process_time()
        fused_into(folder / output.name, base, adapter, policy)
        took[output.name] = round(time.process_time() - started, 1)
    tokenizer = load_tokenizer(base)
    samples = {
        "task": dialogue_samples(tokenizer, read_dialogues(data_of(adapter))),
        "general": list(general_texts(tokenizer)),
    }
    texts = {part: [[each.tokens, each.start] for each in some] for part, some in samples.items()}
    about = {"outputs": [output.name for output in wanted], "samples": texts}
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
    return took


def fused_into(place: Path, base: Path, adapter: Path, policy: WritePolicy) -> None:
    """Fuse with fusery's engine."""
    from fusery.registry.engine.engine import fuse
    from fusery.registry.engine.plan import make_plan

    files = {path.name: path.resolve() for path in base.iterdir()}
    config, settings = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (base / "config.json", adapter / "adapter_config.json")
    )
    place.mkdir()
    fuse(make_plan(files, config, adapter / "adapters.safetensors", settings, policy), place)


def learned_for(base: Path, adapter: Path, kept_in: Path, python: Path) -> Path:
    """Learn scales and biases as `fusery base calibrate BASE --adapter REF` does, or return the file of the last time."""
    from behaviour import load_tokenizer
    from safetensors.numpy import load_file
    from verdict import calibration_of, data_of

    from fusery.registry.engine.arithmetic import BF16, encode
    from fusery.registry.engine.calibration import Learned, Stored, write_calibration
    from fusery.registry.engine.policy import WritePolicy
    from fusery.research import learned_scales as learning
    from fusery.research.learn import LIMIT, STEPS
    from fusery.research.prompts import Texts, for_learning, read_prompts, tokenise
    from fusery.storage.digest import digest_file

    file = kept_in / f"{base.name}.{adapter.name}.learned.safetensors"
    if file.exists():
        return file
    own = data_of(adapter).with_name("train.jsonl")
    texts = Texts.called("texts", [*for_learning(), *read_prompts(own, LIMIT)], strict=False)
    learned_from, aside = learning._parted(tokenise(texts.prompts, load_tokenizer(base), strict=False))
    batches = [[each.tokens for each in batch] for batch in learning._batches(learned_from, STEPS)]
    about = {
        "aside": [each.tokens[: learning.LONGEST] for each in aside],
        "batches": batches,
        "rate": learning.RATE,
        "warm": learning._WARM,
        "last": learning._LAST,
        "first": learning._FIRST,
        "second": learning._SECOND,
        "farthest": learning._FARTHEST,
    }
    calibration = calibration_of(base, kept_in, kept_in)
    with tempfile.TemporaryDirectory(dir=kept_in) as scratch:
        folder = Path(scratch)
        (folder / "texts.json").write_text(json.dumps(about), encoding="utf-8")
        fused_into(
            folder / "fused", base, adapter, WritePolicy("dither", calibration=calibration, fitted=True)
        )
        command = [python, HERE / "learn_torch.py", base, folder / "fused", adapter, folder / "texts.json"]
        command += [folder / "learned.safetensors"]
        done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
        print(base.name, adapter.name, done.stdout.splitlines()[-1], flush=True)
        numbers = load_file(folder / "learned.safetensors")
    stored = {
        path: Stored(BF16, *(encode(numbers[f"{path}.{part}"], BF16) for part in ("scales", "biases")))
        for path in sorted({name.rpartition(".")[0] for name in numbers})
    }
    tokens = sum(len(each) for batch in batches for each in batch)
    known = {name: calibration.of(module) for module, name in calibration.modules.items()}
    digest = digest_file(adapter / "adapters.safetensors")[0]
    write_calibration(
        file,
        {name: each for name, each in known.items() if each is not None},
        calibration.modules,
        base=calibration.base,
        tokens=calibration.tokens,
        prompts=calibration.prompts,
        learned=(Learned(digest, 0, STEPS, tokens, texts.digest), stored),
    )
    return file


def judge(base: Path, adapter: Path, folder: Path) -> None:
    """Print what each model does, as a line of JSON: the base, base + adapter, and what lies in the folder."""
    from behaviour import Sample, compare
    from behaviour_torch import add_adapter, load_model, predict

    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    samples = {
        part: [Sample(tuple(tokens), start) for tokens, start in some]
        for part, some in about["samples"].items()
    }
    known: dict[str, list[Any]] = {}

    def row(output: str, model: Any) -> Row:
        """Compare sample by sample: a vocabulary of 262,144 words is a gigabyte for a thousand tokens."""
        found: Row = {"output": output, "questions": len(samples["task"])}
        for part, some in samples.items():
            totals = dict.fromkeys(("loss", "kl", "top1", "exact", "tokens"), 0.0)
            halves = [[0.0, 0.0], [0.0, 0.0]]
            for number, sample in enumerate(some):
                given = predict(model, [sample])
                if output == REFERENCE:
                    known.setdefault(part, []).append(given)
                near, count = compare(known[part][number], given), len(given.targets)
                for name, value in (("loss", given.loss), ("kl", near.kl), ("top1", near.top1)):
                    totals[name] += value * count
                totals["exact"] += given.exact
                totals["tokens"] += count
                halves[number % 2][0] += given.loss * count
                halves[number % 2][1] += count
            found |= {f"{name}_{part}": totals[name] / totals["tokens"] for name in ("kl", "top1")}
            if part == "task":
                found["loss"], found["exact"] = totals["loss"] / totals["tokens"], totals["exact"] / len(some)
                found["halves"] = [round(total / tokens, 5) for total, tokens in halves]
            else:
                found["tokens"] = int(totals["tokens"])
        return {name: round(value, 5) if isinstance(value, float) else value for name, value in found.items()}

    model = load_model(base)
    add_adapter(model, adapter)
    rows = [row(REFERENCE, model)]
    rows.append(row("base", load_model(base)))
    for name in about["outputs"]:
        rows.append(row(name, load_model(folder / name)))
    print(json.dumps(rows))


def tables(rows: Sequence[Row]) -> str:
    """Return a table: a line for each way to write each pair, with means and standard deviations over seeds."""
    lines = [HEAD, ("---",) * len(HEAD)]
    for base, adapter in dict.fromkeys((row["base"], row["adapter"]) for row in rows):
        some = [row for row in rows if (row["base"], row["adapter"]) == (base, adapter)]
        alone, adapted = (_of(some, way)[0] for way in ("base", REFERENCE))
        about = (
            f"{base}, {adapter}: {alone['loss']:.3f} to {adapted['loss']:.3f}, {adapted['exact']:.2f} exact"
        )
        for way in ("keep", "codes", "dither", "learned"):
            of_way = [row | {"beyond": row["loss"] - adapted["loss"]} for row in _of(some, way)]
            if of_way:
                lines.append((about, NAMES[way], *(_spread(of_way, *each) for each in FIGURES)))
                about = ""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


HEAD = (
    "base, adapter: loss without and with it",
    "output",
    "beyond base + adapter",
    "exact",
    "KL, task",
    "KL, general",
    "same top-1, general",
)
NAMES = {
    "keep": "`keep`, `mlx_lm.fuse`",
    "codes": "`dither`, codes alone",
    "dither": "`dither`",
    "learned": "`dither`, learned",
}
FIGURES = (
    ("beyond", "+.3f"),
    ("exact", ".2f"),
    ("kl_task", ".4f"),
    ("kl_general", ".4f"),
    ("top1_general", ".3f"),
)


def _of(rows: Sequence[Row], way: str) -> list[Row]:
    return [row for row in rows if row["output"] == way or row["output"].rpartition("-")[0] == way]


def _spread(rows: Sequence[Row], key: str, form: str) -> str:
    values = [row[key] for row in rows]
    mean = f"{statistics.fmean(values):{form}}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):{form.lstrip('+')}}"


if __name__ == "__main__":
    main()
