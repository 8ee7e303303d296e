"""A fused model tokenises chats as the adapter's trainer did, or `check` says what differs."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import trainer_tokenizers
from bundle_cases import model_file
from peft_folders import make_peft
from trainer_tokenizers import PLAIN, RUNS, Trained, TrainingSetup

from fusery.registry import AdmissionError, Registry
from fusery.registry.engine.recipe import OWN_TOKENS
from fusery.registry.fusion.request import FuseRequest

Chats = list[list[dict[str, str]]]

ROWS = 1024
WORDS = (
    *("the", "Answer", " 42", "12345", "naïve", "e\u0301", "中文字", "مرحبا", "🙂👩‍🚀", "\t", "\n\n", "  x "),
    *(
        "don't",
        "ﬁ",
        "<b>",
        "<|im",
        "{{ x }}",
        '<tool_call>{"name": "f", "arguments": {"place": "Zürich", "n": [1, 2.5]}}',
    ),
)
TOKENS = (
    "<|im_end|>",
    "<|turn|>",
    "<|close|>",
    "<empty_output>",
    "<|endoftext|>",
    "<|PAD_TOKEN|>",
    "<extra_id_3>",
)
REFUSED = {trainer_tokenizers.factory_stop_words: "tokens_beyond_base"}
"""The runs whose tokenizer no fused model can have, with the finding; the others are equal."""
DIFFERENCES = {"tokenizer_differs", "tokenizer_files_differ", "tokenizer_not_kept"}
FAST = ("mlx_settings", "trainer_without_tokenizer", "axolotl_tokens", "factory_stop_words")


def chats(count: int) -> Chats:
    """Return chats of one to six turns, some with a system prompt or a tool's answer, and tokens in the text."""
    choice = random.Random(41)
    made = []
    for _ in range(count):
        roles = [*(["system"] if choice.random() < 0.4 else []), *["user", "assistant"] * 3][
            : choice.randint(1, 6)
        ]
        words = [
            choice.choices(choice.choice((WORDS, WORDS, WORDS, TOKENS)), k=choice.randint(1, 9))
            for _ in roles
        ]
        roles = ["tool" if choice.random() < 0.1 else role for role in roles]
        texts = [choice.choice(("", " ")).join(some) for some in words]
        made.append([{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)])
    return made


def ids(tokenizer: Any, asked: Chats) -> list[list[int]]:
    return list(tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"])


def load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def use_smollm2(folder: Path) -> None:
    """Replace a base's tokenizer by that of SmolLM2, of which only the first tokens are left."""
    from fusery.registry.models.gguf_convert import read_header
    from fusery.registry.models.gguf_tokenizer import convert_tokenizer

    tokenizer = convert_tokenizer(read_header(model_file()).metadata, 49152, 2048)
    document = json.loads(tokenizer.tokenizer)
    model = document["model"]
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < ROWS}
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in model["vocab"]]
    (folder / "chat_template.jinja").unlink()
    files = {"tokenizer": document, "tokenizer_config": tokenizer.config, "generation_config": tokenizer.ids}
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


Make = Callable[[str], TrainingSetup]


def make_setups(registry: Registry, folder: Path, *, smollm2: bool) -> Make:
    """Return a function that makes the place of a run, on a base with all the tokenizer files of a hub."""
    rows = ROWS if smollm2 else 259
    sizes = {"vocab": rows, "hidden": 32, "intermediate": 64, "layers": 1}
    made = tiny_models.make_base(folder / "base", layout="hf", **sizes)
    if smollm2:
        use_smollm2(made)
    else:
        (made / "generation_config.json").write_text('{"eos_token_id": 258}')
    trainer_tokenizers.save_old(load(made), made)
    registry.bases.add(made, name="base")
    original = load(made)
    return lambda name: TrainingSetup(made, original, folder / name, sum(map(ord, name)))


def require_same(
    registry: Registry, run: Callable[[TrainingSetup], Trained], at: TrainingSetup, asked: Chats
) -> None:
    """Fuse a run's adapter, and compare its tokens and the ends of its answers with the trainer's."""
    trained, name = run(at), run.__name__
    try:
        added = registry.adapters.register(trained.folder, base="base", task=name.replace("_", "-"))
    except AdmissionError as error:
        assert REFUSED.get(run) in {finding.code for finding in error.findings}, name
        return
    assert run not in REFUSED
    made = at.folder.with_name(f"fused-{name}")
    registry.bundles.materialize(added.name, made, request=FuseRequest("keep", accept_loss=True))
    expected = ids(trained.tokenizer, asked)
    assert ids(load(made), asked) == expected, name
    if expected != ids(at.original, asked):
        assert {finding["code"] for finding in added.findings} & DIFFERENCES, name
    for file in ("config.json", "generation_config.json"):
        ends = json.loads((made / file).read_text())["eos_token_id"]
        # In training, transformers adds the tokenizer's end to the base's.
        expected_ends = trained.ends or {trained.tokenizer.eos_token_id, at.original.eos_token_id}
        assert set(ends if isinstance(ends, list) else [ends]) == expected_ends, (name, file)


def test_a_fused_model_tokenises_as_a_trainer_did(sqlite_registry: Registry, tmp_path: Path) -> None:
    make, asked = make_setups(sqlite_registry, tmp_path, smollm2=False), chats(20)
    for name in FAST:
        require_same(sqlite_registry, getattr(trainer_tokenizers, name), make(name), asked)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, Make]]:
    folder = tmp_path_factory.mktemp("trainers")
    with Registry.open(folder / "registry") as registry:
        registry.init()
        yield registry, make_setups(registry, folder, smollm2=True)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", RUNS)
def test_chats_of_24_runs(smollm2: tuple[Registry, Make], trainer: str) -> None:
    registry, make = smollm2
    for run in RUNS[trainer]:
        require_same(registry, run, make(run.__name__), chats(60))


def test_check_names_what_is_not_used(sqlite_registry: Registry, tmp_path: Path) -> None:
    make = make_setups(sqlite_registry, tmp_path, smollm2=False)
    at = make("run")
    own = at.tokenizer(template=PLAIN)

    def tokenizer_findings(folder: Path) -> list[Any]:
        findings = sqlite_registry.adapters.check(folder, base="base", task="run")
        return [finding for finding in findings if finding.code in DIFFERENCES]

    own.save_pretrained(make_peft(at.folder, at.base))
    checkpoint = make_peft(at.folder / "checkpoint-10", at.base)
    trainer_tokenizers.state(checkpoint, 10)
    (lost,) = tokenizer_findings(checkpoint)
    assert (lost.code, lost.subject) == ("tokenizer_not_kept", "chat_template.jinja")
    assert at.folder.name in lost.message
    assert [(one.code, one.subject) for one in tokenizer_findings(at.folder)] == [
        ("tokenizer_files_differ", lost.subject)
    ]
    shutil.rmtree(checkpoint)
    final = make_peft(tmp_path / "final", at.base)
    shutil.copytree(at.folder, final / "checkpoint-20")
    (final / "checkpoint-20/adapter_model.safetensors").unlink()
    (lost,) = tokenizer_findings(final)
    assert "checkpoint-20" in lost.message
    settings = at.folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": "{{ messages }}"}))
    (at.folder / "additional_chat_templates").mkdir()
    (at.folder / "additional_chat_templates/rag.jinja").write_text(PLAIN)
    messages = {(one.code, one.subject): one.message for one in tokenizer_findings(at.folder)}
    assert "rag.jinja" in messages["tokenizer_not_kept", "additional_chat_templates/rag.jinja"]
    assert any("chat_template.jinja is used" in one.message for one in tokenizer_findings(at.folder))
    slow = make("slow")
    trainer_tokenizers.save_old(slow.tokenizer("<|turn|>"), slow.peft(), fast=False)
    lost_tokens = [one.subject for one in tokenizer_findings(slow.folder) if one.code == "tokenizer_not_kept"]
    assert lost_tokens == ["added_tokens.json"]


def test_a_run_folder_may_hold_anything_beside_its_tokenizer(
    sqlite_registry: Registry, tmp_path: Path
) -> None:
    at = make_setups(sqlite_registry, tmp_path, smollm2=False)("run")
    trainer_tokenizers.trainer_without_tokenizer(at)
    (at.folder / "latest").symlink_to("checkpoint-20")
    (at.folder / "data").symlink_to("/etc")
    added = sqlite_registry.adapters.register(at.folder, base="base", task="run", checkpoint="10")
    files = {path.name for path in sqlite_registry.adapters.folder(added.name, format="peft").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= files


def test_check_passes_over_a_huge_tokenizer_nearby(sqlite_registry: Registry, tmp_path: Path) -> None:
    at = make_setups(sqlite_registry, tmp_path, smollm2=False)("run")
    checkpoint = make_peft(at.folder / "checkpoint-10", at.base)
    with (at.folder / "tokenizer_config.json").open("wb") as file:
        file.truncate(33 << 20)
    codes = {one.code for one in sqlite_registry.adapters.check(checkpoint, base="base", task="run")}
    assert not codes & DIFFERENCES


def test_an_end_token_is_part_of_the_key(sqlite_registry: Registry, tmp_path: Path) -> None:
    """An adapter's end token changes the bytes, so that it belongs into the key; other adapters keep theirs."""
    make = make_setups(sqlite_registry, tmp_path, smollm2=False)
    own, plain = make("own"), make("plain")
    own.tokenizer(eos="<|endoftext|>").save_pretrained(own.peft())
    plain.peft()
    engines = {}
    for at in (own, plain):
        added = sqlite_registry.adapters.register(at.folder, base="base", task=at.folder.name)
        engines[at.folder.name] = sqlite_registry.fused.fuse(
            added.name, FuseRequest("keep", accept_loss=True)
        ).engine
    assert engines["own"] == f"{engines['plain']}; {OWN_TOKENS}"


def test_servers_tokenise_as_the_trainer_did(sqlite_registry: Registry, tmp_path: Path) -> None:
    from mlx_lm.tokenizer_utils import load as load_tokenizer

    from fusery.model_server.local.serve import Follower, ServeRequest
    from fusery.model_server.prompts import PromptEncoder
    from fusery.model_server.schemas import Message

    make, asked = make_setups(sqlite_registry, tmp_path, smollm2=False), chats(10)
    trained = trainer_tokenizers.trainer_without_tokenizer(make("run"))
    name = sqlite_registry.adapters.register(trained.folder, base="base", task="run").name
    served = tmp_path / "served"
    served.mkdir()
    follower = Follower(sqlite_registry.workspace, ServeRequest(references=[name]), served, lambda _: None)
    follower.follow(follower.plan())
    for folder in (
        served / "tokenizer",
        sqlite_registry.fused.fuse(name, FuseRequest(accept_loss=True)).path,
    ):
        prompts = PromptEncoder(load_tokenizer(folder), context=4096, vocabulary=259)
        try:
            tokens = [prompts.chat(prompts.render([Message(**turn) for turn in chat], {})) for chat in asked]
        finally:
            prompts.close()
        assert tokens == ids(trained.tokenizer, asked)
