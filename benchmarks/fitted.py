"""What it gains to fit scales and biases to what the codes of `dither` are off by: with and without, over seeds.

    python benchmarks/fitted.py --base FOLDER --calibration FILE --torch-python .venv-peft/bin/python

FILE is what `fusery calibrate` has made for the base (adapters/README.md says how to make that), as the store has it.  fusery's engine
writes the models; a process with PyTorch and transformers then runs them in float32 over all held-out questions of the
adapter's task and over the general text of policies.py, and compares with base + adapter.  Seconds are those of processors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    """Write the models, have them judged, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, default=HERE / "adapters" / "facts_r8")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--torch-python", type=Path)
    parser.add_argument("--judge", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.judge is not None:
        judge(options.base, options.adapter, options.judge)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        seconds = write(options, folder)
        asked = ["--base", str(options.base), "--adapter", str(options.adapter), "--judge", str(folder)]
        done = subprocess.run(
            [str(options.torch_python), __file__, *asked], check=True, stdout=subprocess.PIPE, text=True
        )
    rows = json.loads(done.stdout.splitlines()[-1])
    print(
        "| output | loss | beyond base + adapter | exact | KL, task | KL, general | same top-1, general | seconds |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in dict.fromkeys(each["name"] for each in rows):
        of_name = [each for each in rows if each["name"] == name]
        print(f"| {name} | {_cells(of_name, rows[1]['loss'])} | {_seconds(seconds.get(name, []))} |")


def write(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Write the samples and the models; return the seconds that each took."""
    from behaviour import dialogue_samples, load_tokenizer, read_dialogues
    from policies import QUESTIONS, general_texts
    from verdict import TASKS, _task

    from fusery.registry.engine.calibration import read_calibration
    from fusery.registry.engine.engine import fuse
    from fusery.registry.engine.plan import make_plan
    from fusery.registry.engine.policy import Policy

    tokenizer = load_tokenizer(options.base)
    dialogues = read_dialogues((HERE / TASKS[_task(options.adapter)] / "valid.jsonl").resolve())[:QUESTIONS]
    samples = {"task": dialogue_samples(tokenizer, dialogues), "general": list(general_texts(tokenizer))}
    texts = {part: [[list(each.tokens), each.start] for each in some] for part, some in samples.items()}
    (folder / "samples.json").write_text(json.dumps(texts), encoding="utf-8")
    calibration = read_calibration(options.calibration)
    config, settings = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (options.base / "config.json", options.adapter / "adapter_config.json")
    )
    files = {path.name: path.resolve() for path in options.base.iterdir()}
    took: dict[str, list[float]] = {}
    for fitted in (False, True):
        name = "fitted" if fitted else "codes alone"
        for seed in range(options.seeds):
            policy = Policy("dither", seed=seed, calibration=calibration, fitted=fitted)
            weights = options.adapter / "adapters.safetensors"
            place, started = folder / f"{name}-{seed}", time.process_time()
            place.mkdir()
            fuse(make_plan(files, config, weights, settings, policy), place)
            took.setdefault(name, []).append(time.process_time() - started)
    return took


def judge(base: Path, adapter: Path, folder: Path) -> None:
    """Print what each model does, as a line of JSON: the base, base + adapter, and what lies in the folder."""
    import torch
    from safetensors.torch import load_file
    from train_adapters import load_torch

    texts = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    scale, tensors = settings["lora_parameters"]["scale"], load_file(adapter / "adapters.safetensors")

    @torch.no_grad()
    def predictions(model: Any, part: str) -> Iterator[tuple[Any, Any]]:
        for tokens, start in texts[part]:
            hidden = model.model(torch.tensor([tokens]))[0][0, start - 1 : -1]
            yield torch.log_softmax(model.lm_head(hidden), -1), torch.tensor(tokens[start:])

    def figures(name: str, model: Any, known: dict[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = {"name": name}
        for part in texts:
            loss = kl = same = exact = count = 0.0
            for number, (found, targets) in enumerate(predictions(model, part)):
                expected = known.setdefault(part, {}).setdefault(number, found)
                loss -= float(found.gather(1, targets[:, None]).sum())
                kl += float((expected.exp() * (expected - found)).sum())
                same += int((expected.argmax(1) == found.argmax(1)).sum())
                exact += bool((found.argmax(1) == targets).all())
                count += len(targets)
            row |= {f"kl_{part}": kl / count, f"top1_{part}": same / count}
            if part == "task":
                row |= {"loss": loss / count, "exact": exact / len(texts[part])}
        return row

    adapted, known = load_torch(base), {}
    modules = dict(adapted.named_modules())
    with torch.no_grad():
        for path in (name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")):
            left, right = (tensors[f"{path}.{part}"].float() for part in ("lora_b", "lora_a"))
            modules[path].weight += (scale * left.T) @ right.T
    second = figures("base + adapter", adapted, known)
    rows = [figures("base", load_torch(base), known), second]
    for place in sorted(each for each in folder.iterdir() if each.is_dir()):
        rows.append(figures(place.name.rpartition("-")[0], load_torch(place), known))
    print(json.dumps(rows))


def _cells(rows: list[dict[str, Any]], least: float) -> str:
    def mean(key: str) -> float:
        return statistics.fmean(row[key] for row in rows)

    beyond = [row["loss"] - least for row in rows]
    spread = f" ({min(beyond):+.3f} to {max(beyond):+.3f})" if len(rows) > 1 else ""
    return (
        f"{mean('loss'):.3f} | {statistics.fmean(beyond):+.3f}{spread} | {mean('exact'):.2f} | {mean('kl_task'):.4f} | "
        f"{mean('kl_general'):.4f} | {mean('top1_general'):.3f}"
    )


def _seconds(took: list[float]) -> str:
    return f"{statistics.fmean(took):.1f}" if took else ""


if __name__ == "__main__":
    main()
