"""Peak memory of a fuse: a few blocks, however large the model and its largest tensor are.

Models of some 230 MB, with an embedding of 200 MB that is adapted too; they are removed at once.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import adapters_by_class
import pytest
from processes import measure
from shapes import Shape, write_base

pytestmark = [
    pytest.mark.timing,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from /proc"),
]

SHAPE = Shape(layers=1, hidden=1024, heads=16, kv_heads=4, intermediate=4096, vocab=100_032, tied=True)
BYTES = 2 * SHAPE.parameters
EMBEDDING = 2 * SHAPE.vocab * SHAPE.hidden
LIMIT = EMBEDDING // 2  # an embedding held whole, even in its own format, is twice as much

DRIVE = """
import json, sys
from pathlib import Path
from fusery.registry.engine.engine import fuse
from fusery.registry.engine.plan import make_plan
base, adapter, out = map(Path, sys.argv[1:4])
out.mkdir()
files = {path.name: path for path in base.iterdir()}
config, settings = (json.loads(path.read_text()) for path in (base / "config.json", adapter / "adapter_config.json"))
scratch = out / "scratch"
scratch.mkdir()
plan = make_plan(files, config, adapter / "adapters.safetensors", settings, sys.argv[4], scratch=scratch)
fuse(plan, out, threads=2)
"""
_ONE_FILE = 5 << 30


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once: pytest would keep it for the next three runs."""
    yield tmp_path
    for path in tmp_path.iterdir():
        shutil.rmtree(path)


def peak(base: Path, adapter: Path, out: Path, precision: str) -> int:
    used = measure([sys.executable, "-P", "-c", DRIVE, base, adapter, out, precision]).anonymous
    assert sum(path.stat().st_size for path in out.glob("model*.safetensors")) > EMBEDDING // 4
    shutil.rmtree(out)
    return used


@pytest.mark.parametrize(
    ("bits", "shard", "kinds"),
    [
        (None, 150 << 20, {"lora": ["keep"], "dora": ["keep"]}),
        (4, _ONE_FILE, {"lora": ["dequantize", "dither"], "dora": ["keep"]}),
    ],
    ids=["bf16 in shards", "4 bits"],
)
def test_peak(
    bits: int | None, shard: int, kinds: dict[adapters_by_class.Kind, list[str]], folder: Path
) -> None:
    pytest.importorskip("mlx_lm")
    write_base(folder / "base", SHAPE, bits, shard=shard)
    assert (len(list((folder / "base").glob("model*.safetensors"))) > 1) == (shard < BYTES)
    for kind, precisions in kinds.items():
        keys = ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"]
        keys += [] if kind == "dora" and bits else ["model.embed_tokens"]
        adapter = adapters_by_class.make_adapter(
            folder / kind, folder / "base", kind=kind, num_layers=1, keys=keys
        )
        used = {name: peak(folder / "base", adapter, folder / "out", name) for name in precisions}
        assert {name: size for name, size in used.items() if size > LIMIT} == {}, kind
