"""How a model is written is said in one way by every command that fuses, and by today's names only."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import tiny_models

from fusery.cli.fuse import KEYS
from fusery.cli.materialize import TARGET_KEYS
from fusery.registry.fusion import request, speed
from fusery.registry.fusion.request import MODES, ROUNDINGS, FuseRequest

from .conftest import Fusery, require_refusals

FUSING = ("fuse REF", "materialize REF out", "serve REF", "admin cache explain REF")


def test_keys_are_fields_of_a_request() -> None:
    assert FuseRequest().__class__(**dict.fromkeys(KEYS)) is not None
    assert list(KEYS["mode"][0].choices) == list(MODES)  # type: ignore[attr-defined]
    assert list(KEYS["rounding"][0].choices) == list(ROUNDINGS)  # type: ignore[attr-defined]


def test_values_are_checked_and_the_keys_listed(fusery: Fusery) -> None:
    for command in FUSING:
        require_refusals(
            fusery,
            (f"{command} -o colour=red", ", ".join(KEYS)),
            (f"{command} -o scale", ", ".join(KEYS)),
            (f"{command} -o scale=wide", "float"),
            (f"{command} -o seed=-1", "0<=x"),
            (f"{command} -o mode=int4", "nvfp4"),
            (f"{command} -o scale=1 -o scale=2", "duplicate"),
            (f"{command} --as int4", "16bit"),
            (f"{command} --as dequantize", "16bit"),
        )


def test_targets_have_keys_of_their_own(stocked: Fusery) -> None:
    words = ("materialize", "course_rec@1", "out", "--target", "k8s")
    shown = " ".join(stocked(*words, "--help").out.partition("for --target k8s:")[2].split())
    assert {word for word in shown.split() if word in TARGET_KEYS} == {"base_name", "base_image", "location"}
    require_refusals(stocked, ((*words, "-o", "gguf_type=f16"), "materialize --target k8s --help"))


def test_a_written_model_has_the_precision_and_the_keys(stocked: Fusery) -> None:
    made = stocked("fuse", "course_rec@1", "--as", "16bit", "-o", "scale=3", "--accept-loss", "--json").json
    assert (made["precision"], made["scale"]) == ("dequantize", 3.0)
    words = ("-o", "quantize=8", "-o", "group-size=32", "--accept-loss", "--json")
    made = stocked("fuse", "course_rec@1", *words).json
    assert made["quantization"] == {"bits": 8, "group_size": 32, "mode": "affine"}
    [explained, *_] = stocked("admin", "cache", "explain", "course_rec@1", *words[:4], "--json").json[
        "models"
    ]
    assert (explained["key"], explained["status"]) == (made["key"], "hit")


@pytest.fixture
def forms(stocked: Fusery, tmp_path: Path) -> Fusery:
    """The command line on a registry with another form of the base model, and with another model."""
    for name, settings in {"four": {"bits": 4}, "other": {"seed": 9}}.items():
        folder = tiny_models.make_base(tmp_path / name, **settings)  # type: ignore[arg-type]
        assert stocked("base", "add", folder, "--name", name).code == 0
    return stocked


def test_another_form_of_the_base_is_named_by_every_command(forms: Fusery, tmp_path: Path) -> None:
    words = ("--base", "four", "--as", "keep", "--accept-loss", "--json")
    made = forms("fuse", "course_rec@1", *words).json
    assert (made["base"], made["adapter_base"], made["cached"]) == ("four", "tiny", False)
    assert "four, a form of tiny" in forms("fuse", "course_rec@1", *words[:-1]).out
    assert forms("materialize", "course_rec@1", "out", *words).json["fused"] == made["digest"]
    [explained, *_] = forms("admin", "cache", "explain", "course_rec@1", *words[:4], "--json").json["models"]
    assert explained["key"] == made["key"]
    require_refusals(
        forms,
        *(
            (f"{command} --base other", "other is not known to be a form of tiny")
            for command in (
                "fuse course_rec@1",
                "materialize course_rec@1 model",
                "materialize course_rec@1 apart --target adapters",
                "serve course_rec@1 --port 0",
                "serve course_rec@1 --fused --port 0",
                "show course_rec@1 --formats",
            )
        ),
        ("serve course_rec@1 --as keep --port 0", "--fused"),
    )


def test_materialize_names_the_base_and_takes_a_key(forms: Fusery) -> None:
    made = forms("fuse", "course_rec@1", "--base", "four", "--as", "keep", "--accept-loss", "--json").json
    ran = forms("materialize", "course_rec@1", "out")
    assert re.search(r"^(Wrote: .*) \(tiny in \w+\)$", ran.out, re.MULTILINE)
    assert "add --base four --force" in ran.err
    shown = forms("show", "course_rec@1").out
    assert "x the base four" in shown and "x the base tiny" in shown
    assert forms("materialize", made["key"][:12], "by_key", "--json").json["fused"] == made["digest"]
    error = forms("materialize", made["key"][:12], "apart", "--target", "adapters", "--json").json["error"]
    assert error["hint"].startswith(f"give {made['adapter']}, or: ")


@pytest.mark.slow
def test_another_form_is_named(forms: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
    (tmp_path / "asked.jsonl").write_text('{"prompt": "the cat", "completion": " sat"}\n')
    words = ("eval", "run", "course_rec@1", "--prompts", "asked.jsonl", "--json")
    own, other = forms(*words).json["recorded"], forms(*words, "--base", "four").json["recorded"]
    assert [row["metric"] for row in own] == ["probe.loss", "probe.gain"]
    assert [row["metric"] for row in other] == ["probe.loss@four", "probe.gain@four"]
    assert own[0]["value"] != other[0]["value"]
    assert forms(*words, "--base", "other").code == 2


COST = "times slower with quantised weights"


def register_small(fusery: Fusery, tmp_path: Path, **config: object) -> Fusery:
    """Register `small@1`, an adapter of a base of 4 bits."""
    base = tiny_models.make_base(tmp_path / "tiny4", bits=4, layers=2)
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base, num_layers=2)
    document = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(document | config))
    assert fusery("base", "add", base, "--name", "tiny4").code == 0
    words = ("--base", "tiny4", "--task", "small", "--date", "20260115")
    assert fusery("register", adapter, *words).code == 0
    return fusery


@pytest.mark.slow
def test_fuse_and_materialize_name_the_command_for_16_bits(
    fusery: Fusery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "times_faster", lambda cache, form: 7.4 if form else 1.0)
    monkeypatch.setattr(request, "times_faster", lambda cache, form: 7.4)
    quantised = register_small(fusery, tmp_path)
    ran = quantised("fuse", "small@1", "--as", "mixed")
    assert ran.code == 0 and f"7.4 {COST}" in ran.err
    command = shlex.split(ran.err.partition(COST)[2].partition(": ")[2].partition("\n")[0])
    dense = quantised(*command[1:])
    assert "-o scale=19 --as 16bit" in quantised("fuse", "small@1", "-o", "scale=19").err
    assert dense.code == 0 and COST not in dense.err
    assert COST not in quantised("fuse", "small@1", "--as", "mixed", "--json").err
    ran = quantised("materialize", "small@1", "docker", "--target", "docker", "--as", "mixed")
    assert ran.code == 0 and "add --as 16bit --force" in ran.err
    gguf = quantised("materialize", "small@1", "file", "--target", "gguf", "--as", "mixed")
    assert COST not in gguf.err
    assert COST in (tmp_path / "docker" / "README.md").read_text()
    card = (tmp_path / "docker" / "model" / "README.md").read_text()
    assert COST in card
    assert "\nfusery materialize small_v1_20260115 DEST --as 16bit\n" in card
    dense = quantised("materialize", "small@1", "dense", "--as", "16bit")
    assert dense.code == 0 and COST not in dense.err + (tmp_path / "dense" / "README.md").read_text()
