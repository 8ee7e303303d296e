"""How often is fusery's final verdict wrong on tasks, adapters and bases that chose no threshold?

    python benchmarks/unseen.py --bases FOLDER --folder FOLDER --calibrate   # where mlx is
    python benchmarks/unseen.py --bases FOLDER --folder FOLDER --train       # where PyTorch is, as are the next
    python benchmarks/unseen.py --bases FOLDER --folder FOLDER
    python benchmarks/unseen.py --folder FOLDER --report

The tasks are those of unseen_tasks.py; the thresholds were chosen on facts, courses, dates, times, tickets and names (verdict.py, and an
earlier version of this file).  Each fuse gets the verdict of its weights and, where that is UNSURE or LOST, of its answers, as
`fusery fuse --as FORMAT` does: the first 16 prompts of `valid.jsonl` and 12 general texts.  Behaviour is measured on other questions
and texts.  PyTorch runs the models (unseen_torch.py).
A row is kept as soon as it is measured, in FOLDER/rows.jsonl, and not measured again.  adapters/README.md says how to make the bases.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import combinations, groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import unseen_tasks
from behaviour import Sample, dialogue_samples, text_samples
from thresholds import GENERAL, read_rows
from verdict import (
    ADAPTERS,
    CALIBRATED,
    GEMMA,
    SMOL,
    TEXT,
    Case,
    calibration_of,
    policy,
    read_results,
    write_results,
)

from fusery.registry.engine.calibration import read_calibration
from fusery.registry.engine.engine import fuse
from fusery.registry.engine.plan import AddedAdapter, make_plan
from fusery.registry.engine.verdict import DEGRADED, LEAST_GAIN, LEAST_PROMPTS, LOST, PASS, UNSURE, VERDICTS
from fusery.registry.records.fused_rows import final_verdict
from fusery.research.models import ModelScores, TokenScores
from fusery.research.prompts import Prompt, _sample, built_in, read_prompts
from fusery.research.second_opinion import (
    AGREE,
    HALF,
    KEPT,
    NEAR,
    PROMPTS,
    TEXTS,
    judge_answers,
)

if TYPE_CHECKING:
    from unseen_torch import Asked, Reference

RESULTS = Path(__file__).parent / "results" / "unseen.json"
QWEN = "Qwen2.5-Coder-1.5B-Instruct"
JUDGED = 16  # questions of a task that behaviour is judged on
AUTO = "keep", "dither", "mixed5", "mixed6", "mixed8", "dequantize"
"""The formats that `auto` tries, in its order (registry/fusion/request.py)."""
DOWN = ("self_attn.o_proj", "mlp.down_proj")
FOUR = f"{SMOL}-4bit"
# Name -> base, task, rank, blocks from the end, learning rate, steps, dialogues in a step, seed, modules
SPECS: dict[str, tuple[str, str, int, int, float, int, int, int, tuple[str, ...] | None]] = {
    "prices": (FOUR, "prices", 8, 6, 2e-3, 40, 6, 10, None),
    "rooms": (FOUR, "rooms", 8, 6, 2e-3, 40, 6, 11, None),
    "mails": (FOUR, "mails", 8, 6, 2e-3, 40, 6, 12, None),
    "boxes_r4": (FOUR, "boxes", 4, 8, 2e-3, 40, 6, 13, None),
    "mails_r2": (FOUR, "mails", 2, 4, 4e-3, 40, 6, 14, None),
    "rooms_r4_small": (FOUR, "rooms", 4, 4, 5e-4, 30, 4, 15, None),
    "prices_r16_down": (FOUR, "prices", 16, 6, 2e-3, 30, 4, 16, DOWN),
    "gemma_prices_r8": (f"{GEMMA}-4bit", "prices", 8, 4, 3e-3, 30, 4, 17, None),
    "gemma_boxes_r4": (f"{GEMMA}-4bit", "boxes", 4, 6, 2e-3, 40, 4, 18, None),
    "gemma_mails_r2_small": (f"{GEMMA}-4bit", "mails", 2, 3, 6e-4, 30, 4, 19, None),
    "qwen_rooms_r8": (f"{QWEN}-4bit", "rooms", 8, 4, 1e-3, 25, 4, 20, None),
    "qwen_mails_r2_small": (f"{QWEN}-4bit", "mails", 2, 4, 5e-4, 25, 4, 21, None),
    "boxes_r16_bf16": (SMOL, "boxes", 16, 5, 3e-3, 40, 4, 22, None),
    "weights_r8": (FOUR, "weights", 8, 6, 2e-3, 40, 6, 30, None),
    "flights_r4": (FOUR, "flights", 4, 8, 2e-3, 40, 6, 31, None),
    "plates_r8": (FOUR, "plates", 8, 6, 2e-3, 40, 6, 32, None),
    "shelves_r16_down": (FOUR, "shelves", 16, 6, 2e-3, 30, 4, 33, DOWN),
    "shelves_r4_small": (FOUR, "shelves", 4, 4, 5e-4, 30, 4, 34, None),
    "flights_r2_small": (FOUR, "flights", 2, 4, 6e-4, 40, 6, 35, None),
    "plates_r2": (FOUR, "plates", 2, 6, 3e-3, 40, 6, 36, None),
    "weights_r4_all": (FOUR, "weights", 4, -1, 4e-4, 30, 4, 37, None),
    "gemma_weights_r8": (f"{GEMMA}-4bit", "weights", 8, 4, 3e-3, 30, 4, 38, None),
    "gemma_shelves_r2_small": (f"{GEMMA}-4bit", "shelves", 2, 3, 6e-4, 30, 4, 39, None),
    "qwen_flights_r4": (f"{QWEN}-4bit", "flights", 4, 4, 8e-4, 25, 4, 40, None),
}


def cases() -> list[Case]:
    """Return every case, those first that tell most; `measure` adds what `auto` would try besides."""
    second = [name for name in SPECS if is_second(name)]
    bases = {name: spec[0] for name, spec in SPECS.items() if name not in second}
    smol, gemma, qwen = (
        [name for name, base in bases.items() if base.startswith(word) and base != SMOL]
        for word in (SMOL, GEMMA, QWEN)
    )
    both, ways = AUTO[:2], AUTO[:4]
    listed = [Case(name, FOUR if base == SMOL else base, way) for name, base in bases.items() for way in ways]
    listed += [Case(name, FOUR, way, factor) for factor, name, way in product((0.5, 2.0), smol, AUTO[:3])]
    larger = [*product(gemma, [f"{GEMMA}-4bit"]), *product(qwen, [f"{QWEN}-4bit"])]
    listed += [
        Case(name, base, way, factor) for factor, (name, base), way in product((0.5, 2.0), larger, AUTO[:3])
    ]
    listed += [Case(name, f"{SMOL}-3bit", way) for name, way in product(smol, ways)]
    listed += [Case(name, base, f"dither{CALIBRATED}") for name, base in bases.items() if base != SMOL]
    listed += [Case(name, f"{GEMMA}-4bit-g32", way) for name, way in product(gemma, AUTO[:3])]
    listed += [Case(name, f"{FOUR}-g64", way) for name, way in product(smol, AUTO[:3])]
    pairs = ("prices", "mails"), ("mails_r2", "rooms"), ("boxes_r4", "prices")
    listed += [Case(one, FOUR, way, 1.0, other) for (one, other), way in product(pairs, AUTO[:3])]
    listed += [Case(name, f"{SMOL}-5bit", way) for name, way in product(smol, both)]
    listed += [Case(name, FOUR, way, 0.3) for name, way in product(smol, AUTO[:3])]
    listed += [Case(name, FOUR, f"mixed5{CALIBRATED}") for name in smol]
    listed += [Case(name, f"{SMOL}-8bit", "keep") for name in smol]
    listed += [Case(name, f"{SMOL}-3bit", way, 0.5) for name, way in product(smol, AUTO[:3])]
    listed += [
        Case(name, SMOL, way)
        for name, way in product(("boxes_r16_bf16", "mails", "rooms"), ("keep", "quantize4", "quantize8"))
    ]
    # Only for what `auto` takes: it begins with `keep`.
    onto = [f"{SMOL}{bits}" for bits in ("-4bit", "-3bit", "-4bit-g64", "-5bit", "-8bit")]
    scales = 0.3, 0.5, 0.75, 1.0, 1.5, 2.0
    listed += [Case(name, base, "keep", factor) for base, factor, name in product(onto, scales, smol)]
    listed += [
        Case(one, base, "keep", 1.0, other) for base, (one, other) in product(onto, combinations(smol, 2))
    ]
    listed += [Case(name, base, "keep", factor) for factor, (name, base) in product(scales, larger)]
    # The second study, too.
    larger = [(name, SPECS[name][0]) for name in second if SPECS[name][0] != FOUR]
    listed += [Case(name, base, "keep", factor) for factor, (name, base) in product((1.0, 0.5, 1.5), larger)]
    smol = [name for name in second if SPECS[name][0] == FOUR]
    for factor in (1.0, 0.5, 1.5, 0.75, 2.0):
        listed += [Case(name, base, "keep", factor) for base, name in product(onto, smol)]
        if factor == 1.0:
            listed += [
                Case(one, base, "keep", 1.0, other)
                for base, (one, other) in product(onto, combinations(smol, 2))
            ]
    return list(dict.fromkeys(listed))


def main() -> None:
    """Calibrate, train, measure or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bases", type=Path, help="folder of the base models")
    parser.add_argument("--folder", type=Path, help="where adapters, data and rows are kept")
    parser.add_argument("--calibrate", action="store_true", help="calibrate the bases (needs mlx)")
    parser.add_argument("--train", action="store_true", help="train the adapters that are missing")
    parser.add_argument("--report", action="store_true", help="report and write the results")
    parser.add_argument("--scratch", type=Path, help="folder for fused models")
    parser.add_argument("--only", default="", help="measure only bases with this in their name")
    parser.add_argument("--until", type=float, help="stop measuring at this time, in seconds since 1970")
    options = parser.parse_args()
    rows = options.folder / "rows.jsonl" if options.folder else None
    if options.calibrate:
        for base in (FOUR, f"{GEMMA}-4bit", f"{QWEN}-4bit"):
            calibration_of(options.bases / base, options.folder, None)
    elif options.train:
        train(options)
    elif options.bases:
        measure(options)
    if options.report:
        measured = read_rows(rows) if rows and rows.exists() else read_results(RESULTS)
        summary = report(measured)
        if rows and rows.exists():
            write_results(RESULTS, summary, measured)


def train(options: argparse.Namespace) -> None:
    """Train every adapter that is missing."""
    import torch
    import train_adapters as trainer

    torch.set_num_threads(2)
    unseen_tasks.write_data(options.folder / "data")
    trainer.VALIDATION = PROMPTS
    for task in unseen_tasks.TASKS:
        trainer.TASKS[task] = str((options.folder / "data" / task).resolve())
    for name, (base, task, rank, layers, rate, steps, batch, seed, keys) in SPECS.items():
        folder = options.folder / "adapters" / name
        if (folder / "training.json").exists() or not (options.bases / base).exists():
            continue
        spec = trainer.Spec(base, task, rank, 2.0, layers, rate, steps, keys, batch, seed=seed)
        row = trainer.train(spec, options.bases / base, folder, torch.bfloat16)
        (folder / "training.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
        print(name, json.dumps(row), flush=True)


def questions(task: str, folder: Path) -> tuple[Path, list[list[dict[str, str]]]]:
    """Return the file whose first prompts fusery asks, and the dialogues that behaviour is judged on."""
    some = unseen_tasks.behaviour_pairs(task, JUDGED)
    dialogues = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in some]
    return folder / "data" / task / "valid.jsonl", dialogues


def asked_of(tasks: Sequence[str], tokenizer: Any, folder: Path) -> Asked:
    """Return what is asked of an adapter or a sum."""
    from unseen_torch import Asked

    def samples(prompts: Sequence[Prompt]) -> list[Sample]:
        # As `tokenise` does, whose process for templates needs mlx-lm.
        listed = [_sample(prompt, tokenizer, number, False) for number, prompt in enumerate(prompts, 1)]
        return [Sample(one.tokens, one.first) for one in listed if one is not None]

    parts = [questions(task, folder) for task in tasks]
    own = [samples(read_prompts(file, max(LEAST_PROMPTS, PROMPTS // len(tasks)))) for file, _ in parts]
    judged = [dialogue_samples(tokenizer, dialogues) for _, dialogues in parts]
    lines = (ADAPTERS / "data" / "general.jsonl").read_text(encoding="utf-8").splitlines()
    others = text_samples(tokenizer, [json.loads(line)["text"] for line in lines], TEXT)
    texts = built_in()[: TEXTS + 2]
    return Asked(own, samples(texts[:TEXTS]), judged, others + samples(texts[TEXTS:]))


def measure(options: argparse.Namespace) -> None:
    """Measure the cases that have no row yet, and the formats that `auto` would try."""
    import torch
    from unseen_torch import Reference, Runner, update_of

    torch.set_num_threads(2)
    file, runners = options.folder / "rows.jsonl", dict[str, Runner]()
    rows = read_rows(file) if file.exists() else []
    for key, group in groupby(cases(), key=_combination):
        adapter, base, factor, added = key
        names = [name for name in (adapter, added) if name]
        folders = [_folder(name, options) for name in names]
        ready = all((folder / "adapters.safetensors").exists() for folder in folders)
        if not (ready and (options.bases / base).exists()) or options.only not in base:
            continue
        wanted, reference = [case.precision for case in group], None
        if not (options.folder / f"{base}.calibration.safetensors").exists():
            wanted = [way for way in wanted if not way.endswith(CALIBRATED)]
        while time.time() < (options.until or float("inf")):
            done = {row["case"][2]: row["final"] for row in rows if _combination(Case(*row["case"])) == key}
            way = next((one for one in wanted if one not in done), None) or _next_of_auto(base, done)
            if way is None:
                break
            if reference is None:
                runner = runners[base] = runners.get(base) or Runner(options.bases / base)
                asked = asked_of([SPECS[name][1] for name in names], runner.tokenizer, options.folder)
                reference = Reference(runner, asked, update_of(folders, factor))
            rows.append(row := _row(Case(adapter, base, way, factor, added), reference, folders, options))
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            print(*row["case"], row["final"], behaviour(row), f"{row['seconds']:.1f} s", flush=True)


def is_second(adapter: str) -> bool:
    """Tell whether an adapter is of the second study: its tasks are newer than every rule."""
    return SPECS[adapter][1] in unseen_tasks.SECOND


def _combination(case: Case) -> tuple[str, str, float, str]:
    return case.adapter, case.base, case.factor, case.added


def auto_formats(base: str) -> list[str]:
    """Return the formats that `auto` tries for a base, in its order."""
    bits = base.removeprefix(SMOL).removeprefix(GEMMA).removeprefix(QWEN)[1:2]
    return [way for way in AUTO if bits and not (way.startswith("mixed") and way[5:] <= bits)] or ["keep"]


def _next_of_auto(base: str, done: dict[str, str]) -> str | None:
    for way in auto_formats(base):
        if way not in done or done[way] == PASS:
            return None if way in done else way
    return None


def _folder(adapter: str, options: argparse.Namespace) -> Path:
    return Path(options.folder) / "adapters" / adapter


def _row(
    case: Case, reference: Reference, adapters: Sequence[Path], options: argparse.Namespace
) -> dict[str, Any]:
    """Fuse with fusery's engine; return both verdicts and what the model does."""
    from unseen_torch import Runner, figures, fused_weights, scores

    started, base, asked, answers = time.monotonic(), options.bases / case.base, reference.asked, None
    settings = [
        json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")) for adapter in adapters
    ]
    pairs = [(adapter / "adapters.safetensors", how) for adapter, how in zip(adapters, settings, strict=True)]
    calibrated = case.precision.endswith(CALIBRATED)
    file = options.folder / f"{case.base}.calibration.safetensors"
    how = policy(case.precision, read_calibration(file) if calibrated else None)
    how = replace(how, fitted=calibrated and how.precision == "dither")
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder, files = Path(name), {path.name: path.resolve() for path in base.iterdir()}
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        extras = [AddedAdapter(*pair, 1.0) for pair in pairs[1:]]
        fidelity = fuse(
            make_plan(files, config, *pairs[0], how, weight=case.factor, extras=extras), folder
        ).fidelity
        if how.quantize or how.precision == "dequantize":  # all layers change
            answer = Runner(folder, reference.runner.tokenizer).answers
        else:
            answer = partial(reference.answers, fused_weights(folder, [*reference.weights]))
        if fidelity.verdict in (UNSURE, LOST):
            alone, adapted = reference.prompts
            own = [sample for task in asked.prompts for sample in task]
            compared = scores(own + asked.texts, adapted, answer(own + asked.texts))
            losses = tuple(one.loss_b for one in scores(own, alone, alone))
            answers = judge_answers(
                ModelScores(tuple(compared), losses), [len(task) for task in asked.prompts]
            )
        judged = zip(asked.judged, reference.judged, strict=True)
        tasks = [figures(samples, *known, answer(samples)) for samples, known in judged]
        general = scores(asked.others, reference.others, answer(asked.others))
    worst = min(tasks, key=lambda one: ([*VERDICTS, ""].index(behaviour(one)), -one["excess"]))
    row: dict[str, Any] = {"case": [*asdict(case).values()], "weights": fidelity.verdict}
    row |= {"final": final_verdict(fidelity.verdict, answers)}
    row |= {figure: getattr(fidelity, figure) for figure in ("retained", "cosine", "noise")}
    for figure in ("gained", "lost", "agreement", "general_kl"):
        row[f"asked_{figure}"] = getattr(answers, figure) if answers else None
    row |= worst | {"general_kl": float(TokenScores.joined(general).kl.mean())}
    row |= {"seconds": time.monotonic() - started}
    return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}


def behaviour(row: dict[str, Any], measure: str = "agreement") -> str:
    """Return the verdict on what a fused model does; empty if its adapter gains too little to tell.

    PASS requires the loss and, by `measure`, 90 % of equal tokens, as many exact answers but for a tenth of the questions, or
    (`general`) equal tokens and general text.
    """
    if row["gain"] < LEAST_GAIN:
        return ""
    if row["kept"] < HALF:
        return LOST
    alike = row["agreement"] >= AGREE
    if measure == "exact":
        alike = row["exact_fused"] >= row["exact_adapter"] - (1 - AGREE)
    elif measure == "general":
        alike &= (row["general_kl"] or 0.0) <= GENERAL
    return PASS if alike and (row["kept"] >= KEPT or row["excess"] <= NEAR) else DEGRADED


def automatic(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that `auto` takes: of each adapter, base and scale the first PASS, or the last format if it is UNSURE."""
    chosen, by_case = [], {tuple(row["case"]): row for row in rows}
    for adapter, base, factor, added in dict.fromkeys(_combination(Case(*row["case"])) for row in rows):
        ways = auto_formats(base)
        for way in ways:
            row = by_case.get((adapter, base, way, factor, added))
            if row is None:
                break
            if row["final"] == PASS or (way == ways[-1] and row["final"] == UNSURE):
                chosen.append(row)
                break
    return chosen


def report(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print how often the final verdict is wrong, each wrong one, and the worst that `auto` takes; return it."""
    clear = [row for row in rows if behaviour(row)]
    summary: dict[str, Any] = {"fuses": len(rows), "conclusive": len(clear)}
    for measure in ("agreement", "exact", "general"):
        real = {id(row): behaviour(row, measure) for row in clear}
        table = Counter((real[id(row)], row["final"]) for row in clear)
        wrong = [row for row in clear if row["final"] not in (UNSURE, real[id(row)])]
        print(f"\nbehaviour by loss and {measure}: {len(wrong)} of {len(clear)} wrong; down: behaviour")
        print(f"{'':10}" + "".join(f"{verdict:>10}" for verdict in VERDICTS))
        for name in (LOST, DEGRADED, PASS):
            print(f"{name:10}" + "".join(f"{table[name, verdict]:10}" for verdict in VERDICTS))
        summary[measure] = {"wrong": len(wrong), "table": [[*key, table[key]] for key in sorted(table)]}
        for row in wrong if measure != "exact" else ():
            print(f"  {row['weights']} {row['final']}, is {real[id(row)]}: {_figures(row)}")
    chosen = sorted((row for row in automatic(rows) if behaviour(row)), key=lambda row: row["kept"])
    loses = sum(row["kept"] < KEPT for row in chosen)
    summary["auto"] = {"chosen": len(chosen), "more_than_5_percent_lost": loses}
    print(f"\nauto: {len(chosen)} chosen, {loses} lose more than 5 % of the gain")
    for row in chosen[:5]:
        print(f"  {row['final']}: {_figures(row)}")
    return summary


def _figures(row: dict[str, Any]) -> str:
    names = ["retained", "noise", "gain", "kept", "excess", "agreement", "general_kl", "asked_lost"]
    names += ["asked_agreement", "asked_general_kl", "exact_adapter", "exact_fused"]
    shown = ", ".join(f"{name} {row[name]:.3g}" for name in names if row[name] is not None)
    return f"{' '.join(map(str, row['case']))}; {shown}"


if __name__ == "__main__":
    main()
