"""How far a fused DoRA is from base + adapter: `mlx_lm.fuse`'s rounding, ours rounded once, and PEFT's merge.

    python benchmarks/dora.py --base FOLDER --peft-python .venv-bench/bin/python

FOLDER holds a dense bf16 base in the layout of the Hub (SmolLM2-135M-Instruct; adapters/README.md says how to make it).
Two adapters: the one that PEFT trained (tests/data/peft/dora), and one on all linear layers of all blocks with an update
of 2 % of the weights and lengths 2 % off at random.  The truth is PEFT's, base and adapter unmerged in float32; every
fused model is run in float32, too, so that what differs is what was written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from fusery.registry.adapters.folder import read_adapter_folder
from fusery.registry.engine.engine import fuse
from fusery.registry.engine.plan import make_plan
from fusery.registry.engine.policy import WritePolicy
from fusery.registry.engine.recipe import KEEP, ONCE

ROOT = Path(__file__).resolve().parents[1]
TRAINED = ROOT / "tests" / "data" / "peft" / "dora"
TEXT = ROOT / "docs" / "architecture.md"
TOKENS = 600

_PEFT = """
import sys, torch
from pathlib import Path
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
base, adapter, text, out, *fused = sys.argv[1:]
tokens = AutoTokenizer.from_pretrained(base)(Path(text).read_text(), return_tensors="pt").input_ids[:, :TOKENS]
def load(folder, dtype): return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
def logits(model):
    with torch.no_grad(): return model.float()(input_ids=tokens).logits[0].double()
if not Path(adapter).exists():
    torch.manual_seed(0)
    names = [f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")]
    made = get_peft_model(load(base, torch.float32), LoraConfig(r=8, lora_alpha=16, use_dora=True, target_modules=names))
    with torch.no_grad():
        for module in made.modules():
            if hasattr(module, "lora_magnitude_vector"):
                b, a = (getattr(module, part)["default"].weight for part in ("lora_B", "lora_A"))
                b.normal_()
                b.mul_(0.02 * module.weight.norm() / (2 * b @ a).norm())
                lengths = (module.weight + 2 * b @ a).norm(dim=1)
                module.lora_magnitude_vector["default"].weight.copy_(lengths * (1 + 0.02 * torch.randn_like(lengths)))
    made.save_pretrained(adapter)
truth = logits(PeftModel.from_pretrained(load(base, torch.float32), adapter).eval())
merged = PeftModel.from_pretrained(load(base, torch.bfloat16), adapter).merge_and_unload()
models = {"PEFT's merge, bf16": merged, **{Path(each).name: load(each, torch.float32) for each in fused}}
rows = {}
for name, model in models.items():
    found = logits(model)
    same = (found.argmax(-1) == truth.argmax(-1)).double().mean()
    kl = (truth.softmax(-1) * (truth.log_softmax(-1) - found.log_softmax(-1))).sum(-1).mean()
    rows[name] = [((found - truth).norm() / truth.norm()).item(), same.item(), kl.item()]
import json; Path(out).write_text(json.dumps(rows))
""".replace("TOKENS", str(TOKENS))


def write(base: Path, adapter: Path, rounding: str | None, folder: Path) -> None:
    """Fuse a PEFT adapter into a base, in the base's own format."""
    folder.mkdir(parents=True)
    files = {path.name: path for path in base.iterdir()}
    own = read_adapter_folder(adapter)
    plan = make_plan(
        files,
        json.loads(files["config.json"].read_text()),
        own.files["adapters.safetensors"],
        json.loads(own.files["adapter_config.json"].read_text()),
        WritePolicy(KEEP, rounding=rounding),
    )
    fuse(plan, folder)


def main() -> None:
    """Print a table for each adapter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--peft-python", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name, adapter in (
            ("trained, 18 modules", TRAINED),
            ("random, all linears", Path(scratch) / "wide"),
        ):
            folder, out = Path(scratch) / name.partition(",")[0], Path(scratch) / "rows.json"
            fused = [folder / "mlx_lm.fuse's rounding, float32", folder / "rounded once, bf16"]
            command = [arguments.peft_python, "-c", _PEFT, arguments.base, adapter, TEXT, out]
            if not adapter.exists():
                subprocess.run(command, check=True)
            for place, rounding in zip(fused, (None, ONCE), strict=True):
                write(arguments.base, adapter, rounding, place)
            subprocess.run([*command, *fused], check=True)
            print(f"\n{name}\n\n| | logits off | same argmax | KL |\n| --- | --- | --- | --- |")
            for model, (off, same, kl) in json.loads(out.read_text()).items():
                print(f"| {model} | {off:.1e} | {100 * same:.1f} % | {kl:.1e} |")


if __name__ == "__main__":
    main()
