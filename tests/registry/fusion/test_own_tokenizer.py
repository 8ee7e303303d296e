"""The tokenizer files of an adapter are stored with it, and replace the base's wherever it is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from peft_folders import make_peft

from fusery.registry import AdmissionError, Registry, Reporter
from fusery.registry.adapters.tokenizer_files import reader, templates_of
from fusery.registry.bundles import Choices
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.request import FuseRequest

SAID = {"val_loss": 1.0, "dataset": "greetings"}
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|close|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
CHATS = [
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1? <|close|> \u00e4\u4e2d"},
    ],
    [{"role": "user", "content": "x" * 40}, {"role": "assistant", "content": "2"}],
]
FILES = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def read_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def ids(folder: Path) -> list[list[int]]:
    tokenizer = read_tokenizer(folder)
    return [
        tokenizer(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))[
            "input_ids"
        ]
        for chat in CHATS
    ]


def train(folder: Path, base: Path, **options: Any) -> Path:
    """Write an adapter with the tokenizer that its trainer saved: two more tokens, another template, another end."""
    make_peft(folder, base, **options)
    tokenizer = read_tokenizer(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|close|>"]})
    tokenizer.eos_token = "<|close|>"
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [260]}))
    return folder


@pytest.fixture
def base(sqlite_registry: Registry, tmp_path: Path) -> Path:
    made = tiny_models.make_base(tmp_path / "base", layout="hf")
    sqlite_registry.bases.add(made, name="base")
    return made


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return train(tmp_path / "adapter", base)


def register(registry: Registry, folder: Path, task: str = "chat") -> Any:
    return registry.adapters.register(folder, base="base", task=task, **SAID)


def test_fused_model(sqlite_registry: Registry, base: Path, adapter: Path, tmp_path: Path) -> None:
    added = register(sqlite_registry, adapter)
    trained = ids(adapter)
    assert trained != ids(base)
    fused = sqlite_registry.fused.fuse(added.name)
    assert ids(fused.path) == trained
    assert json.loads((fused.path / "config.json").read_text())["eos_token_id"] == [260]
    for name in FILES | {"generation_config.json"}:
        assert (fused.path / name).read_bytes() == (adapter / name).read_bytes()
    sqlite_registry.bundles.materialize(added.name, tmp_path / "model")
    assert ids(tmp_path / "model") == trained
    sqlite_registry.bundles.materialize(added.name, tmp_path / "vllm", target="vllm", content="fused")
    assert ids(tmp_path / "vllm" / "model") == trained
    explained = sqlite_registry.fused.explain(added.name)
    assert {model.status for model in explained.models if model.asked} == {"hit"}


def test_a_sum_has_the_files_of_the_first_and_says_so(
    sqlite_registry: Registry, base: Path, adapter: Path, tmp_path: Path
) -> None:
    chat, plain = (
        register(sqlite_registry, folder, task).name
        for folder, task in ((adapter, "chat"), (make_peft(tmp_path / "plain", base, seed=5), "plain"))
    )
    for first, second, expected in ((chat, plain, ids(adapter)), (plain, chat, ids(base))):
        heard: list[str] = []
        request = FuseRequest("dequantize", extras=((second, 0.5),))
        done = sqlite_registry.fused.fuse(first, request, reporter=Reporter(heard.append))
        assert any("tokenizer files differ" in text and first in text for text in heard)
        assert ids(done.path) == expected


def test_template_in_settings_replaces_a_file_of_the_base(sqlite_registry: Registry, adapter: Path) -> None:
    """Older trainers save the template in tokenizer_config.json, but transformers prefers a file, here the base's."""
    first = sqlite_registry.fused.fuse(register(sqlite_registry, adapter).name)
    (adapter / "chat_template.jinja").unlink()
    settings = json.loads((adapter / "tokenizer_config.json").read_text())
    (adapter / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE + "!"}))
    other = register(sqlite_registry, adapter)
    assert other.created
    second = sqlite_registry.fused.fuse(other.name)
    assert first.key != second.key
    assert ids(second.path) == ids(adapter)


def test_templates_without_a_name_are_no_templates(tmp_path: Path) -> None:
    templates = [
        {"name": ["default"], "template": "a"},
        {"template": "b"},
        {"name": "tool_use", "template": "c"},
    ]
    put(tmp_path, "tokenizer_config.json", json.dumps({"chat_template": templates}))
    read = reader({"tokenizer_config.json": tmp_path / "tokenizer_config.json"})
    assert templates_of(read) == {"tool_use": ("tokenizer_config.json", "c")}


def test_template_without_a_tokenizer_is_kept(sqlite_registry: Registry, base: Path, tmp_path: Path) -> None:
    adapter = tiny_models.make_adapter(tmp_path / "adapter", base)
    (adapter / "chat_template.jinja").write_text(TEMPLATE)
    (adapter / "additional_chat_templates").mkdir()
    (adapter / "additional_chat_templates" / "tool_use.jinja").write_text(TEMPLATE + "{{ tools }}")
    added = register(sqlite_registry, adapter)
    fused = sqlite_registry.fused.fuse(added.name)
    assert (fused.path / "chat_template.jinja").read_text() == TEMPLATE
    assert (fused.path / "additional_chat_templates" / "tool_use.jinja").exists()
    assert (fused.path / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    folder = sqlite_registry.adapters.folder(added.name)
    assert (folder / "additional_chat_templates" / "tool_use.jinja").read_text() == TEMPLATE + "{{ tools }}"
    exported = sqlite_registry.exchange.export(added.name, tmp_path / "out").path
    again = sqlite_registry.exchange.import_folder(exported)
    assert (again.digest, again.created) == (added.digest, False)


def test_differences(sqlite_registry: Registry, base: Path, adapter: Path, tmp_path: Path) -> None:
    def check(folder: Path) -> list[Any]:
        return list(sqlite_registry.adapters.check(folder, base="base", task="chat"))

    differ = [each for each in check(adapter) if "differ" in each.code]
    assert {(each.code, each.subject) for each in differ} == {
        ("tokenizer_differs", "tokenizer.json"),
        *(
            ("tokenizer_files_differ", name)
            for name in FILES - {"tokenizer.json"} | {"generation_config.json"}
        ),
    }
    assert all("the adapter's " in each.message for each in differ)
    # The message names every key that differs.
    edited = make_peft(tmp_path / "edited", base, seed=1)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    changed = settings | {"model_max_length": 1234, "tokenizer_class": "BertTokenizer"}
    (edited / "tokenizer_config.json").write_text(json.dumps(changed))
    (edited / "generation_config.json").write_text(json.dumps({"temperature": 0.3, "max_length": 7}))
    messages = {each.subject: each.message for each in check(edited) if each.code == "tokenizer_files_differ"}
    assert "model_max_length, tokenizer_class" in messages["tokenizer_config.json"]
    assert "temperature" in messages["generation_config.json"]
    # The same tokenizer, as another library writes it, is no difference.
    same = make_peft(tmp_path / "same", base, seed=1)
    read_tokenizer(base).save_pretrained(same)
    assert (same / "tokenizer_config.json").read_bytes() != (base / "tokenizer_config.json").read_bytes()
    assert not {each.code for each in check(same)} & {"tokenizer_differs", "tokenizer_files_differ"}


def grow(folder: Path) -> None:
    document = json.loads((folder / "tokenizer.json").read_text())
    document["added_tokens"][-1]["id"] = 4000
    (folder / "tokenizer.json").write_text(json.dumps(document))


def decode(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["added_tokens_decoder"] = {"4000": {"content": "<|far|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_a_token_that_the_base_has_beyond_its_rows(
    sqlite_registry: Registry, base: Path, adapter: Path, tmp_path: Path
) -> None:
    """Gemma 3 has 262,144 rows, and gives `<image_soft_token>` that id."""
    own, folder = shutil.copytree(base, tmp_path / "own"), shutil.copytree(adapter, tmp_path / "far")
    document = json.loads((base / "tokenizer.json").read_text())
    document["added_tokens"][-1]["id"] = 4000
    (own / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer.json").write_text(json.dumps(document | {"truncation": None}, indent=1))
    (folder / "tokenizer_config.json").write_text(json.dumps({"extra": "x" * (5 << 20)}))
    codes = {}
    for name, place in (("base", base), ("own", own)):
        sqlite_registry.bases.add(place, name=name)
        found = sqlite_registry.adapters.check(folder, base=name, task="chat")
        codes[name] = {one.code for one in found if one.code.startswith("token") and one.severity == "error"}
    assert codes == {"base": {"tokens_beyond_base"}, "own": set()}


def put(folder: Path, name: str, content: str | bytes) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


REMOTE = json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
HOSTILE: tuple[tuple[str, Callable[[Path], object]], ...] = (
    ("tokens_beyond_base", grow),
    ("tokens_beyond_base", decode),
    ("remote_code", lambda folder: put(folder, "tokenizer_config.json", REMOTE)),
    ("tokenizer_unreadable", lambda folder: put(folder, "tokenizer_config.json", "{")),
    ("tokenizer_unreadable", lambda folder: put(folder, "tokenizer.json", '{"model": {"vocab": {"a": -1}}}')),
    ("tokenizer_unreadable", lambda folder: put(folder, "special_tokens_map.json", "[]")),
    ("tokenizer_unreadable", lambda folder: put(folder, "generation_config.json", '{"a": [' + "0," * 600_000 + "0]}")),
    ("tokenizer_unreadable", lambda folder: put(folder, "chat_template.jinja", b"\xff\xfe")),
    ("tokenizer_unreadable", lambda folder: put(folder, "chat_template.jinja", b" " * ((1 << 20) + 1))),
)  # fmt: skip


def test_harmful_files_are_refused(sqlite_registry: Registry, adapter: Path, tmp_path: Path) -> None:
    for number, (code, spoil) in enumerate(HOSTILE):
        folder = shutil.copytree(adapter, tmp_path / str(number))
        spoil(folder)
        with pytest.raises(AdmissionError) as refused:
            register(sqlite_registry, folder)
        assert code in {finding.code for finding in refused.value.findings if finding.severity == "error"}


def test_export_has_tokenizer(sqlite_registry: Registry, adapter: Path, tmp_path: Path) -> None:
    added, trained = register(sqlite_registry, adapter), ids(adapter)
    mlx, peft = (
        sqlite_registry.exchange.export(added.name, tmp_path / form, form=form).path
        for form in ("mlx", "peft")
    )
    for form, exported in (("mlx", mlx), ("peft", peft)):
        assert ids(exported) == ids(sqlite_registry.adapters.folder(added.name, format=form)) == trained
    with pytest.raises(BadInputError):  # computed: it has another digest
        sqlite_registry.exchange.import_folder(mlx)
    back = sqlite_registry.exchange.import_folder(peft)
    assert (back.digest, back.created) == (added.digest, False)
    with Registry.open(tmp_path / "other") as other:
        other.init()
        other.bases.add(tmp_path / "base", name="base")
        arrived = other.exchange.import_folder(peft)
        assert (arrived.digest, arrived.created) == (added.digest, True)
        assert ids(other.fused.fuse(arrived.name).path) == trained
    (peft / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(BadInputError, match=r"chat_template\.jinja"):
        sqlite_registry.exchange.import_folder(peft)


def test_unfused_bundles(sqlite_registry: Registry, base: Path, adapter: Path, tmp_path: Path) -> None:
    added, trained = register(sqlite_registry, adapter), ids(adapter)

    def ship(names: str | list[str], target: str, folder: str = "", **options: Any) -> Path:
        place = tmp_path / (folder or target)
        if target != "adapters":
            options["choices"] = Choices(base_name="org/base")
        sqlite_registry.bundles.materialize(names, place, target=target, content="adapters", **options)
        return place

    vllm = ship(added.name, "vllm")
    assert ids(vllm / "tokenizer") == trained
    script = (vllm / "serve.sh").read_text()
    assert '--tokenizer "$here/tokenizer" --generation-config "$here/tokenizer"' in script
    assert "--tokenizer /tokenizer --generation-config /tokenizer" in (vllm / "README.md").read_text()
    assert ids(ship(added.name, "hub")) == trained
    own = ship(added.name, "adapters")
    assert json.loads((own / "serving.json").read_text())["base"]["tokenizer"] == "tokenizer"
    assert ids(own / "tokenizer") == trained
    heard: list[str] = []
    ship(added.name, "ollama", reporter=Reporter(heard.append))
    assert [line for line in heard if "ollama does not include" in line]
    plain = register(sqlite_registry, make_peft(tmp_path / "plain", base, seed=2), "plain")
    assert not (ship(plain.name, "vllm", "base's") / "tokenizer").exists()
    with pytest.raises(BadInputError):
        ship([plain.name, added.name], "vllm", "both")


def test_shrunk_and_pushed_adapters_keep_it(sqlite_registry: Registry, adapter: Path, tmp_path: Path) -> None:
    added = register(sqlite_registry, adapter)
    small = sqlite_registry.adapters.shrink(added.name, rank=2)
    assert small.name is not None
    assert ids(sqlite_registry.adapters.folder(small.name)) == ids(adapter)
    with Registry.open(tmp_path / "other") as other:
        other.init()
        sqlite_registry.exchange.push(added.name, str(tmp_path / "other"))
        assert ids(other.adapters.folder(added.name)) == ids(adapter)


def test_server_uses_it(sqlite_registry: Registry, base: Path, adapter: Path, tmp_path: Path) -> None:
    from fusery.model_server.engine import Engine
    from fusery.model_server.local.serve import Follower, ServeRequest
    from fusery.registry.runtime.document import read_document

    added = register(sqlite_registry, adapter)
    folder = tmp_path / "served"
    folder.mkdir()
    follower = Follower(
        sqlite_registry.workspace, ServeRequest(references=[added.name]), folder, lambda _: None
    )
    follower.follow(follower.plan())
    document = read_document(folder / "serving.json")
    assert document.base.tokenizer is not None
    assert ids(folder / document.base.tokenizer) == ids(adapter)
    engine = Engine(base, lambda _: None, tokenizer=folder / document.base.tokenizer)
    engine.start()
    try:
        assert engine.tokenizer.encode("<|turn|>", add_special_tokens=False) == [259]
        assert set(engine.tokenizer.eos_token_ids) == {260}
    finally:
        engine.stop()
