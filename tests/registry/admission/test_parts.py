"""The parts of admission by themselves: reports for CI, rules of plugins, keys of a base, token ids and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft_folders
import pytest
from broken_adapters import look

from fusery.registry.adapters import Finding
from fusery.registry.adapters.mlx_config import LoraModule
from fusery.registry.adapters.whole_fit import FittedWhole
from fusery.registry.admission import base_rules, rules, tensor_rules, tokenizer_rules
from fusery.registry.admission.ci_reports import code_quality, sarif_log
from fusery.registry.admission.code import CheckedFolder, Code, Rule
from fusery.registry.errors import BadInputError
from fusery.registry.models.architecture import Weight
from fusery.storage.errors import UnsafePathError
from fusery.storage.plugins import Plugin, PluginError
from fusery.storage.safetensors import Tensor


def test_reports_for_ci(make_adapter: Callable[..., Path]) -> None:
    findings = [
        Finding("not_finite", "error", "layers.0.q", "see [a](b), [c] and {0}", "retrain"),
        Finding("not_finite", "error", "layers.0.q", "again"),
        Finding("odd-x", "info", ".", "odd \udcff"),
    ]
    checked = [CheckedFolder.of(findings, folder=make_adapter())]
    assert checked[0].verdict == "fail" and checked[0].findings == tuple(findings)
    [run] = sarif_log(checked)["runs"]
    listed, results = run["tool"]["driver"]["rules"], run["results"]
    assert [listed[result["ruleIndex"]]["id"] for result in results] == [finding.code for finding in findings]
    assert [result["level"] for result in results] == ["error", "error", "note"]
    assert results[0]["message"]["text"] == "see \\[a](b), [c] and {{0}}  Hint: retrain"
    first, second, third = (result["partialFingerprints"]["finding/v1"] for result in results)
    assert first == second != third
    weights, _, folder = (result["locations"][0] for result in results)
    assert weights["physicalLocation"]["artifactLocation"]["uri"].endswith("/adapters.safetensors")
    assert weights["logicalLocations"] == [{"fullyQualifiedName": "layers.0.q"}]
    assert "logicalLocations" not in folder
    [described] = [one for one in listed if one["id"] == "not_finite"]
    assert (described["name"], described["shortDescription"]["text"][-1]) == ("NotFinite", ".")
    issues = code_quality(checked)
    assert len({issue["fingerprint"] for issue in issues}) == 3 and issues == code_quality(checked)
    assert [issue["severity"] for issue in issues] == ["critical", "critical", "info"]
    assert issues[0]["description"].startswith("layers.0.q: see") and issues[2]["description"] == "odd ?"


PLUGIN = Plugin("fusery.rules", "odd", "odd-package", "1", "odd:X")
CODE = Code("odd-x", "info", "a", "b")
GOOD = CODE.finding(".", "fine")


def yielding(*findings: Any) -> Rule:
    return Rule(lambda _: iter(findings), (CODE,))


def refusing(_: object) -> Iterator[Finding]:
    raise BadInputError("no luck")


def test_rules_of_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    installed, loaded, candidate = [PLUGIN], dict[str, Any](), Any
    monkeypatch.setattr(rules, "load_plugin", lambda plugin: loaded[plugin.name])
    monkeypatch.setattr(rules, "plugins", lambda _: installed)
    loaded["odd"] = yielding(GOOD, replace(GOOD, message="m" * 2000))
    [plugged] = rules.plugged_rules()
    assert next(iter(plugged(candidate))) == GOOD and rules.took_part() == ["odd-package 1"]
    assert rules.SeverityPolicy.configured({"odd-x": "off"}).apply([GOOD]) == []
    unfit = ({"code": "odd-y"}, {"message": "a\0"}, {"hint": "h" * 2001})
    for found in (CODE, *(replace(GOOD, **change) for change in unfit)):
        loaded["odd"] = yielding(found)
        with pytest.raises(PluginError):
            list(rules.rule_of(PLUGIN)(candidate))
    for broken in (yielding(replace(GOOD, severity="loud")), Rule(refusing, (CODE,))):
        loaded["odd"] = broken
        with pytest.raises(PluginError):
            list(rules.rule_of(PLUGIN)(candidate))
    wrong: tuple[Any, ...] = (5, Rule(refusing, [CODE]), Rule(refusing, ("odd-x",)))
    changes: tuple[dict[str, Any], ...] = (
        *({"name": name} for name in ("pickle_file", "odd-X", "odd-" + "x" * 97)),
        *({"fixed": True}, {"why": None}, {"severity": "loud"}),
    )
    for value in (*wrong, *(Rule(refusing, (replace(CODE, **change),)) for change in changes)):
        loaded["odd"] = value
        with pytest.raises(PluginError):
            rules.rule_of(PLUGIN)
    loaded |= {"odd": Rule(refusing, (replace(CODE, name="odd-" + "x" * 96),)), "other": Rule(refusing, ())}
    installed.append(replace(PLUGIN, name="other"))
    assert len(rules.plugged_rules()) == 2
    installed.append(replace(PLUGIN, package="b", name="other"))
    with pytest.raises(PluginError):
        rules.plugged_rules()


def test_a_folder_that_cannot_be_read_is_a_finding() -> None:
    for message, code in (("x is a link out", "link_outside"), ("not a regular file", "special_file")):
        found = rules.unreadable(UnsafePathError(message, hint="h"))
        assert found == rules.CODES[code].finding(".", message, "h")
    assert rules.unreadable(UnsafePathError("a crowd")).code == "unsafe_path"


LINEAR = {"rope_theta": 777.0, "rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    ("rope", "fields", "codes", "text"),
    [
        ({"rope_theta": 777.0}, None, ["base_keys_added"], "rope_theta (777.0)"),
        ({"rope_theta": 777.0}, {"rope_theta": 5.0}, ["base_keys_added"], "(777.0 instead of 5.0)"),
        ({"rope_theta": 777.0}, {"rope_theta": 777.0}, [], ""),
        ({"rope_theta": 777.0}, {"other": 1}, [], ""),
        (LINEAR, {"rope_theta": 777.0}, ["base_keys_lost"], "partial_rotary_factor (0.5), rope_scaling"),
        ({**LINEAR, "partial_rotary_factor": 1.0}, {}, ["base_keys_lost"], "no place for rope_scaling"),
        ({}, {}, [], ""),
    ],
)
def test_keys_that_mlx_does_not_read(
    rope: dict[str, Any], fields: Any, codes: list[str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_rules, "_fields", lambda _: fields)
    findings = list(base_rules.key_findings({"model_type": "llama", "rope_parameters": rope}))
    assert [finding.code for finding in findings] == codes
    assert all(text in finding.message for finding in findings)


def test_bases_that_mlx_cannot_load_and_the_fields_of_its_classes() -> None:
    [finding] = base_rules.key_findings({"model_type": "llama"}, "no such class")
    assert (finding.code, finding.message) == ("base_not_loaded", "no such class")
    read = base_rules._fields({"model_type": "llama"})
    assert read is not None and read["rope_traditional"] is False and "rope_scaling" in read
    assert base_rules._fields({"model_type": "nothing"}) is None
    declared = base_rules._fields({"model_type": "glm4_moe"})
    assert declared is not None and "rope_theta" in declared and "rope_scaling" not in declared
    seeing = base_rules._fields({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}})
    assert seeing is not None and {"text_config", "text_config.rope_theta"} <= seeing.keys()
    assert base_rules._fields({"model_type": "nothing", "text_config": {"model_type": "llama"}}) is None


def test_rows_of_an_embedding() -> None:
    def rows(size: object, **weights: Any) -> int | None:
        base = SimpleNamespace(architecture=SimpleNamespace(config={"vocab_size": size}))
        candidate: Any = SimpleNamespace(weights=weights, base=base)
        return tokenizer_rules.embedding_rows(candidate)

    embedding = {"model.embed_tokens": Weight("x", (7, 4), "BF16", None)}
    assert [rows(size) for size in (5, 0, -1, "5", None, True)] == [5, *[None] * 5]
    assert rows(5, **embedding) == 7
    assert rows(5, **{"model.embed_tokens": Weight("x", (7,), "BF16", None)}) == 5
    assert rows(5, **{"model.norm": Weight("x", (7, 4), "BF16", None)}) == 5


def test_shapes_that_fit(tiny_base: Path) -> None:
    def fits(shape: tuple[int, ...], *parts: tuple[int, ...] | None) -> bool:
        return tensor_rules._misfit(LoraModule("m", *parts), Weight("m", shape, "BF16", None)) is None

    experts, a, b = (4, 6, 8), (4, 2, 8), (4, 6, 2)
    assert fits((6, 8), (8, 2), (2, 6)) and fits((6, 8), (6, 2), (2, 8)) and fits(experts, a, b)
    for wrong in (((3, 2, 8), b), (a, (4, 6, 3)), (a, (4, 5, 2)), ((4, 2, 7), b), ((2, 8), b), (a, (6, 2))):
        assert not fits(experts, *wrong)
    assert [fits((6, 8), (8, 2), part) for part in ((3, 6), (2, 5), None)] == [False, False, True]
    assert fits((6, 8), None, None, (6,)) and not fits((6, 8), None, None, (8,))
    for part, shape, own, bits, good in (
        ("scales", (6, 1), (6, 8), 4, True), ("biases", (6, 1), (6, 8), None, False),
        ("bias", (6,), (6, 8), 4, True), ("bias", (4, 6), experts, None, True), ("bias", (8,), (6, 8), None, False),
        ("weight", (6, 8), (6, 8), None, True), ("weight", (8, 6), (6, 8), None, False),
        ("weight", (6, 8), (6, 8), 4, False), ("weight", (4, 8, 6), experts, None, True), ("weight", (4, 8, 5), experts, None, False),
    ):  # fmt: skip
        tensor = Tensor("x", "F32", shape, 0, 4 * int(np.prod(shape)))
        assert (tensor_rules._misfit_full(tensor, part, Weight("m", own, "BF16", bits)) is None) is good, part


def test_whole_tensors_of_peft(tiny_base: Path, tmp_path: Path) -> None:
    folder = peft_folders.make_peft(tmp_path / "peft", tiny_base, modules_to_save=["norm"])

    def add(tensors: dict[str, Any]) -> None:
        tensors["base_model.model.model.norm.weight"] = ("F32", np.full(128, np.inf, np.float32))

    peft_folders.edit_tensors(folder, add)

    def found(**parts: Any) -> dict[str, str]:
        def fit(_: Path, whole: Any) -> FittedWhole:
            return FittedWhole(**{"tensors": whole.tensors, "rows": {}, **parts})

        findings = look(folder, tiny_base, facts={"fit_whole": fit})
        return {finding.code: finding.message for finding in findings}

    replaced = found(vocabulary=400, untied="model.embed_tokens.weight")
    for text in ("model.norm.weight (128)", "400 tokens", "no longer the embedding"):
        assert text in replaced["peft_whole_tensors"] and "not_finite" in replaced
    assert "400" not in found()["peft_whole_tensors"]
    wrong = found(problems=("it is odd",))
    assert "it is odd" in wrong["peft_full_modules"] and "peft_whole_tensors" not in wrong
    copies = found(tensors={}, copies=("lm_head.weight",), quantised=True)
    assert "lm_head.weight (of a quantised base" in copies["peft_copies"]
    assert "peft_whole_tensors" not in copies
