"""A registry with one of everything that a document tells of."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import peft_folders
import tiny_models

from fusery.registry import Registry
from fusery.registry.fusion.fuse import FuseRequest

DENSE = "course_rec_v1_20260115"
CONTINUED = "course_rec_v2_20260201"
ODD = 'a "b" <c> & d; ü\u202e 100% {x} → 𝄞 \\n #;'
"""A dataset's name with what breaks drawings and documents."""


def fill(registry: Registry, folder: Path) -> dict[str, str]:
    """Fill an empty registry; return by what it is called where each kind of record is.

    v1 <- v2 (continued, with a licence and an odd dataset), `other` without a dataset, DoRA, PEFT; a base by reference and a
    4-bit one, each with an adapter; a sum, a requantised fuse; bundles with and without a fuse; aliases, deployments.
    """
    base = tiny_models.make_base(folder / "tiny", layers=2)
    registry.bases.add(base, name="tiny")
    register = registry.adapters.register
    common = {"base": "tiny", "task": "course_rec"}
    first = tiny_models.make_adapter(folder / "first", base, seed=1, rank=4)
    register(first, date="20260115", val_loss=0.61, dataset="courses", examples=120, **common)
    second = tiny_models.make_adapter(folder / "second", base, seed=2, rank=4)
    register(
        second,
        date="20260201",
        val_loss=0.42,
        dataset=ODD,
        parent="course_rec@1",
        tags={"license": "MIT"},
        **common,
    )
    other = tiny_models.make_adapter(folder / "other", base, seed=3, rank=4)
    peft_folders.edit_config(other, data=None)  # nobody says what it was trained on
    register(other, base="tiny", task="other", date="20260301", tags={"license": "our own & <odd>"})
    dora = tiny_models.make_adapter(folder / "dora", base, seed=4, rank=4, fine_tune_type="dora")
    register(dora, base="tiny", task="dora", date="20260302")
    register(peft_folders.make_peft(folder / "peft", base, seed=5), base="tiny", task="peft", date="20260303")
    here = tiny_models.make_base(folder / "here", layers=2, seed=7)
    registry.bases.add(here, name="here", reference=True)
    there = tiny_models.make_adapter(folder / "there", here, seed=6, rank=4)
    register(there, base="here", task="there", date="20260304")
    few = tiny_models.make_base(folder / "few", layers=2, bits=4, group_size=32, seed=8)
    registry.bases.add(few, name="few")
    small = tiny_models.make_adapter(folder / "small", few, seed=9, rank=4)
    register(small, base="few", task="small", date="20260305")
    return _made(registry, folder)


def _made(registry: Registry, folder: Path) -> dict[str, str]:
    plain = FuseRequest(precision="keep", accept_loss=True)
    fuse = registry.fused.fuse
    found = {
        "adapter": DENSE, "continued": CONTINUED, "no dataset": "other@1", "dora adapter": "dora@1",
        "peft adapter": "peft@1", "fused": fuse("course_rec@2", plain)["key"],
        "peft": fuse("peft@1", plain)["key"], "base by reference": fuse("there@1", plain)["key"],
        "4-bit base": fuse("small@1", plain)["key"],
    }  # fmt: skip
    sum_of = FuseRequest(
        precision="keep", accept_loss=True, extras=(("course_rec@2", 0.5), ("course_rec@1", -1.0))
    )
    found["sum"] = fuse("other@1", sum_of)["key"]
    twice = FuseRequest(precision="keep", accept_loss=True, extras=(("course_rec@1", 0.25),))
    found["with itself"] = fuse("course_rec@1", twice)["key"]
    found["bundle"] = str(folder / "out")
    registry.bundles.materialize("course_rec@2", folder / "out", request=plain)
    found["bundle of a sum"] = str(folder / "sum")
    registry.bundles.materialize("other@1", folder / "sum", request=sum_of)
    found["unfused bundle"] = str(folder / "apart")
    registry.bundles.materialize(["course_rec@1", "course_rec@2"], folder / "apart", target="adapters")
    registry.aliases.set("prod", "course_rec@2", reason="first")
    registry.deployments.record(str(folder / "out"), "eu/ranker", note="rollout 7")
    registry.deployments.record(found["sum"], "lab <1>")
    registry.deployments.record("course_rec@1", "lab <1>")
    registry.deployments.end(["lab <1>"], reference="course_rec@1", reason="over")
    return found


REASON = 'leaked <b> "x"'
"""Why the second version is withdrawn in what `withdrawn` returns."""


@cache
def withdrawn() -> tuple[Registry, dict[str, str]]:
    """Return a filled registry whose second version is yanked; made once in a process, and only to be read."""
    folder = Path(tempfile.mkdtemp(prefix="fusery-lineages-"))
    registry = Registry.open(folder / "home")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(registry.close)
    registry.init()
    found = fill(registry, folder)
    registry.adapters.yank("course_rec@2", reason=REASON)
    return registry, found
