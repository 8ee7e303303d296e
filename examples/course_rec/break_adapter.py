"""Write a damaged copy of an adapter, as an interrupted training run leaves one: `python break_adapter.py SOURCE DEST`.

The copy lacks every tensor of its first layer and holds one NaN in its last, and nothing but `fusery check` says so.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

LAYER = re.compile(r"\.layers\.(\d+)\.")


def break_adapter(source: Path, target: Path) -> None:
    """Copy the adapter folder `source` to the new folder `target` and damage its weights.

    Raises:
        FileExistsError: `target` exists.
    """
    import numpy as np
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, target)
    weights = target / "adapters.safetensors"
    tensors = load_file(weights)
    layers = {name: int(match.group(1)) for name in tensors if (match := LAYER.search(name))}
    first, last = min(layers.values()), max(layers.values())
    kept = {name: tensor for name, tensor in tensors.items() if layers.get(name) != first}
    victim = min(name for name in kept if layers.get(name) == last and name.endswith("lora_b"))
    kept[victim] = kept[victim].copy()
    kept[victim].flat[0] = np.nan
    save_file(kept, weights)


if __name__ == "__main__":
    break_adapter(Path(sys.argv[1]), Path(sys.argv[2]))
