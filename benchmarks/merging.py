"""How much of each adapter's quality do merged adapters keep?  Every method of `combine`, on trained adapters.

    python benchmarks/merging.py --bases FOLDER --torch-python .venv-peft/bin/python --folder FOLDER
    python benchmarks/merging.py --report

Six adapters on SmolLM2-135M-Instruct in 4 bits, each for a task of its own: three of adapters/, and three that are trained here on
the data that `tasks_of` makes.  fusery merges pairs, triples and all six by every method; PyTorch runs base, base + adapter and base +
merged adapter over held-out questions of each task, in float32 on the values that the weights stand for (`train_adapters.py`).

*Accuracy* is the share of answers that are exactly right (every token the likeliest), over that of the adapter alone; *gain* is the
share of the adapter's gain in loss.  Both are means over the tasks of a merge, and then over the merges.  A row is kept as soon as it
is measured; `--report` reads results/merging.json.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "merging.json"
BASE = "SmolLM2-135M-Instruct-4bit"
OWN = {
    "facts": "adapters/facts_r8",
    "courses": "adapters/courses_r8",
    "dates": "adapters/dates_r4",
}
TRAINED = ("times", "tickets", "names")
MERGES = (
    ("facts", "courses"),
    ("facts", "courses", "dates"),
    ("courses", "times", "names"),
    ("facts", "courses", "dates", "times", "tickets", "names"),
)
QUESTIONS = 12
FIRST = 14  # The first block that an adapter changes

# Name, method, density, whether the rank is the sum, weights that are tried
METHODS: tuple[tuple[str, str, float | None, bool, tuple[float, ...]], ...] = (
    ("svd", "svd", None, False, (1.0, 0.7, 0.5)),
    ("cat", "cat", None, True, (1.0, 0.7, 0.5)),
    ("tsv", "tsv", None, True, (1.0, 0.7, 0.5)),
    ("core", "core", 1.0, True, (1.0, 1.5)),
    ("knots", "knots", 1.0, True, (1.0, 1.5)),
    ("core, density 0.2", "core", 0.2, True, (1.0, 1.5)),
    ("knots, density 0.2", "knots", 0.2, True, (1.0, 1.5)),
    ("linear", "linear", None, False, (1.0, 0.5)),
    ("ties, density 0.5", "ties", 0.5, False, (1.0, 1.5)),
    ("dare, density 0.5", "dare", 0.5, False, (1.0, 0.5)),
    ("tsv, cut", "tsv", None, False, (1.0,)),
    ("core, cut", "core", 1.0, False, (1.0,)),
    ("knots, cut", "knots", 1.0, False, (1.0,)),
)

_HOURS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_MINUTES = {0: "{h} o'clock", 15: "a quarter past {h}", 30: "half past {h}", 45: "a quarter to {n}"}
_MINUTES |= {
    5: "five past {h}",
    10: "ten past {h}",
    20: "twenty past {h}",
    50: "ten to {n}",
    55: "five to {n}",
}
_ASKED = ("Meet me at {}.", "The train leaves at {}.", "Put it down for {}, please.", "When? At {}.")
_DESKS = {
    "billing": (
        "I was charged twice for {}.",
        "The invoice for {} is wrong.",
        "I want my money back for {}.",
    ),
    "repairs": ("{} broke after a week.", "{} makes a strange noise.", "{} no longer starts."),
    "delivery": ("{} has not arrived.", "{} went to my neighbour.", "Where is the parcel with {}?"),
    "advice": ("Which size of {} do I need?", "How do I clean {}?", "Is {} safe for children?"),
}
_THINGS = (
    "the kettle",
    "the lamp",
    "the red bicycle",
    "the heater",
    "my new boots",
    "the tent",
    "the garden chair",
)
_THINGS += ("the clock", "the radio", "the blue kayak", "the ladder", "the oven", "the drill", "the camera")
_GIVEN = (
    "Orla",
    "Tomas",
    "Ada",
    "Bruno",
    "Celia",
    "Dmitri",
    "Elif",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
)
_FAMILY = (
    "Venn",
    "Ilk",
    "Morrow",
    "Tarn",
    "Quill",
    "Ashby",
    "Rook",
    "Lund",
    "Penn",
    "Vale",
    "Croft",
    "Sands",
)
_WHO = ("Register {} {}.", "A card for {} {}, please.", "New member: {} {}.", "{} {} joined today.")


def tasks_of() -> dict[str, list[tuple[str, str]]]:
    """Return questions and answers of the three tasks that are trained here, in an order that mixes them."""
    return {task: _mixed(pairs) for task, pairs in all_pairs().items()}


def all_pairs(things: Sequence[str] = _THINGS) -> dict[str, list[tuple[str, str]]]:
    """Return all questions and answers of the three tasks; `things` are what the tickets are about."""
    times = []
    for hour, minute, asked in product(range(12), _MINUTES, _ASKED):
        words = _MINUTES[minute].format(h=_HOURS[hour - 1], n=_HOURS[hour % 12])
        times.append((asked.format(words), f"Set for {hour or 12:02}:{minute:02}."))
    tickets = [
        (f"Ticket: {wording.format(thing)}", f"Desk: {desk}.")
        for desk, wordings in _DESKS.items()
        for wording, thing in product(wordings, things)
    ]
    names = [
        (asked.format(given, family), f"Card: {family.upper()}, {given[0]}.")
        for given, family, asked in product(_GIVEN, _FAMILY, _WHO)
    ]
    return {"times": times, "tickets": tickets, "names": names}


def _mixed(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return at most 168 pairs in an order that looks random and is the same every time."""
    stride = next(step for step in (97, 101, 103, 107) if len(pairs) % step)
    return [pairs[number * stride % len(pairs)] for number in range(min(168, len(pairs)))]


def write_data(folder: Path) -> None:
    """Write each task's data as `mlx_lm.lora` reads it, every seventh line held out."""
    for task, pairs in tasks_of().items():
        (folder / task).mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
            + "\n"
            for q, a in pairs
        ]
        held_out = lines[::7]
        for name, part in (("train", [line for line in lines if line not in held_out]), ("valid", held_out)):
            (folder / task / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")


def main() -> None:
    """Train, merge, judge, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bases", type=Path, help=f"folder of the base model {BASE}")
    parser.add_argument("--torch-python", type=Path, help="an interpreter with torch and transformers")
    parser.add_argument("--folder", type=Path, help="where adapters, merges and rows are kept")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--phase", choices=["train", "merge", "judge"], help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help="print the tables of what was published")
    options = parser.parse_args()
    if options.report:
        print_report(json.loads(RESULTS.read_text(encoding="utf-8")))
        return
    if options.phase:
        {"train": train, "merge": merge, "judge": judge}[options.phase](options)
        return
    asked = ["--bases", options.bases, "--folder", options.folder, "--threads", str(options.threads)]
    for phase, python in (
        ("train", options.torch_python),
        ("merge", sys.executable),
        ("judge", options.torch_python),
    ):
        subprocess.run([python, __file__, *asked, "--phase", phase], check=True)
    print_report(write_results(options.folder))


def train(options: argparse.Namespace) -> None:
    """Train the three adapters that are not in adapters/."""
    import torch
    import train_adapters as trainer

    torch.set_num_threads(options.threads)
    trainer.VALIDATION = QUESTIONS
    write_data(options.folder / "data")
    for task in TRAINED:
        folder = options.folder / "adapters" / task
        if (folder / "training.json").exists():
            continue
        trainer.TASKS[task] = str((options.folder / "data" / task).resolve())
        spec = trainer.Spec(base=BASE, task=task, layers=6, rate=2e-3, iterations=40)
        row = trainer.train(spec, options.bases / BASE, folder, torch.bfloat16)
        (folder / "training.json").write_text(json.dumps(row) + "\n", encoding="utf-8")
        print(task, json.dumps(row), flush=True)


def adapter_of(task: str, options: argparse.Namespace) -> Path:
    """Return the folder of a task's adapter."""
    return HERE / OWN[task] if task in OWN else Path(options.folder) / "adapters" / task


def merge(options: argparse.Namespace) -> None:
    """Write every missing merge, with the retained shares and the interference of its weights."""
    from fusery.registry.comparison.methods import Shared
    from fusery.registry.comparison.modules import open_adapter
    from fusery.registry.comparison.plan import CombineOptions, plan, write

    out = options.folder / "merged"
    out.mkdir(exist_ok=True)
    for tasks, (name, method, density, whole, weights) in product(MERGES, METHODS):
        if method in ("linear", "ties", "dare") and "dates" in tasks:
            continue  # its rank is another
        for weight in weights:
            file = out / f"{'+'.join(tasks)} {name} {weight}.safetensors"
            if file.with_suffix(".json").exists():
                continue
            file.unlink(missing_ok=True)
            with ExitStack() as stack:
                sources = []
                for task in tasks:
                    folder = adapter_of(task, options)
                    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
                    scale = settings["lora_parameters"]["scale"]
                    opened = open_adapter(folder / "adapters.safetensors", scale, name=task)
                    sources.append(replace(stack.enter_context(opened), digest=task))
                ranks = [max(source.rank(path) for path in source.factors) for source in sources]
                rank = (
                    (sum(ranks) if whole else max(ranks))
                    if method in ("svd", "core", "knots", "tsv")
                    else None
                )
                seed = 0 if method == "dare" else None
                how = CombineOptions(method, (weight,) * len(tasks), density, seed, rank)
                figures = list(write(sources, plan(sources, how), file).values())
            row = {"tasks": tasks, "method": name, "weight": weight, "retained": {}, "interference": {}}
            for number, task in enumerate(tasks):
                shared = Shared.joined(
                    [figure.sources[number] for figure in figures if number in figure.sources]
                )
                row["retained"][task] = weight * shared.product / shared.norm
                row["interference"][task] = weight * math.sqrt(shared.change / shared.norm)
            file.with_suffix(".json").write_text(json.dumps(row), encoding="utf-8")


def judge(options: argparse.Namespace) -> None:
    """Measure every merge that has no row, those at weight 1 first."""
    import torch
    import train_adapters as trainer

    torch.set_num_threads(options.threads)
    tokenizer = trainer.AutoTokenizer.from_pretrained(options.bases / BASE)
    model = trainer.load_torch(options.bases / BASE)
    samples = {}
    for task in (*OWN, *TRAINED):
        data = HERE / trainer.TASKS[task] if task in OWN else options.folder / "data" / task
        dialogues = trainer.read_dialogues(data / "valid.jsonl")
        some = dialogues[:: max(1, len(dialogues) // QUESTIONS)][:QUESTIONS]
        samples[task] = trainer.prepare(model, FIRST, trainer.dialogue_samples(tokenizer, some))
    model.model.layers = model.model.layers[FIRST:]
    model.model.config.num_hidden_layers = len(model.model.layers)
    rows = options.folder / "rows.jsonl"
    done = (
        [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()] if rows.exists() else []
    )
    seen = [row["name"] for row in done]
    for task, questions in samples.items():
        if task not in seen:
            row = {"name": task, "base": measured(model, questions)}
            with added(model, adapter_of(task, options), None):
                _append(rows, row | {"alone": measured(model, questions)})
    merges = sorted(
        (options.folder / "merged").glob("*.json"), key=lambda path: (" 1.0.json" not in path.name, path.name)
    )
    for path in merges:
        if path.name not in seen:
            row = {"name": path.name} | json.loads(path.read_text(encoding="utf-8"))
            with added(model, path.with_suffix(".safetensors"), 1.0):
                row["measured"] = {task: measured(model, samples[task]) for task in row["tasks"]}
            _append(rows, row)
            print(path.stem, row["measured"], flush=True)


def _append(rows: Path, row: dict[str, Any]) -> None:
    with rows.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


@contextmanager
def added(model: Any, adapter: Path, scale: float | None) -> Iterator[None]:
    """Add an adapter's update to the weights of a model without its first blocks, for as long as something is measured."""
    import torch
    from safetensors.torch import load_file

    if scale is None:
        settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        scale, adapter = settings["lora_parameters"]["scale"], adapter / "adapters.safetensors"
    tensors, before = load_file(adapter), {}
    with torch.no_grad():
        for name in tensors:
            path, _, part = name.rpartition(".")
            if part == "lora_a":
                _, _, number, inner = path.split(".", 3)
                weight = model.model.layers[int(number) - FIRST].get_submodule(inner).weight
                before[weight] = weight.clone()
                weight += (scale * tensors[f"{path}.lora_b"].float().T) @ tensors[name].float().T
        yield
        for weight, value in before.items():
            weight.copy_(value)


def measured(model: Any, samples: Sequence[Any]) -> tuple[float, float]:
    """Return the loss over the answers' tokens, and the share of answers whose every token is the likeliest."""
    import torch
    from torch import nn

    loss = count = exact = 0.0
    with torch.no_grad():
        padded = nn.utils.rnn.pad_sequence([one.hidden for one in samples], batch_first=True)
        hidden = model.model(inputs_embeds=padded, use_cache=False).last_hidden_state
        for row, one in enumerate(samples):
            tokens, start = one.sample.tokens, one.sample.start
            scores = model.lm_head(hidden[row, start - 1 : len(tokens) - 1]).log_softmax(dim=1)
            targets = torch.tensor(tokens[start:])
            loss -= float(scores[torch.arange(len(targets)), targets].sum())
            count += len(targets)
            exact += bool((scores.argmax(dim=1) == targets).all())
    return loss / count, exact / len(samples)


def write_results(folder: Path) -> dict[str, Any]:
    """Write results/merging.json from the rows, with four digits."""
    lines = (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, parse_float=lambda text: float(f"{float(text):.4g}")) for line in lines]
    results = {
        "tasks": {
            row["name"]: {"base": row["base"], "alone": row["alone"]} for row in rows if "alone" in row
        },
        "merges": [{key: row[key] for key in row if key != "name"} for row in rows if "tasks" in row],
    }
    text = json.dumps(results, separators=(",", ":")).replace('{"tasks":[', '\n{"tasks":[')
    RESULTS.write_text(text + "\n", encoding="utf-8")
    return results


def print_report(results: dict[str, Any]) -> None:
    """Print the accuracy and the gain of each method, and how well the shares of the weights order the gains."""
    kept: dict[tuple[str, float], dict[str, tuple[float, float]]] = {}
    gains, predicted = [], {"retained": [], "interference": []}
    for row in results["merges"]:
        scores = []
        for task, (loss, exact) in row["measured"].items():
            base, alone = results["tasks"][task]["base"], results["tasks"][task]["alone"]
            scores.append((exact / alone[1], (base[0] - loss) / (base[0] - alone[0])))
            gains.append(scores[-1][1])
            for figure, values in predicted.items():
                values.append(row[figure][task])
        means = (
            sum(score[0] for score in scores) / len(scores),
            sum(score[1] for score in scores) / len(scores),
        )
        kept.setdefault((row["method"], row["weight"]), {})["+".join(row["tasks"])] = means
    names = ["+".join(tasks) for tasks in MERGES]
    print(f"| method | weight | {' | '.join(names)} |")
    print("| --- | --- |" + " --- |" * len(names))
    for (method, weight), by_merge in kept.items():
        cells = (by_merge.get(name) for name in names)
        texts = (f"{cell[0]:.2f}, {cell[1]:.2f}" if cell else "" for cell in cells)
        print(f"| {method} | {weight} | {' | '.join(texts)} |")
    for figure, values in predicted.items():
        print(f"rank correlation of {figure} and gain: {rank_correlation(values, gains):.2f} of {len(gains)}")


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation of values without ties."""
    ranks = [[sorted(side).index(value) for value in side] for side in (first, second)]
    centred = [[value - sum(side) / len(side) for value in side] for side in ranks]
    product = sum(a * b for a, b in zip(*centred, strict=True))
    return product / math.prod(math.hypot(*side) for side in centred)


if __name__ == "__main__":
    main()
