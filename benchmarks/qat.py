"""What is left of an adapter at the base's 4 bits: trained as usual, through the base's quantiser, and as a QA-LoRA.

    python benchmarks/qat.py --base FOLDER --torch-python .venv-peft/bin/python

A process with PyTorch trains each adapter three times from the same start, the same data and the same settings (train_adapters.py), since
mlx is slow to train on a Linux CPU; fusery's engine fuses each with `keep`; PyTorch runs everything in float32 over the task's held-out
questions.  *Gained* is by how much base + adapter, as it was trained, is below the base; *held* the part of it that the fused model has.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SETTINGS = {
    "course_rec": {
        "task": "courses",
        "rank": 4,
        "scale": 10.0,
        "layers": 12,
        "rate": 5e-4,
        "iterations": 160,
    },
    "facts": {"task": "facts", "layers": 16, "rate": 1e-3, "iterations": 45},
    "facts_longer": {"task": "facts", "layers": 16, "rate": 1e-3, "iterations": 135},
}
"""Those of the demo's adapter (without its schedule), of `facts_r8` (adapters/README.md), and of that for three times as long."""


def main() -> None:
    """Train, fuse and judge, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--torch-python", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=SETTINGS, action="append")
    parser.add_argument("--phase", choices=["train", "judge"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        (train if options.phase == "train" else judge)(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        asked = ["--base", str(options.base), "--threads", str(options.threads), "--folder", folder]
        asked += [word for name in options.only or SETTINGS for word in ("--only", name)]
        for phase in ("train", "fuse", "judge"):
            if phase == "fuse":
                fuse_all(options.base, Path(folder))
            else:
                command = [str(options.torch_python), __file__, *asked, "--phase", phase]
                subprocess.run(command, check=True, stdout=sys.stderr)
        rows = json.loads((Path(folder) / "rows.json").read_text(encoding="utf-8"))
    print(
        "| task | trained | base | as trained | gained | fused, keep | held | exact as trained | exact fused |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        gained = row["base"] - row["trained"]
        print(
            f"| {row['task']} | {row['way']} | {row['base']:.3f} | {row['trained']:.3f} "
            f"| {gained:.3f} | {row['fused']:.3f} | {(row['base'] - row['fused']) / gained:.1%} | {row['exact_trained']:.2f} | {row['exact_fused']:.2f} |"
        )


def ways_of(base: Path) -> dict[str, dict[str, Any]]:
    """Return the ways to train for a base, by their names, and what each changes in the settings."""
    settings = json.loads((base / "config.json").read_text(encoding="utf-8"))["quantization"]
    return {
        "as usual": {},
        "through the quantiser": {"through": (settings["bits"], settings["group_size"])},
        "QA-LoRA": {"group": settings["group_size"]},
    }


def train(options: argparse.Namespace) -> None:
    """Train each adapter in each way."""
    import torch
    import train_adapters as trainer

    torch.set_num_threads(options.threads)
    for name in options.only:
        spec = trainer.Spec(base=options.base.name, **SETTINGS[name])
        for number, (way, changes) in enumerate(ways_of(options.base).items()):
            folder = options.folder / f"{name}-{number}"
            row = trainer.train(replace(spec, **changes), options.base, folder, torch.float32)
            print(name, way, json.dumps(row), flush=True)


def fuse_all(base: Path, folder: Path) -> None:
    """Fuse each adapter with `keep`."""
    from fusery.registry.engine.engine import fuse
    from fusery.registry.engine.plan import make_plan
    from fusery.registry.engine.policy import WritePolicy

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    for adapter in sorted(folder.iterdir()):
        out = folder / f"{adapter.name}-fused"
        out.mkdir()
        files = {path.name: path.resolve() for path in base.iterdir()}
        said = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        policy = WritePolicy("keep", biases=said.get("use_qalora", False))
        fuse(make_plan(files, config, adapter / "adapters.safetensors", said, policy), out)


def judge(options: argparse.Namespace) -> None:
    """Run base, base + adapter as trained, and fused model over the held-out questions."""
    import torch
    import train_adapters as trainer
    from safetensors.torch import load_file

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    tokenizer = trainer.AutoTokenizer.from_pretrained(options.base)
    rows = []
    for name in options.only:
        spec = trainer.Spec(**SETTINGS[name])
        dialogues = trainer.read_dialogues((HERE / trainer.TASKS[spec.task]).resolve() / "valid.jsonl")
        samples = trainer.dialogue_samples(tokenizer, dialogues[: trainer.VALIDATION])
        base = _judged(trainer.load_torch(options.base), samples)
        for number, (way, changes) in enumerate(ways_of(options.base).items()):
            adapter = options.folder / f"{name}-{number}"
            model = trainer.load_torch(options.base)
            layers = _with_layers(trainer, model, replace(spec, **changes))
            for key, value in load_file(adapter / "adapters.safetensors").items():
                path, _, part = key.rpartition(".")
                getattr(layers[path], part).data = value
            trained = _judged(model, samples)
            fused = _judged(trainer.load_torch(adapter.with_name(f"{adapter.name}-fused")), samples)
            rows.append({"task": name, "way": way, "base": base[0], "trained": trained[0]})
            rows[-1] |= {"fused": fused[0], "exact_trained": trained[1], "exact_fused": fused[1]}
    (options.folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")


def _with_layers(trainer: Any, model: Any, spec: Any) -> dict[str, Any]:
    """Put LoRA layers into the whole model."""
    found = {}
    first = len(model.model.layers) - spec.layers
    for path, module in list(model.named_modules()):
        parts = path.split(".")
        if parts[-1] in trainer.LINEAR and int(parts[2]) >= first:
            found[path] = trainer.LoRA(module, spec.rank, spec.scale, spec.through, spec.group)
            setattr(model.get_submodule(path.rpartition(".")[0]), parts[-1], found[path])
    return found


def _judged(model: Any, samples: Any) -> tuple[float, float]:
    """Return the loss over the answers' tokens, and the share of answers whose every token is the likeliest."""
    import torch

    loss = count = exact = 0.0
    for sample in samples:
        hidden = model.model(torch.tensor([sample.tokens]), use_cache=False).last_hidden_state[0]
        scores = model.lm_head(hidden[sample.start - 1 : len(sample.tokens) - 1]).log_softmax(dim=1)
        targets = torch.tensor(sample.tokens[sample.start :])
        loss -= float(scores[torch.arange(len(targets)), targets].sum())
        count += len(targets)
        exact += bool((scores.argmax(dim=1) == targets).all())
    return loss / count, exact / len(samples)


if __name__ == "__main__":
    main()
