"""Train both adapter versions as they were trained: `python train.py BASE [v1] [v2]`.

BASE is SmolLM2-135M-Instruct as a folder in bf16, as the converter writes it from the GGUF file (README.md).  What is
trained on is a float32 copy of it with the same values, since mlx multiplies float32 matrices on a Linux CPU much
faster than bf16 ones once a fast BLAS is preloaded.  The settings are v1.yaml and v2.yaml, the data data/*.jsonl;
paths in them are relative, so that nothing of this machine is recorded.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.resolve()
MODEL = "SmolLM2-135M-Instruct"
VERSIONS = {"v1": ("course_rec_v1_20261120", "2026-11-20"), "v2": ("course_rec_v2_20261124", "2026-11-24")}
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
VAL_LOSS = re.compile(r"^ +\d+ +val +([\d.]+)", re.MULTILINE)


def main() -> None:
    """Train the versions named on the command line, or both."""
    base, *wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        copy_as_float32(Path(base), work / MODEL)
        shutil.copytree(HERE / "data", work / "data")
        for version in wanted or VERSIONS:
            shutil.copy(HERE / f"{version}.yaml", work)
            train(version, work)


def copy_as_float32(source: Path, target: Path) -> None:
    """Copy a model folder with its weights as float32."""
    import mlx.core as mx

    target.mkdir()
    for file in source.glob("*.json"):
        shutil.copy(file, target)
    weights = mx.load(str(source / "model.safetensors"))
    floats = {name: value.astype(mx.float32) for name, value in weights.items()}
    mx.save_safetensors(str(target / "model.safetensors"), floats, {"format": "mlx"})


def train(version: str, work: Path) -> None:
    """Run mlx_lm.lora in `work` and move the adapter, its log and its metadata here."""
    name, date = VERSIONS[version]
    command = [sys.executable, "-m", "mlx_lm", "lora", "--config", f"{version}.yaml"]
    # Without the compiler mlx saves a minute of g++ at the start.
    environment = {**os.environ, "MLX_DISABLE_COMPILE": "1", "COLUMNS": "100"}
    run = subprocess.run(command, cwd=work, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    log = ANSI.sub("", run.stdout)
    folder = work / f"adapters_{name}"
    (folder / "train.log").write_text(log, encoding="utf-8")
    metadata = describe(name, date, json.loads((folder / "adapter_config.json").read_text()), log)
    (folder / "adapter_metadata.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(HERE / folder.name, ignore_errors=True)
    shutil.move(folder, HERE)


def describe(name: str, date: str, config: dict[str, Any], log: str) -> dict[str, Any]:
    """Return what a team writes down by hand about an adapter."""
    lora = config["lora_parameters"]
    examples = (HERE / "data" / "train.jsonl").read_text(encoding="utf-8").count("\n")
    return {
        "base_model": MODEL,
        "adapter_name": name,
        "version": int(name.split("_v")[1].split("_")[0]),
        "training_date": date,
        "dataset": "course_rec",
        "training_examples": examples,
        "final_val_loss": float(VAL_LOSS.findall(log)[-1]),
        "lora_rank": lora["rank"],
        "lora_alpha": lora["scale"] * lora["rank"],
    }


if __name__ == "__main__":
    main()
