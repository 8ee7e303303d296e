from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models

from fusery.registry import BadInputError, FuseRequest, Registry, UnknownReferenceError

LOADED = """
import sys
from fusery import Registry
from mlx_lm import load

with Registry.open(sys.argv[1]) as registry:
    adapter = registry.adapters.list()[0]
    model, tokenizer = load(
        str(registry.bases.folder(adapter.base)), adapter_path=str(registry.adapters.folder(adapter))
    )
print(type(model.model.layers[-1].self_attn.q_proj).__name__)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_mlx_lm_loads_both_folders_in_two_lines(stocked: Registry) -> None:
    settings = stocked.workspace.settings
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOADED, str(settings.home)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "FUSERY_DATABASE_URL": settings.database_url},
    )
    assert done.stdout.strip() == "LoRALinear", done.stderr


def test_an_adapter_has_a_folder_in_each_form_and_it_stays(stocked: Registry) -> None:
    folder = stocked.adapters.folder("course_rec@1")
    assert names(folder) == ["adapter_config.json", "adapters.safetensors"]
    assert stocked.adapters.folder("course_rec@1") == folder
    assert not (folder / "adapters.safetensors").stat().st_mode & 0o222
    other = stocked.adapters.folder("course_rec@1", format="peft")
    assert names(other) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_base_has_a_folder_of_copies_and_a_referenced_one_its_own(
    stocked: Registry, registry: Registry, tiny_base: Path
) -> None:
    folder = stocked.bases.folder("tiny")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names(folder))
    assert (folder / "model.safetensors").read_bytes() == (tiny_base / "model.safetensors").read_bytes()


def test_a_referenced_base_stays_where_it_is(registry: Registry, tiny_base: Path) -> None:
    registry.bases.add(tiny_base, reference=True)
    assert registry.bases.folder(tiny_base.name) == tiny_base.resolve()


def test_a_damaged_folder_is_made_anew(stocked: Registry) -> None:
    folder = stocked.adapters.folder("course_rec@1")
    weights = folder / "adapters.safetensors"
    right = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    assert stocked.adapters.folder("course_rec@1") == folder
    assert weights.read_bytes() == right


def test_a_fused_model_is_found_by_its_key_while_it_is_here(stocked: Registry) -> None:
    made = stocked.fused.fuse("course_rec@1", FuseRequest(accept_loss=True))
    found = stocked.folder(made.key[:12])
    assert (found.kind, found.path, found.name) == ("fused", made.path, made.label)
    stocked.cache.prune(0)
    with pytest.raises(UnknownReferenceError, match="not on this machine") as refused:
        stocked.folder(made.key[:12])
    assert refused.value.hint == f"fusery fuse course_rec@1 --recipe {made.key}".replace(
        "course_rec@1", made.adapter
    )


def test_folders_are_kept_by_the_rules_of_the_cache(stocked: Registry) -> None:
    folder = stocked.adapters.folder("course_rec@1")
    [entry] = stocked.cache.contents().entries
    assert (entry.path, entry.label) == (folder, "course_rec_v1_20260115 (files of an adapter)")
    stocked.bases.folder("tiny")
    assert [entry.label for entry in stocked.cache.contents().entries][-1] == "tiny (files of a base)"
    stocked.cache.prune(0)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("reference", "form", "said"),
    [
        ("tiny", "mlx", "a format is one of adapters"),
        ("course_rec@1", "onnx", "there is no format 'onnx'"),
        ("nothing@1", None, "nothing@1"),
    ],
)
def test_what_has_no_folder_is_a_sentence(
    stocked: Registry, reference: str, form: str | None, said: str
) -> None:
    with pytest.raises((BadInputError, UnknownReferenceError), match=said):
        stocked.folder(reference, format=form)


def test_what_is_yanked_is_not_handed_out(stocked: Registry) -> None:
    stocked.adapters.yank("course_rec@1", reason="wrong data")
    with pytest.raises(BadInputError, match="wrong data"):
        stocked.adapters.folder("course_rec@1")


def test_what_lies_beside_a_referenced_base_is_not_loaded_with_it(registry: Registry, tmp_path: Path) -> None:
    base = tiny_models.make_base(tmp_path / "mine")
    registry.bases.add(base, reference=True)
    (base / "README.md").write_text("of no harm")
    assert registry.bases.folder("mine") == base.resolve()
    (base / "model-extra.safetensors").write_bytes((base / "model.safetensors").read_bytes())
    folder = registry.bases.folder("mine")
    assert folder != base.resolve()
    assert "model-extra.safetensors" not in names(folder)


def test_a_folder_that_was_just_handed_out_stays_whatever_the_limit(stocked: Registry) -> None:
    stocked.workspace.settings = replace(stocked.workspace.settings, cache_limit=0)
    base, adapter = stocked.bases.folder("tiny"), stocked.adapters.folder("course_rec@1")
    assert (base / "config.json").exists()
    assert (adapter / "adapters.safetensors").exists()


def test_a_folder_is_pinned_by_its_key(stocked: Registry) -> None:
    folder = stocked.adapters.folder("course_rec@1")
    assert [row["key"] for row in stocked.cache.pin(folder.name)] == [folder.name]
    stocked.cache.prune(0)
    assert folder.exists()


def test_whose_bytes_are_yanked_is_told(stocked: Registry) -> None:
    made = stocked.fused.fuse("course_rec@1", FuseRequest(accept_loss=True))
    stocked.adapters.yank("course_rec@1", reason="wrong data")
    [told] = stocked.folder(made.key).withdrawals
    assert "wrong data" in told.told
