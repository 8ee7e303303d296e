"""Export and import: a folder for git that any registry with the base reads back to the same adapter."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import peft_folders
import pytest
import tiny_models
from fixture_types import Fusery

from fusery.registry import Registry, tables
from fusery.registry.records.references import resolve_adapter


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FACTS = (
    "name",
    "task",
    "version",
    "date",
    "digest",
    "method",
    "rank",
    "alpha",
    "scale",
    "layers",
    "target_modules",
)
SAID = ("val_loss", "dataset", "examples", "iterations", "tags", "note", "trainable_parameters")


@pytest.fixture
def exported(stocked: Fusery, tmp_path: Path) -> Path:
    """`course_rec@1` as a folder."""
    assert stocked("export", "course_rec@1", tmp_path / "out").code == 0
    return tmp_path / "out" / "adapters_course_rec_v1_20260115"


def test_what_an_exported_folder_holds(stocked: Fusery, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {
        "adapters.safetensors",
        "adapter_config.json",
        "adapter_metadata.json",
        "README.md",
        ".gitattributes",
    }
    said = json.loads((exported / "adapter_metadata.json").read_text())
    assert said["base_model"] == "tiny"
    assert (said["adapter_name"], said["version"], said["training_date"]) == ("course_rec", 1, "2026-01-15")
    assert (said["lora_rank"], said["lora_alpha"], said["final_val_loss"]) == (8, 160.0, 0.61)
    assert "*.safetensors filter=lfs diff=lfs merge=lfs -text" in (exported / ".gitattributes").read_text()
    card = (exported / "README.md").read_text()
    assert 'base_model: "tiny"' in card
    assert "# course_rec_v1_20260115" in card
    assert oct((exported / "README.md").stat().st_mode)[-3:] == "644"


def test_the_same_adapter_gives_the_same_folder(stocked: Fusery, exported: Path, tmp_path: Path) -> None:
    before = digests(exported)
    again = stocked("export", "course_rec@1", tmp_path / "out", "--json")
    assert (again.code, again.json["existed"]) == (0, True)
    assert stocked("export", "course_rec@1", tmp_path / "other").code == 0
    assert digests(tmp_path / "other" / exported.name) == before


def test_what_is_there_is_not_overwritten(stocked: Fusery, exported: Path, tmp_path: Path) -> None:
    (exported / "README.md").write_text("my own words")
    refused = stocked("export", "course_rec@1", tmp_path / "out", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (2, "already_exists")
    assert "--force" in refused.json["error"]["hint"]
    assert (exported / "README.md").read_text() == "my own words"
    assert stocked("export", "course_rec@1", tmp_path / "out", "--force").code == 0
    assert (exported / "README.md").read_text().startswith("---")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [exported.name]


def test_the_export_is_on_record(stocked: Fusery, exported: Path) -> None:
    shown = stocked("show", "course_rec@1", "--json").json
    assert [(bundle["target"], bundle["path"]) for bundle in shown["bundles"]] == [
        ("adapter-mlx", str(exported))
    ]
    nodes = stocked("lineage", "course_rec@1", "--json").json["nodes"]
    assert "bundle" in {node["kind"] for node in nodes}
    assert stocked("audit").code == 0
    (exported / "adapters.safetensors").write_bytes(b"changed")
    assert stocked("audit").code == 1


def other_home(fusery: Fusery, tmp_path: Path, tiny_base: Path, name: str = "tiny") -> tuple[str, str]:
    home = ("--home", str(tmp_path / "elsewhere"))
    assert fusery(*home, "base", "add", tiny_base, "--name", name).code == 0
    return home


@pytest.mark.parametrize("name", ["tiny", "known-by-its-digest"])
def test_another_registry_reads_it_back(
    stocked: Fusery, exported: Path, tmp_path: Path, tiny_base: Path, name: str
) -> None:
    home = other_home(stocked, tmp_path, tiny_base, name)
    came = stocked(*home, "import", exported, "--json")
    assert came.code == 0, came.err
    assert came.json["created"] is True
    ours, theirs = (stocked(*where, "show", "course_rec@1", "--json").json for where in ((), home))
    assert {key: theirs[key] for key in (*FACTS, *SAID)} == {key: ours[key] for key in (*FACTS, *SAID)}
    assert theirs["files"] == ours["files"]
    assert theirs["base"] == name
    again = stocked(*home, "import", exported)
    assert (again.code, again.out.splitlines()[0]) == (0, "Already there: course_rec_v1_20260115")
    assert len(stocked(*home, "list", "--json").json) == 1
    assert stocked(*home, "audit").code == 0


def test_the_same_registry_says_that_it_is_there(stocked: Fusery, exported: Path) -> None:
    assert stocked("import", exported, "--json").json["created"] is False


def test_a_metadata_file_of_the_user_s_own_comes_back_to_the_byte(
    stocked: Fusery, tmp_path: Path, tiny_base: Path
) -> None:
    folder = tiny_models.make_adapter(tmp_path / "mine", tiny_base, seed=9)
    text = '{"adapter_name": "mine",\r\n "version": 4, "training_date": "2026-03-01", "owner": "Zoë"}'
    (folder / "adapter_metadata.json").write_bytes(text.encode())
    words = ("--tag", "team=x", "--note", "a note", "--examples", "7", "--parent", "course_rec@2")
    assert stocked("register", folder, "--base", "tiny", "--dataset", "d", *words).code == 0
    assert stocked("export", "mine@4", tmp_path / "out").code == 0
    written = json.loads(
        (tmp_path / "out" / "adapters_mine_v4_20260301" / "adapter_metadata.json").read_text()
    )
    assert written["owner"] == "Zoë"
    home = other_home(stocked, tmp_path, tiny_base)
    assert stocked(*home, "import", tmp_path / "out" / "adapters_mine_v4_20260301").code == 0
    ours, theirs = (stocked(*where, "show", "mine@4", "--json").json for where in ((), home))
    assert {key: theirs[key] for key in (*FACTS, *SAID)} == {key: ours[key] for key in (*FACTS, *SAID)}
    assert theirs["files"] == ours["files"]
    assert theirs["parent"] is None


def test_the_parent_is_found_again_where_it_is(stocked: Fusery, tmp_path: Path, tiny_base: Path) -> None:
    folder = tiny_models.make_adapter(tmp_path / "child", tiny_base, seed=9)
    words = ("--base", "tiny", "--task", "child", "--parent", "course_rec@2", "--date", "20260301")
    assert stocked("register", folder, *words).code == 0
    for reference in ("course_rec@2", "child@1"):
        assert stocked("export", reference, tmp_path / "out").code == 0
    home = other_home(stocked, tmp_path, tiny_base)
    for name in ("adapters_course_rec_v2_20260201", "adapters_child_v1_20260301"):
        assert stocked(*home, "import", tmp_path / "out" / name).code == 0
    assert stocked(*home, "show", "child@1", "--json").json["parent"] == "course_rec_v2_20260201"


def test_peft_s_form_goes_out_and_its_own_comes_back(
    stocked: Fusery, tmp_path: Path, tiny_base: Path
) -> None:
    folder = peft_folders.make_peft(
        tmp_path / "peft",
        tiny_base,
        use_rslora=True,
        alpha_pattern={"q_proj": 5},
        base_model_name_or_path="tiny",
    )
    words = ("--base", "tiny", "--task", "theirs", "--date", "20260301")
    assert stocked("register", folder, *words).code == 0
    assert stocked("export", "theirs@1", tmp_path / "own").code == 0
    out = tmp_path / "own" / "adapters_theirs_v1_20260301"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    home = other_home(stocked, tmp_path, tiny_base)
    assert stocked(*home, "import", out).code == 0
    ours, theirs = (stocked(*where, "show", "theirs@1", "--json").json for where in ((), home))
    assert {key: theirs[key] for key in (*FACTS, *SAID, "renderings")} == {
        key: ours[key] for key in (*FACTS, *SAID, "renderings")
    }


@pytest.mark.parametrize("form", ["mlx", "peft"])
def test_the_other_form_is_on_record_and_knows_its_adapter(
    stocked: Fusery, tmp_path: Path, tiny_base: Path, form: str
) -> None:
    folder = peft_folders.make_peft(tmp_path / "peft", tiny_base, base_model_name_or_path="tiny")
    assert stocked("register", folder, "--base", "tiny", "--task", "theirs", "--date", "20260301").code == 0
    reference = "theirs@1" if form == "mlx" else "course_rec@1"
    made = stocked("export", reference, tmp_path / "out", "--format", form, "--json").json
    assert (made["format"], made["rendered"]) == (form, True)
    shown = stocked("show", reference, "--json").json
    files = {file["path"]: file["sha256"] for file in made["files"]}
    assert [rendering["format"] for rendering in shown["renderings"]] == [form]
    assert ("adapters.safetensors" in files) == (form == "mlx")
    assert ("adapter_model.safetensors" in files) == (form == "peft")
    known = stocked("import", made["path"], "--json")
    assert (known.code, known.json["created"], known.json["name"]) == (0, False, shown["name"])
    home = other_home(stocked, tmp_path, tiny_base)
    refused = stocked(*home, "import", made["path"])
    assert refused.code == 2
    assert "computed from" in refused.err
    # A rendering is an adapter like any other to somebody who wants it.
    assert stocked(*home, "register", made["path"], "--base", "tiny").code == 0


def spoil(folder: Path, how: str) -> None:
    said = json.loads((folder / "adapter_metadata.json").read_text())

    def write(document: Any) -> None:
        (folder / "adapter_metadata.json").write_text(json.dumps(document))

    match how:
        case "no metadata":
            (folder / "adapter_metadata.json").unlink()
        case "metadata that is no JSON":
            (folder / "adapter_metadata.json").write_text("{")
        case "hand-written metadata":
            write({key: value for key, value in said.items() if key != "fusery"})
        case "another version of the form":
            write({**said, "fusery": {**said["fusery"], "format": "fusery.export.v9"}})
        case "a malformed entry":
            write({**said, "fusery": {**said["fusery"], "files": 3}})
        case "no weights":
            (folder / "adapters.safetensors").unlink()
        case "a pointer":
            (folder / "adapters.safetensors").write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
            )
        case "changed weights":
            data = bytearray((folder / "adapters.safetensors").read_bytes())
            data[-1] ^= 1
            (folder / "adapters.safetensors").write_bytes(data)
        case "another digest":
            write({**said, "fusery": {**said["fusery"], "digest": "0" * 64}})
        case "another task in the name":
            write(
                {**said, "fusery": {**said["fusery"], "facts": {**said["fusery"]["facts"], "task": "../x"}}}
            )
        case "a link outside":
            shutil.move(folder / "adapters.safetensors", folder.parent / "w")
            (folder / "adapters.safetensors").symlink_to(folder.parent / "w")
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("no metadata", "has no adapter_metadata.json"),
        ("metadata that is no JSON", "not JSON"),
        ("hand-written metadata", "was not exported by fusery"),
        ("another version of the form", "was not exported by fusery"),
        ("a malformed entry", "fusery.files"),
        ("no weights", "has no adapters.safetensors"),
        ("a pointer", "Git LFS"),
        ("changed weights", "not as it was exported"),
        ("another digest", "the files have another"),
        ("another task in the name", "is not a task name"),
        ("a link outside", "outside the folder"),
    ],
)
def test_a_folder_that_is_not_as_it_was_exported_is_refused(
    stocked: Fusery, exported: Path, tmp_path: Path, tiny_base: Path, how: str, part: str
) -> None:
    home = other_home(stocked, tmp_path, tiny_base)
    spoil(exported, how)
    refused = stocked(*home, "import", exported)
    assert refused.code == 2
    assert part in refused.err
    assert stocked(*home, "list", "--json").json == []


def test_a_base_that_is_not_there_is_asked_for(stocked: Fusery, exported: Path, tmp_path: Path) -> None:
    home = ("--home", str(tmp_path / "elsewhere"))
    assert stocked(*home, "init").code == 0
    refused = stocked(*home, "import", exported, "--json")
    assert (refused.code, refused.json["error"]["code"]) == (2, "unknown_reference")
    assert refused.json["error"]["hint"] == f"fusery {shlex.join(home)} base add SOURCE --name tiny"


def test_another_base_of_that_name_is_taken_only_if_asked_for(
    stocked: Fusery, exported: Path, tmp_path: Path
) -> None:
    base = tiny_models.make_base(tmp_path / "another", seed=7)
    home = other_home(stocked, tmp_path, base)
    refused = stocked(*home, "import", exported)
    assert refused.code == 2
    assert "--base tiny" in refused.err
    assert stocked(*home, "import", exported, "--base", "tiny").code == 0


def test_what_is_no_place_for_an_export_is_refused(stocked: Fusery, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert stocked("export", "course_rec@1", tmp_path / "file").code == 2
    assert stocked("export", "course_rec@1", tmp_path / "home" / "store").code == 2
    assert stocked("export", "course_rec@9", tmp_path / "out").code == 2
    assert not (tmp_path / "out").exists()


def test_a_yanked_adapter_stays_where_it_is(stocked: Fusery, tmp_path: Path) -> None:
    with Registry.open(tmp_path / "home") as registry, registry.workspace.database.write() as session:
        adapter = resolve_adapter(session, "course_rec@1")
        now = registry.workspace.database.utcnow(session)
        session.add(tables.Yank(adapter_id=adapter.id, reason="leaked", at=now, by="ann"))
    refused = stocked("export", "course_rec@1", tmp_path / "out")
    assert refused.code == 2
    assert "leaked" in refused.err
    assert not (tmp_path / "out").exists()


def test_show_names_both_forms(stocked: Fusery, tmp_path: Path) -> None:
    assert stocked("export", "course_rec@1", tmp_path / "out", "--format", "peft").code == 0
    line = next(
        line for line in stocked("show", "course_rec@1").out.splitlines() if line.startswith("format")
    )
    assert line.split(maxsplit=1)[1] == "mlx, peft (rendered)"


def test_quiet_prints_the_path_and_the_name(stocked: Fusery, tmp_path: Path) -> None:
    written = stocked("export", "course_rec@1", tmp_path / "out", "-q")
    assert written.out == f"{tmp_path / 'out' / 'adapters_course_rec_v1_20260115'}\n"
    assert stocked("import", written.out.strip(), "-q").out == "course_rec_v1_20260115\n"
