"""A model of more than a hundred megabytes: what is cached is not read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import shapes
from installation import Installation

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest

pytestmark = pytest.mark.timing

SHAPE = shapes.SHAPES["qwen2-0.1b"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, quantised to 4 bits, and the adapter."""
    folder = tmp_path_factory.mktemp("reference")
    shapes.write_base(folder / "qwen2-4bit", SHAPE, bits=4)
    shapes.write_adapter(folder / "adapters", SHAPE)
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Installation:
    """A registry with the two, the base by reference, and with the fused model."""
    made = Installation(tmp_path_factory.mktemp("user"), files, files, files)
    made.run("admin", "init")
    made.run("base", "add", files / "qwen2-4bit", "--reference")
    made.run("register", files / "adapters", "--base", "qwen2-4bit", "--task", "reference")
    assert not made.json("fuse", "reference@1", "--as", "16bit", "--accept-loss")["cached"]
    return made


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts the bytes read through /proc")
def test_a_hit_does_not_read_the_model(reference: Installation) -> None:
    """The time of a hit does not depend on the model's size, because nothing of that size is read."""
    request = FuseRequest("dequantize", accept_loss=True)
    with Registry.open(reference.folder / "home") as registry:
        registry.fused.fuse("reference@1", request)  # the first call also reads imported modules
        before = bytes_read()
        again = registry.fused.fuse("reference@1", request)
        read = bytes_read() - before
    assert again.cached
    assert again["bytes"] > 100 << 20
    assert read < 4 << 20


def bytes_read() -> int:
    """Return how many bytes this process has read so far, from the page cache too."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("rchar:")).split()[1])
