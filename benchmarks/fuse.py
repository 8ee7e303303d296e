"""Fusing against its peers, in turn in the same run: wall time, processor time and peak anonymous memory.

    python benchmarks/fuse.py --runs 5
    python benchmarks/fuse.py --cases bf16-keep --peft-python /path/to/python --json

The reference case is Qwen2-0.5B's shape with random weights, and an adapter of rank 8 on all seven linear layers of
the last 8 blocks.  `fusery fuse` is the command of a user: base and adapter are registered, the cache is empty, and
hashing the result, measuring the fidelity and recording it all are included.  `first of the day` also reads the base
through against its digest, which is done once a day or after a change; `again` is answered from the cache;
`the engine alone` leaves the registry out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from processes import measure
from shapes import SHAPES, Shape, write_adapter, write_base

from fusery.storage.safetensors import BASE_HEADER_LIMIT, Tensor, read_header

CASES = {
    "bf16-keep": (None, "keep"),
    "4bit-keep": (4, "keep"),
    "4bit-dequantize": (4, "dequantize"),
}
OURS = "fusery fuse"
ENGINE = "the engine alone"
_CHUNK = 16 << 20

DRIVE = """
import json, sys
from pathlib import Path
from fusery.registry.engine.engine import fuse
from fusery.registry.engine.plan import make_plan
base, adapter, out = map(Path, sys.argv[1:4])
out.mkdir()
files = {path.name: path for path in base.iterdir()}
config, settings = (json.loads(path.read_text()) for path in (base / "config.json", adapter / "adapter_config.json"))
plan = make_plan(files, config, adapter / "adapters.safetensors", settings, sys.argv[4])
fused = fuse(plan, out, threads=int(sys.argv[5]))
print(json.dumps({"retained": fused.fidelity.retained, "verdict": fused.fidelity.verdict}))
"""

PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3])
"""

TO_PEFT = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file, save_file
source, target = map(Path, sys.argv[1:])
tensors = load_file(source / "adapters.safetensors")
names = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
save_file(
    {
        f"base_model.model.{name.rpartition('.')[0]}.{names[name.rpartition('.')[2]]}": value.T.contiguous()
        for name, value in tensors.items()
    },
    target / "adapter_model.safetensors",
)
rank = next(value.shape[1] for name, value in tensors.items() if name.endswith("lora_a"))
layers = sorted({int(name.split(".")[2]) for name in tensors})
scale = json.loads((source / "adapter_config.json").read_text())["lora_parameters"]["scale"]
(target / "adapter_config.json").write_text(json.dumps({
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": scale * rank, "lora_dropout": 0.0,
    "layers_to_transform": layers, "bias": "none",
    "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}))
"""


@dataclass
class Result:
    """What one contestant needed, run after run."""

    name: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    anonymous: list[int] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Contestant:
    """A command that writes a folder (or file), which is removed before each time; None where nothing is to be."""

    name: str
    command: Sequence[str]
    out: Path | None


def main() -> None:
    """Measure and print."""
    options = _options()
    scratch = Path(options.folder or tempfile.mkdtemp(prefix="fuse-benchmark-"))
    try:
        report = [_case(case, SHAPES[options.shape], scratch, options) for case in options.cases.split(",")]
    finally:
        if not options.folder:
            shutil.rmtree(scratch)
    if options.json:
        print(json.dumps(report, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES), help=f"some of {', '.join(CASES)}")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2-0.5b")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--layers", type=int, default=8, help="blocks adapted, from the end")
    parser.add_argument(
        "--peft-python", default=sys.executable, help="an interpreter that has torch and peft"
    )
    parser.add_argument("--folder", help="where models are made, and kept for the next time")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _case(case: str, shape: Shape, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    bits, _ = CASES[case]
    base = scratch / f"{options.shape}-{'bf16' if bits is None else f'{bits}bit'}"
    adapter = scratch / f"{options.shape}-adapter-r{options.rank}-l{options.layers}"
    write_base(base, shape, bits)
    write_adapter(adapter, shape, options.rank, options.layers)
    say = (lambda *_: None) if options.json else print
    say(f"\n{case}: {shape.parameters:,} parameters, {_size(base) / 2**20:,.0f} MiB of base")
    contestants, notes = _contestants(case, base, adapter, scratch, options)
    results = {one.name: Result(one.name) for one in contestants}
    for run in range(options.runs + 1):
        for one in contestants:
            measured = _measure(one)
            if run:  # the first round warms the page cache and is not counted
                for values, value in zip(
                    (results[one.name].wall, results[one.name].cpu, results[one.name].anonymous),
                    measured,
                    strict=True,
                ):
                    values.append(value)
            elif one.name == ENGINE:
                written = _size(scratch / "out-fusery")
            elif one.name == "mlx_lm.fuse":
                notes["mlx_lm.fuse"] = _compared(scratch / "out-mlx", scratch / "out-fusery")
    for one in contestants:
        _remove(one.out)
    shutil.rmtree(scratch / "home", ignore_errors=True)
    say(f"written: {written / 2**20:.2f} MiB")
    for name, note in notes.items():
        results.setdefault(name, Result(name)).note = note
    _print(results.values(), say)
    return {
        "case": case,
        "shape": options.shape,
        "written": written,
        "results": [asdict(r) for r in results.values()],
    }


def _contestants(
    case: str, base: Path, adapter: Path, scratch: Path, options: argparse.Namespace
) -> tuple[list[Contestant], dict[str, str]]:
    bits, precision = CASES[case]
    out, notes = {name: scratch / f"out-{name}" for name in ("fusery", "mlx", "peft", "cp", "cp2")}, {}
    python = sys.executable
    engine = [
        python,
        "-P",
        "-c",
        DRIVE,
        *map(str, (base, adapter, out["fusery"])),
        precision,
        str(options.threads),
    ]
    ours = _registered(base, adapter, scratch / "home", precision)
    theirs = [
        python,
        "-m",
        "mlx_lm",
        "fuse",
        "--model",
        base,
        "--adapter-path",
        adapter,
        "--save-path",
        out["mlx"],
    ]
    theirs += ["--dequantize"] if precision == "dequantize" else []
    weights = base / "model.safetensors"
    both = f"cp {shlex.quote(str(weights))} {shlex.quote(str(out['cp2']))} & sha256sum {shlex.quote(str(weights))} & wait"
    contestants = [
        Contestant("fusery fuse, first of the day", ours, scratch / "home" / "cache"),
        Contestant(OURS, ours, scratch / "home" / "cache" / "fused"),
        Contestant("fusery fuse, again", ours, None),
        Contestant(ENGINE, engine, out["fusery"]),
        Contestant("mlx_lm.fuse", [str(part) for part in theirs], out["mlx"]),
    ]
    if weights.exists():
        contestants.append(Contestant("cp of the base", ["cp", str(weights), str(out["cp"])], out["cp"]))
        contestants.append(Contestant("cp and sha256sum of the base", ["sh", "-c", both], out["cp2"]))
    if bits is None:
        converted = scratch / f"{adapter.name}-peft"
        if problem := _prepare_peft(adapter, converted, options.peft_python):
            notes["PEFT merge_and_unload"] = problem
        else:
            command = [options.peft_python, "-c", PEFT, *map(str, (base, converted, out["peft"]))]
            contestants.append(Contestant("PEFT merge_and_unload", command, out["peft"]))
    return contestants, notes


def _registered(base: Path, adapter: Path, home: Path, precision: str) -> list[str]:
    """Register both in a new home; return the command that fuses them."""
    shutil.rmtree(home, ignore_errors=True)
    fusery = [str(Path(sys.executable).parent / "fusery"), "--registry", str(home)]
    for words in (
        ["base", "add", str(base), "--name", "base"],
        ["register", str(adapter), "--base", "base", "--task", "bench"],
    ):
        subprocess.run([*fusery, *words, "-q"], check=True, stdout=subprocess.DEVNULL)
    return [*fusery, "fuse", "bench@1", "--as", precision, "--accept-loss", "-q"]


def _prepare_peft(adapter: Path, target: Path, python: str) -> str:
    found = subprocess.run(
        [python, "-c", "import torch, peft, transformers"], capture_output=True, check=False
    )
    if found.returncode:
        return "not measured: torch and peft are not installed (see --peft-python)"
    target.mkdir(exist_ok=True)
    subprocess.run([python, "-c", TO_PEFT, str(adapter), str(target)], check=True)
    return ""


def _measure(one: Contestant) -> tuple[float, float, int]:
    """Run a command once; return wall seconds, processor seconds and peak anonymous bytes."""
    _remove(one.out)
    usage = measure(one.command)
    return usage.wall, usage.cpu, usage.anonymous


def _print(results: Any, say: Callable[..., None]) -> None:
    results = list(results)
    ours = next(result for result in results if result.name == OURS)
    say(f"{'':30}{'wall s':>9}{'min':>7}{'CPU s':>8}{'ours/it':>11}{'anonymous MiB':>15}")
    for result in results:
        if not result.wall:
            say(f"{result.name:30}{result.note}")
            continue
        ratio = statistics.median(a / b for a, b in zip(ours.wall, result.wall, strict=True))
        say(
            f"{result.name:30}{statistics.median(result.wall):9.2f}{min(result.wall):7.2f}"
            f"{statistics.median(result.cpu):8.2f}{ratio:11.2f}{max(result.anonymous) / 2**20:15.0f}  {result.note}"
        )


def _compared(theirs: Path, ours: Path) -> str:
    """Compare two folders tensor for tensor."""
    expected, found = _tensors(theirs), _tensors(ours)
    same = sum(name in found and _equal(place, found[name]) for name, place in expected.items())
    return f"{same} of {len(expected)} tensors have the same bits" if found else "fusery wrote elsewhere"


def _tensors(folder: Path) -> dict[str, tuple[Path, Tensor]]:
    return {
        name: (path, tensor)
        for path in sorted(folder.glob("model*.safetensors"))
        for name, tensor in read_header(path, limit=BASE_HEADER_LIMIT).tensors.items()
    }


def _equal(a: tuple[Path, Tensor], b: tuple[Path, Tensor]) -> bool:
    if (a[1].dtype, a[1].shape) != (b[1].dtype, b[1].shape):
        return False
    with a[0].open("rb") as left, b[0].open("rb") as right:
        left.seek(a[1].begin)
        right.seek(b[1].begin)
        return all(
            left.read(min(_CHUNK, a[1].size - done)) == right.read(min(_CHUNK, a[1].size - done))
            for done in range(0, a[1].size, _CHUNK)
        )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


def _remove(path: Path | None) -> None:
    if path is None:
        return
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
