"""The installed torchao, whose NVFP4 Axolotl trains through, as a reference for tests; with a file's name it writes the golden vectors.

requirements/peft.txt has torch and torchao.  Numbers of 16 bits travel as uint16.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import json_peers
import numpy as np


def quantize(weight: list[list[int]], tensor_scale: float) -> dict[str, object]:
    """Return the packed codes, the scales and the dequantised numbers of a bfloat16 weight."""
    import torch
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, nvfp4_quantize

    stored = torch.from_numpy(np.array(weight, np.uint16).view(np.int16)).view(torch.bfloat16)
    scale = torch.tensor(tensor_scale, dtype=torch.float32)
    scales, packed = nvfp4_quantize(stored, 16, scale)
    scales = scales.view(len(weight), -1)
    # Three dimensions, as in Axolotl's loader: torchao 0.17 rounds the product with a scalar scale to bfloat16.
    tensor = NVFP4Tensor(packed, scales, 16, torch.bfloat16, per_tensor_scale=scale.view(1, 1, 1))
    numbers = tensor.dequantize(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    return {
        "codes": packed.tolist(),
        "scales": scales.view(torch.uint8).tolist(),
        "numbers": numbers.tolist(),
    }


def write_golden(path: Path) -> None:
    """Write a few weights with what torchao makes of them: usual numbers, zeros, ties, and scales beyond both ends."""
    import torchao

    random = np.random.default_rng(0)
    usual = random.standard_normal((4, 48)) * 0.05
    odd = usual * np.exp2(random.integers(-30, 30, (4, 3))).repeat(16, axis=1)
    odd[0, :16], odd[1, 16:32] = 0, -0.0
    ties = np.outer(
        2.0 ** np.arange(-2, 2), [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, -0.25, -5, 0, 0, 0, 0, 0, 0]
    )
    cases = []
    for weight, factor in ((usual, 1.0), (usual, 0.01), (odd, 1.0), (odd, 1e-4), (ties, 1.0)):
        bits = np.ascontiguousarray(weight, np.float32).view(np.uint32)
        stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        peak = np.abs((stored.astype(np.uint32) << 16).view(np.float32)).max()
        scale = float(np.float32(peak * np.float32(factor)) / np.float32(2688))
        given = {"weight": stored.tolist(), "tensor_scale": scale}
        cases.append(given | quantize(given["weight"], scale))
    source = f"torchao_peer.py, torchao {torchao.__version__}"
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path.write_text(f'{{"source": "{source}", "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        write_golden(Path(sys.argv[1]))
    else:
        json_peers.serve({"quantize": quantize})
