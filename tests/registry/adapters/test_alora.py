"""aLoRA: registered and served, and refused where the adapter would be active on all tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peft_folders import edit_config, make_peft
from serving_server import served
from tiny_models import make_adapter

from fusery.registry import Registry
from fusery.registry.adapters.trained_through import ALORA, INVOCATION
from fusery.registry.admission.code import AdmissionError
from fusery.registry.errors import BadInputError
from fusery.registry.fusion.fuse import FuseRequest
from fusery.research.bench import bench
from fusery.research.probe import subject_of
from fusery.storage.digest import digest_file

TOKENS = [7, 8]


@pytest.fixture
def alora(registry: Registry, tiny_base: Path, tmp_path: Path) -> Iterator[Path]:
    registry.bases.add(tiny_base, name="tiny")
    yield make_peft(tmp_path / "peft", tiny_base, alora_invocation_tokens=TOKENS)


def test_it_is_registered_with_its_tokens(registry: Registry, alora: Path, tmp_path: Path) -> None:
    findings = registry.adapters.register(alora, base="tiny", task="one")["findings"]
    (message,) = [finding["message"] for finding in findings if finding["code"] == ALORA]
    assert "(7, 8)" in message
    shown = registry.adapters.show("one@1")
    assert shown["training"][INVOCATION] == TOKENS
    assert message in [finding["message"] for finding in shown["findings"]]
    assert registry.upkeep.audit().ok
    # PEFT's form is exported as it is.
    exported = Path(registry.exchange.export("one@1", tmp_path / "out")["path"])
    assert digest_file(exported / "adapter_config.json") == digest_file(alora / "adapter_config.json")


def test_one_in_mlx_s_form_is_registered_as_an_alora(
    registry: Registry, alora: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """A bundle's folder has this form."""
    folder = make_adapter(tmp_path / "mlx", tiny_base)
    edit_config(folder, **{INVOCATION: TOKENS})
    findings = registry.adapters.register(folder, base="tiny", task="one")["findings"]
    assert ALORA in [finding["code"] for finding in findings]
    for fields in ({INVOCATION: [-1]}, {INVOCATION: "7"}, {INVOCATION: TOKENS, "fine_tune_type": "dora"}):
        edit_config(folder, **fields)
        with pytest.raises(AdmissionError) as caught:
            registry.adapters.register(folder, base="tiny", task="two")
        assert "peft_variant" in {finding.code for finding in caught.value.findings}


def test_aloras_share_the_prompt_cache(
    registry: Registry, alora: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """A bundle's server counts the tokens from the cache: all before the invocation."""
    other = make_peft(tmp_path / "other", tiny_base, seed=1, alora_invocation_tokens=[9])
    names = [
        registry.adapters.register(folder, base="tiny", task=task).name
        for folder, task in ((alora, "one"), (other, "two"))
    ]
    registry.bundles.materialize(names, tmp_path / "bundle", target="adapters")
    shared = [97 + number * 7 % 26 for number in range(500)]
    with served(tmp_path / "bundle") as server:
        usages = [
            server.client().completions.create(
                model=name, prompt=[*shared, *tokens, 97], max_tokens=2, temperature=0
            ).usage
            for name, tokens in zip(names, (TOKENS, [9]), strict=True)
        ]  # fmt: skip
    counted = [(usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) for usage in usages]
    assert counted == [(503, 0), (502, 500)]


USES: dict[str, Callable[[Registry, Path], object]] = {
    "fuse": lambda registry, _: registry.fused.fuse("one@1"),
    "fuse with another": lambda registry, _: registry.fused.fuse(
        "two@1", FuseRequest(extras=(("one@1", 1.0),))
    ),
    "combine": lambda registry, _: registry.adapters.combine(["two@1", "one@1"]),
    "shrink": lambda registry, _: registry.adapters.shrink("one@1", rank=2),
    "export": lambda registry, out: registry.exchange.export("one@1", out, form="mlx"),
    "folder": lambda registry, _: registry.folder("one@1"),
    "probe": lambda registry, _: subject_of(registry.workspace, "one@1"),
    "bench": lambda registry, _: bench(registry.workspace, "one@1", precisions=["16bit"]),
    **{
        target: lambda registry, out, target=target: registry.bundles.materialize(
            "one@1", out, target=target, content="adapters"
        )
        for target in ("vllm", "k8s", "ollama", "llamacpp")
    },
}


def test_uses_where_it_would_always_be_active_are_refused(
    registry: Registry, alora: Path, tiny_base: Path, tmp_path: Path
) -> None:
    registry.adapters.register(alora, base="tiny", task="one")
    registry.adapters.register(make_peft(tmp_path / "plain", tiny_base, seed=1), base="tiny", task="two")
    for name, use in USES.items():
        with pytest.raises(BadInputError, match="is an aLoRA") as caught:
            use(registry, tmp_path / "out")
        assert caught.value.hint == f"fusery serve {caught.value.message.split()[0]}", name
    assert not (tmp_path / "out").exists()


ALWAYS_ACTIVE: list[dict[str, object]] = [
    {INVOCATION: "7"},
    {INVOCATION: [-1]},
    {INVOCATION: [True]},
    {INVOCATION: [7] * 1_001},
    {INVOCATION: [1 << 31]},
    {"use_dora": True},
    {"modules_to_save": ["lm_head"]},
    {"trainable_token_indices": [1]},
    {"use_qalora": True},
]


def test_parts_that_peft_always_activates_are_refused(registry: Registry, alora: Path) -> None:
    config = alora / "adapter_config.json"
    good = config.read_text()
    for fields in ALWAYS_ACTIVE:
        config.write_text(good)
        edit_config(alora, **fields)
        with pytest.raises(AdmissionError) as caught:
            registry.adapters.register(alora, base="tiny", task="one")
        assert "peft_variant" in {finding.code for finding in caught.value.findings}, fields
