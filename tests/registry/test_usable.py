"""What `check` passes can be used: fused, probed, served, exported, and bundled for every target that does not refuse it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import bad_adapters
import fuse_cases
import peft_folders
import pytest
import tiny_models
from broken_adapters import Spoil, edit_config, edit_tensors, without
from bundle_cases import WRITTEN_HERE

from fusery.registry import Registry
from fusery.registry.adapters import verdict
from fusery.registry.admission.rules import CODES
from fusery.registry.bundles.source import Choices
from fusery.registry.bundles.target import own_targets
from fusery.registry.engine.engine import fuse
from fusery.registry.engine.plan import make_plan
from fusery.registry.errors import BadInputError, FusionUnsupportedError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.registry.runtime.switching import Switchboard
from fusery.research.models import LoadedModel
from fusery.research.probe import source_of, subject_of
from fusery.storage.jsonfile import read_object
from fusery.storage.manifest import manifest_of

pytest.importorskip("mlx_lm")
pytest.importorskip("gguf")

_NUMBERS = count()
_USED: set[tuple[Path, str]] = set()
_PUT_ON: set[tuple[Path, str, bool]] = set()
_FUSED: dict[tuple[Path, str], dict[str, Any]] = {}
"""By base and the adapter's bytes: most variants are, without what they are spoilt by, one adapter."""
KEEP = FuseRequest(precision="keep", accept_loss=True)


def drop(*names: str) -> Spoil:
    """Remove settings from a configuration, wherever they are."""

    def spoil(folder: Path) -> None:
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text())
        for name in names:
            config.pop(name, None)
            config["lora_parameters"].pop(name, None)
        path.write_text(json.dumps(config))

    return spoil


@dataclass(frozen=True)
class Variant:
    """An adapter that is made with `make` for a base and changed by `spoil`; if `like`, its fuse stays the same."""

    spoil: Spoil = bad_adapters.nothing
    make: dict[str, Any] = field(default_factory=dict)
    like: bool = True
    base: dict[str, Any] = field(default_factory=dict)


_DORA: dict[str, Any] = {"fine_tune_type": "dora"}
_QV = ["self_attn.q_proj", "self_attn.v_proj"]
_ALL = {"num_layers": -1}
both = bad_adapters.both

VARIANTS: dict[str, Variant] = {
    "as it is": Variant(),
    "lora_layers": Variant(both(drop("num_layers"), edit_config(lora_layers=2))),
    "no num_layers": Variant(drop("num_layers")),
    "no num_layers, no keys, query and value": Variant(
        both(drop("num_layers", "keys")), {"keys": _QV, "num_layers": 2}, base={"bits": 4}
    ),
    "num_layers -1": Variant(make=_ALL),
    "mlx-lm 0.21, 2 layers": Variant(edit_config(num_layers=2, mask_prompt=None), _ALL),
    # mlx-lm quantises anew what its configuration adapts, the first layer too, of which there is nothing to add.
    "mlx-lm 0.21, all layers, 4 bits": Variant(
        edit_config(num_layers=-1, mask_prompt=None), {"num_layers": 3}, like=False, base={"bits": 4}
    ),
    "mlx-lm 0.21, dora": Variant(edit_config(num_layers=2, mask_prompt=None), {**_DORA, **_ALL}),
    "keys from the root": Variant(make={"keys": ["model.layers.3.self_attn.q_proj", "lm_head"]}),
    "embedding": Variant(make={"keys": ["model.embed_tokens", *_QV]}),
    "scale true": Variant(edit_config(scale=True), {"scale": 1.0}),
    "negative scale": Variant(edit_config(scale=-20.0), like=False),
    "bf16": Variant(make={"dtype": "bfloat16"}),
    "rank too large": Variant(make={"rank": 65}),
    "dora": Variant(make=_DORA),
    "dora of old": Variant(
        both(drop("fine_tune_type", "num_layers"), edit_config(use_dora=True, lora_layers=2)), _DORA
    ),
    "one layer": Variant(without("layers.2."), like=False),
    "zero": Variant(edit_tensors(lambda t: {k: v * 0 for k, v in t.items()}), like=False),
    **{
        f"finding: {code}": Variant(case.bad, case.make, like=False)
        for code, case in bad_adapters.CASES.items()
        # One of each code; an error refuses the adapter (test_codes.py), and without a change it is as it is.
        if "/" not in code
        and CODES[code].severity != "error"
        and case.bad is not bad_adapters.nothing
        and code not in ("full_incomplete", "chat_template_exceeds")
    },
}

PEFT: dict[str, dict[str, Any]] = {
    "as it is": {},
    "alpha 0": {"lora_alpha": 0},
    "rslora": {"use_rslora": True},
    "ranks": {"ranks": {"model.layers.1.self_attn.q_proj": 2}},
    "expression": {"target_modules": r".*\.(q|v)_proj"},
    "all-linear": {
        "modules": [name.rpartition(".")[2] for name in tiny_models.LINEAR],
        "target_modules": "all-linear",
    },
    "dora": {"dora": True},
    "dropout null": {"lora_dropout": None},
}


CASES = [
    fuse_cases.Case("llama", "bf16", "full"),
    fuse_cases.Case("qwen2", "mxfp4", "embedding"),
    fuse_cases.Case("qwen3_moe", "4bit", "lora"),
    fuse_cases.Case("mixtral", "bf16", "experts", layout="hf"),
    fuse_cases.Case("gemma3_text", "bf16", "dora"),
]


@pytest.fixture(scope="module")
def registry(module_registry: Registry) -> Registry:
    return module_registry


@pytest.fixture(scope="module")
def base(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes a base of a kind, adds it by its own name, and returns its folder."""
    made: dict[str, Path] = {}

    def make(**options: Any) -> Path:
        name = "tiny" + "".join(f"-{value}{key}" for key, value in options.items())
        if name not in made:
            made[name] = tiny_models.make_base(tmp_path_factory.mktemp("bases") / name, **options)
            registry.bases.add(made[name], name=name)
        return made[name]

    return make


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_admitted_can_be_used(
    name: str, registry: Registry, base: Callable[..., Path], tmp_path: Path
) -> None:
    variant = VARIANTS[name]
    place = base(**variant.base)
    folder = tiny_models.make_adapter(tmp_path / "adapter", place, **{"num_layers": 2, **variant.make})
    plain = shutil.copytree(folder, tmp_path / "plain")
    variant.spoil(folder)
    if (reference := admitted(registry, folder, place)) is None:
        assert name.startswith("finding: ") or name in REFUSED
        return
    assert name not in REFUSED
    if name in MERGE_AWARE:
        with pytest.raises(FusionUnsupportedError) as caught:
            registry.fused.fuse(reference, KEEP)
        assert caught.value.hint
        return
    if (key := (place, contents(folder))) in _USED:
        return
    _USED.add(key)
    fused = used_in_every_way(registry, reference, place, tmp_path, targets(name))
    if variant.like:
        assert fused == fused_by_engine(place, plain, tmp_path)


@pytest.mark.parametrize("name", PEFT)
def test_what_is_admitted_of_peft_can_be_used(
    name: str, registry: Registry, base: Callable[..., Path], tmp_path: Path
) -> None:
    place = base()
    folder = peft_folders.make_peft(tmp_path / "adapter", place, **PEFT[name])
    reference = admitted(registry, folder, place)
    assert (reference is None) == (name in REFUSED_PEFT)
    if reference is not None:
        used_in_every_way(registry, reference, place, tmp_path, targets(name))


EVERYWHERE = {"as it is", "dora of old", "embedding", "bf16", "rslora"}
"""What every target is asked to take."""

IN_A_CLUSTER = Choices(base_name="org/base", location="oci://team/adapters:v1")
"""What has to be said for manifests."""

REFUSED = {"one layer", "zero"}
MERGE_AWARE = {"finding: quantization_aware", "finding: nvfp4_merge_aware"}
"""Adapters that are right in one format only, which `keep` does not write on this base."""
REFUSED_PEFT = {"alpha 0", "dropout null"}


def admitted(registry: Registry, folder: Path, base: Path) -> str | None:
    """Register a folder if `check` passes it, and return its name."""
    task = f"t{next(_NUMBERS)}"
    if verdict(registry.adapters.check(folder, base=base.name, task=task)) == "fail":
        return None
    return registry.adapters.register(folder, base=base.name, task=task, date="20260115")["name"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_admitted_on_other_classes_can_be_used(
    case: fuse_cases.Case, registry: Registry, tmp_path: Path
) -> None:
    place = fuse_cases.make_base(tmp_path / f"base{next(_NUMBERS)}", case)
    folder = fuse_cases.make_adapter(tmp_path / "adapter", place, case)
    tiny_models.make_tokenizer(place)
    registry.bases.add(place, name=place.name)
    reference = admitted(registry, folder, place)
    assert reference is not None
    if case.adapter == "full":
        with pytest.raises(BadInputError):
            registry.bundles.materialize(reference, tmp_path / "out", target="adapters")
    used_in_every_way(registry, reference, place, tmp_path, targets("as it is"))


@pytest.mark.parametrize(("form", "turned"), [("f32", False), ("4bit", True)])
def test_experts_of_peft_can_be_used(form: str, turned: bool, registry: Registry, tmp_path: Path) -> None:
    case = fuse_cases.Case("qwen3_moe", form, "experts")
    place = fuse_cases.make_base(tmp_path / f"base{next(_NUMBERS)}", case)
    registry.bases.add(place, name=place.name)
    folder = peft_folders.make_experts(tmp_path / "adapter", place, turned=turned)
    reference = admitted(registry, folder, place)
    assert reference is not None
    used_in_every_way(registry, reference, place, tmp_path, targets("turned" if turned else "as it is"))


def targets(name: str) -> Iterator[tuple[str, str]]:
    """Yield the targets to try, with what they hold: of most adapters one for each form that a target takes."""
    for target, kind in WRITTEN_HERE.items():
        for content in kind.contents:
            few = ("adapters",) if name.startswith("finding: ") else ("adapters", "vllm")
            if name in EVERYWHERE or (content == "adapters" and target in few):
                yield target, content


def used_in_every_way(
    registry: Registry, reference: str, base: Path, scratch: Path, wanted: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """Use an adapter in every way there is, and return the tensors that it was fused to."""
    fused = registry.fused.fuse(reference, KEEP)
    whole = registry.adapters.show(reference)["method"] == "full"
    with source_of(registry.workspace, subject_of(registry.workspace, reference)) as source:
        put_on(base, source.adapter, serve=not whole)
    registry.exchange.export(reference, scratch / "exported")
    for target, content in wanted:
        out = scratch / f"{target}-{content}{'.tar' if own_targets()[target].single else ''}"
        request = {"request": KEEP} if content == "fused" else {}
        told = IN_A_CLUSTER if own_targets()[target].located else None
        try:
            form = {"target": target, "content": content, "choices": told, **request}
            registry.bundles.materialize(reference, out, **form)
        except BadInputError as error:
            assert error.hint  # a reason, and a way on
            continue
        if target == "adapters" and content == "adapters":
            put_on(base, next((out / "adapters").iterdir()))
    return tiny_models.read_tensors(fused.path)


def put_on(base: Path, adapter: Path | None, *, serve: bool = True) -> None:
    """Let the probe and the server load a model, and an adapter on it; the same bytes once on one base."""
    if adapter is not None:
        if (key := (base, contents(adapter), serve)) in _PUT_ON:
            return
        _PUT_ON.add(key)
    from mlx_lm.utils import load_model

    model = LoadedModel.load(base)
    if adapter is None:
        return
    model.put_on(adapter)
    if not serve:
        return
    board = Switchboard(load_model(base, lazy=True)[0])
    board.use(board.load("a", adapter))


def contents(folder: Path) -> str:
    """Return a digest of the files of a folder."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return manifest_of(files).digest


def fused_by_engine(base: Path, adapter: Path, scratch: Path) -> dict[str, Any]:
    """Return the tensors that the engine makes of an adapter as mlx-lm's trainer writes it today."""
    if (key := (base, contents(adapter))) in _FUSED:
        return _FUSED[key]
    config, settings = map(read_object, (base / "config.json", adapter / "adapter_config.json"))
    files = {path.name: path for path in base.iterdir()}
    (scratch / "engine").mkdir()
    fuse(make_plan(files, config, adapter / "adapters.safetensors", settings, "keep"), scratch / "engine")
    return _FUSED.setdefault(key, tiny_models.read_tensors(scratch / "engine"))
