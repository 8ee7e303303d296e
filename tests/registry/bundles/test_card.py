"""Model cards, ours and teams' own: origin, measurements, licences, fidelity; and nothing in them is more than text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import tiny_models
import yaml
from bundle_cases import make_bundle
from huggingface_hub import EvalResultEntry, ModelCard, parse_eval_result_entries
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from fusery.integrations.gguf.model import Model, read_model
from fusery.registry import Registry
from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.card import (
    EVAL_RESULTS,
    card_values,
    computed_rows,
    eval_results,
    measured_rows,
)
from fusery.registry.bundles.rendering import CARD_LIMIT, markdown_text, render_card, yaml_string
from fusery.registry.bundles.source import Choices
from fusery.registry.bundles.targets.model import own_files
from fusery.registry.bundles.writing import bundle_record
from fusery.registry.charts.curves import curve_svg
from fusery.registry.errors import BadInputError
from fusery.registry.records.bases import licence_of_readme, licence_of_text

CURVE = [
    {"iteration": 1, "train_loss": None, "val_loss": 3.0, "learning_rate": None},
    {"iteration": 10, "train_loss": 2.0, "val_loss": None, "learning_rate": 1e-5},
    {"iteration": 200, "train_loss": 1.0, "val_loss": 0.5, "learning_rate": 1e-5},
    {"iteration": 400, "train_loss": 0.5, "val_loss": 0.75, "learning_rate": 1e-5},
]


@pytest.fixture
def told(source: BundleSource, provenance: dict[str, Any]) -> BundleSource:
    """A source of which everything is known."""
    provenance["base"] |= {"hub_id": "org/Tiny-1M-Hub", "licence": "apache-2.0"}
    provenance["adapter"] |= {
        "note": "Recommends courses.\nNot for grading.",
        "licence": "apache-2.0",
        "dataset": "org/courses",
        "training": {"batch_size": 4, "learning_rate": 1e-5},
        "curve": CURVE,
    }
    provenance["with"] = []
    return source


def card(source: BundleSource, template: Path | None = None) -> str:
    return render_card(card_values(bundle_record(source, "model", ".")), template).decode()


def html_tags(markdown: str) -> list[str]:
    """Return what a Markdown reader makes of a text: its elements in order, without paragraphs and line breaks."""
    if markdown.startswith("---\n"):
        markdown = markdown.split("---\n", 2)[2]
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    flat = [inner for token in tokens for inner in (token, *(token.children or ()))]
    return [
        token.type
        for token in flat
        if not token.type.startswith(("paragraph", "text", "inline", "softbreak"))
    ]


def test_the_hub_reads_the_front_matter(told: BundleSource, tmp_path: Path) -> None:
    make_bundle(told, "model", tmp_path)
    read = ModelCard.load(tmp_path / "README.md")
    data = read.data.to_dict()
    assert data["base_model"] == "org/Tiny-1M-Hub"
    assert data["base_model_relation"] == "finetune"
    assert (data["license"], data["datasets"]) == ("apache-2.0", ["org/courses"])
    assert read.data.library_name == "mlx"
    assert ModelCard(str(read)).data.to_dict() == data


def test_description_training_and_curve_are_shown(told: BundleSource, tmp_path: Path) -> None:
    written = make_bundle(told, "model", tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "\nRecommends courses.\n\nNot for grading.\n" in text
    assert "| learning rate | 1e-05 |" in text
    assert "![Training curve](curve.svg)" in text
    assert "3 at iteration 1 and 0.75 at iteration 400; the lowest is 0.5, at iteration 200." in text
    assert "curve.svg" in {entry.path for entry in written.manifest}
    assert (tmp_path / "curve.svg").read_bytes() == curve_svg(CURVE)


def test_a_rule_of_two_targets_is_asked_once(source: BundleSource, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Mapping[str, Path]] = []

    def counted(files: Mapping[str, Path]) -> Model:
        read.append(files)
        return read_model(files)

    monkeypatch.setattr("fusery.integrations.gguf.bundles.read_model", counted)
    own_files(source, Choices())
    assert len(read) == 1


def test_what_is_a_curve() -> None:
    nan, inf = float("nan"), float("inf")
    lost = [{"iteration": 1, "val_loss": nan}, {"iteration": 2, "val_loss": inf}]
    for points in (None, "x", [], [{}], [1, 2], CURVE[:1], [{"iteration": "1", "val_loss": 1.0}] * 2, lost):
        assert curve_svg(points) is None
    flat = [{"iteration": number, "val_loss": 1.0} for number in range(2)]
    long = [{"iteration": number, "train_loss": 1 / (number + 1)} for number in range(100_000)]
    assert ElementTree.fromstring(curve_svg(flat) or b"") is not None
    assert 0 < len(curve_svg(long) or b"") < 30_000


def test_a_licence_is_said_only_if_all_are_known(told: BundleSource) -> None:
    for base, adapter, expected in (
        ("apache-2.0", "apache-2.0", {"license": "apache-2.0"}),
        ("apache-2.0", None, {}),
        (None, None, {}),
        ("gemma", "mit", {"license": "other"}),
        ("acme-1.0", "acme-1.0", {"license": "other", "license_name": "acme-1.0"}),
        ("All rights\nreserved", "All rights\nreserved", {"license": "other"}),
    ):
        told.provenance["base"]["licence"] = base
        told.provenance["adapter"]["licence"] = adapter
        text = card(told)
        data = ModelCard(text).data.to_dict()
        assert {key: data[key] for key in ("license", "license_name") if key in data} == expected
        assert text.count("not recorded") == [base, adapter].count(None)
    told.provenance["adapter"]["licence"] = told.provenance["base"]["licence"] = "apache-2.0"
    told.provenance["with"] = [{"adapter": "b_v1", "weight": 0.5, "digest": "e" * 64, "licence": "mit"}]
    text = card(told)
    assert "| licence of the adapter b_v1 | mit |" in text
    assert ModelCard(text).data.to_dict()["license"] == "other"


def test_the_notes_of_hostile_people_stay_text(told: BundleSource, evil_texts: list[str]) -> None:
    plain = html_tags(card(told))
    for evil in evil_texts:
        spoiled = deepcopy(dict(told.provenance))
        spoiled["adapter"] |= {"note": evil or "x", "training": {"optimizer": evil, "batch_size": 1}}
        spoiled["adapter"] |= dict.fromkeys(("licence", "method", "parent", "dataset"), evil)
        spoiled["adapter"]["curve"] = [{"iteration": evil, "val_loss": evil}, *CURVE]
        spoiled["base"] |= {"licence": evil, "hub_id": evil}
        text = card(replace(told, provenance=spoiled))
        tags = html_tags(text)
        assert set(tags) <= set(plain)
        for tag, count in (("heading_open", plain.count("heading_open")), ("link_open", 0), ("image", 1)):
            assert tags.count(tag) == plain.count(tag) == count
        assert set(ModelCard(text).data.to_dict()) <= {
            "base_model", "base_model_relation", "datasets", "library_name", "license", "license_name", "pipeline_tag", "tags",
        }  # fmt: skip


def test_a_team_brings_its_own(told: BundleSource, tmp_path: Path) -> None:
    own = tmp_path / "card.md.j2"
    own.write_text(
        "---\nbase_model: {{ base_id | yaml }}\n---\n# {{ name }} by us\n{{ note }}\n{{ note | prose }}\n"
        "{% for label, value in training %}\n- {{ label }}: {{ value }}\n{% endfor %}\n"
        "{{ provenance.fidelity.retained }}\n"
    )
    folder = tmp_path / "bundle"
    folder.mkdir()
    make_bundle(told, "model", folder, card=own)
    text = (folder / "README.md").read_text()
    assert text.startswith('---\nbase_model: "org/Tiny-1M-Hub"\n---\n# course_rec_v2_20261124 by us\n')
    assert "Recommends courses.\\\\nNot for grading.\nRecommends courses.\n\nNot for grading." in text
    assert "- batch size: 4\n" in text
    assert "0.987654321" in text
    # Or it replaces a section of ours.
    own.write_text('{% extends "model_card.md.j2" %}{% block use %}Ask the platform team.\n\n{% endblock %}')
    text = card(told, own)
    assert "Ask the platform team." in text
    assert "mlx_lm.generate" not in text
    ours = card(told)
    assert text[: text.index("Ask")] == ours[: ours.index("## Use")]
    assert text[text.index("## Where") :] == ours[ours.index("## Where") :]


def test_values_are_text_in_own_template(told: BundleSource, tmp_path: Path, evil_texts: list[str]) -> None:
    told.provenance["texts"] = evil_texts
    own = tmp_path / "card.md.j2"
    own.write_text(
        "# Ours\n\n{% for text in provenance.texts %}\n{{ text }} {{ text | text }}\n\n{% endfor %}\n"
    )
    tags = html_tags(card(told, own))
    assert [tag for tag in tags if tag != "hardbreak"] == ["heading_open", "heading_close"], tags


WRONG = {
    "{% if %}": "line 1: ",
    "{{ nothing_such }}": "'nothing_such' is undefined",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{{ provenance.clear() }}": "unsafe",
    "{% include '/etc/passwd' %}": "/etc/passwd",
    "{% include 'Dockerfile.j2' %}": "Dockerfile.j2",
    "{{ 1 / 0 }}": "division by zero",
    "{% for a in range(99999) %}{{ 'x' * 999 }}{% endfor %}": "1,048,576 characters",
    "{{ 'x' * 9999999999 }}": "512 MiB",
    "{{ '\\ud800' }}": "surrogates not allowed",
    "  \n": "empty",
    "x" * (300 << 10): "256 KiB",
    b"\xff\xfe": "utf-8",
}


def test_a_wrong_template_is_one_sentence(told: BundleSource, tmp_path: Path) -> None:
    own = tmp_path / "card.md.j2"
    for template, said in WRONG.items():
        own.write_bytes(template if isinstance(template, bytes) else template.encode())
        with pytest.raises(BadInputError) as caught:
            card(told, own)
        assert said in caught.value.message
        assert "\n" not in caught.value.message


def test_licences_notes_and_training_are_found(registry: Registry, tmp_path: Path) -> None:
    readme = "---\nlicense: gemma\n---\n# Gemma\n"
    for seed, (name, expected) in enumerate((("copied", "apache-2.0"), ("referenced", "gemma"))):
        reference = name == "referenced"
        base = tiny_models.make_base(tmp_path / name / "base", seed=seed)
        if reference:
            (base / "README.md").write_text(readme)
        (base / "LICENSE").write_text("\n   Apache License\n   Version 2.0, January 2004\n")
        registry.bases.add(base, name=name, reference=reference)
        adapter = tiny_models.make_adapter(tmp_path / name / "adapter", base, seed=4)
        told = {"note": "What it is for.", "tags": {"license": "apache-2.0"}}
        registry.adapters.register(adapter, base=name, task=name, **told)
        path = Path(registry.bundles.materialize(f"{name}@1", tmp_path / name / "out").path)
        card = ModelCard.load(path / "README.md")
        for line in (
            f"| licence of the base model | {expected} |",
            "| licence of the adapter | apache-2.0 |",
            "What it is for.",
            "| batch size | 4 |",
        ):
            assert f"\n{line}\n" in card.content
        assert card.data.to_dict()["license"] == ("other" if reference else "apache-2.0")
        assert (path / "LICENSE").is_file()


def table(text: str, first: str) -> list[list[str]]:
    """Return the body of the table whose header begins with a word."""
    lines = text[text.index(f"| {first} |") :].splitlines()[2:]
    body = lines[: next(number for number, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body]


def test_fidelity_size_and_parts_are_shown(source: BundleSource, provenance: dict[str, Any]) -> None:
    provenance["fidelity"]["worst"] *= 3
    text = card(source)
    rows = dict(table(text, "measure"))
    assert list(rows) == ["verdict", "share retained", "cosine", "relative error"]
    for row, words in zip(rows.values(), ("PASS. ", "98.8 %", "0.500", "0.1 times"), strict=True):
        assert words in row
    assert "mixed, 6 bits where adapted, 1,234,567 bytes of weights, 1.17 times the base model's" in text
    modules = table(text, "module")
    assert len(modules) == 5
    assert modules[0] == ["model.layers.0.mlp.up_proj", "90.0 %", "0.25", "2.5"]
    assert table(text, "adapter | weight") == [
        [source.name, "1.0", "c" * 64],
        ["courses_v1_20261101", "0.5", "e" * 64],
    ]
    provenance["with"] = []
    assert "weight in the sum" not in card(source)
    for verdict in ("DEGRADED", "LOST"):
        provenance["fidelity"]["verdict"] = verdict
        assert len(dict(table(card(source), "measure"))["verdict"]) > len(verdict) + 20


def test_only_the_plain_command_to_rebuild_is_shown(source: BundleSource, provenance: dict[str, Any]) -> None:
    assert f"```sh\n{provenance['rebuild']}\n```" in card(source)
    wrong = (
        "rm -rf .",
        "fusery fuse a; rm",
        "fusery fuse a\nrm -rf .",
        "fusery fuse a | sh",
        "fusery fuse $(x)",
        7,
    )
    for command in wrong:
        provenance["rebuild"] = command
        assert "To make it again" not in card(source)


def test_a_part_of_any_kind_is_no_error(source: BundleSource) -> None:
    for part in ("with", "fidelity", "rebuild", "format", "recipe"):
        for value in (None, [], {}, 7, "text", [None, 1]):
            assert card(replace(source, provenance={**source.provenance, part: value})).startswith("---\n")


def test_hostile_texts(source: BundleSource, provenance: dict[str, Any], evil_texts: list[str]) -> None:
    plain = card(source)
    for evil in evil_texts:
        spoiled = deepcopy(provenance)
        spoiled["with"][0] = {"adapter": evil, "weight": evil, "digest": evil}
        spoiled["format"] = evil
        spoiled["fidelity"] |= {"verdict": evil, "worst": [{"module": evil}] * 5}
        shown = card(replace(source, provenance=spoiled))
        assert [line[:2] for line in shown.splitlines()] == [line[:2] for line in plain.splitlines()]
        assert len(table(shown, "module")[0]) == 4


ONE = "course_rec_v1_20260115"


def one(**said: Any) -> dict[str, Any]:
    return {
        "metric": "gpqa_diamond.acc", "value": 0.412, "stderr": None, "dataset": "Idavidrein/gpqa", "split": "train",
        "harness": "lm-eval", "harness_version": "0.4.13", "shots": 5, "seed": None, "samples": 198,
        "at": "2026-01-15T10:30:00+00:00", **said,
    }  # fmt: skip


def read(*evaluations: dict[str, Any]) -> list[EvalResultEntry]:
    data = eval_results({"evaluations": list(evaluations)}, name="mine")
    return [] if data is None else parse_eval_result_entries(yaml.safe_load(data))


def test_a_hub_reads_it() -> None:
    [entry] = read(one())
    assert (entry.dataset_id, entry.task_id, entry.value) == ("Idavidrein/gpqa", "gpqa_diamond", 0.412)
    assert entry.date == "2026-01-15T10:30:00+00:00"
    assert entry.notes == "gpqa_diamond.acc of mine, split train, 5-shot, 198 samples, lm-eval 0.4.13"
    assert read(one(metric="acc"))[0].task_id == "default"
    # The newest value of each task, no choice between metrics, and nothing of what is no dataset of a hub.
    assert [entry.value for entry in read(one(value=0.1), one(value=0.2, seed=1))] == [0.2]
    assert read(one(), one(metric="gpqa_diamond.acc_norm")) == []
    both = read(one(), one(metric="gpqa_main.acc", value=0.5))
    assert [(entry.task_id, entry.value) for entry in both] == [("gpqa_diamond", 0.412), ("gpqa_main", 0.5)]
    for dataset in (None, "courses", "a/b/c", "../x", "a b/c", "https://host/a"):
        assert eval_results({"evaluations": [one(dataset=dataset)]}, name="mine") is None
    assert eval_results({}, name="mine") is None
    [row] = measured_rows({"evaluations": [one(stderr=0.0345)]})
    assert row == (
        "gpqa_diamond.acc", "0.412 ± 0.0345", "Idavidrein/gpqa/train, 5-shot, 198 samples", "lm-eval 0.4.13",
    )  # fmt: skip
    bare = dict.fromkeys(one()) | {"metric": "acc", "value": 1.0}
    assert list(measured_rows({"evaluations": [bare]})) == [("acc", "1", "–", "–")]


@settings(max_examples=40)
@given(st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20))
def test_every_value_and_text_reads_back(value: float, text: str) -> None:
    [entry] = read(one(value=value, split=text))
    assert entry.value == value
    assert isinstance(entry.value, float)
    assert entry.notes is not None
    if text:
        assert f"split {text}," in entry.notes


def test_bundles_of_the_registry_have_it(stocked: Registry, tmp_path: Path) -> None:
    stocked.evaluations.record(ONE, {"gpqa_diamond.acc": 0.5}, dataset="Idavidrein/gpqa", split="train")
    stocked.evaluations.record(ONE, {"withdrawn.acc": 0.9}, dataset="Idavidrein/gpqa")
    stocked.evaluations.withdraw(ONE, "withdrawn.acc", reason="wrong")
    stocked.bundles.materialize(ONE, tmp_path / "hub", target="hub")
    card = (tmp_path / "hub/README.md").read_text("utf-8")
    assert "What was measured" in card
    assert "withdrawn" not in card
    [entry] = parse_eval_result_entries(yaml.safe_load((tmp_path / "hub" / EVAL_RESULTS).read_bytes()))
    assert entry.value == 0.5
    listed = {each["path"] for each in json.loads((tmp_path / "hub/fusery.json").read_bytes())["contents"]}
    assert EVAL_RESULTS in listed
    stocked.bundles.materialize(ONE, tmp_path / "model")
    assert not (tmp_path / "model" / EVAL_RESULTS).exists()
    assert "gpqa" in (tmp_path / "model/README.md").read_text("utf-8")


def test_licences_are_read_from_texts() -> None:
    assert licence_of_text("MIT License\n\nCopyright") == "mit"
    assert licence_of_text("This is not the MIT License") is None
    assert licence_of_readme("---\ntags: [x]\n---\nlicense: mit") is None


def test_yaml_reads_back_exactly(evil_texts: list[str]) -> None:
    for evil in evil_texts:
        quoted = yaml_string(evil)
        assert yaml.safe_load(f"key: {quoted}\nother: 1\n") == {"key": evil, "other": 1}
        assert yaml.safe_load(f"- {quoted}\n- last\n") == [evil, "last"]
        assert quoted.isascii() and quoted.isprintable()


def test_markdown_shows_the_text_in_its_own_cell(evil_texts: list[str]) -> None:
    for evil in evil_texts:
        row = f"| label | {markdown_text(evil)} | end |"
        assert row.isprintable()
        table = f"| a | b | c |\n| - | - | - |\n{row}\n\nafter\n"
        tokens = MarkdownIt("commonmark").enable("table").parse(table)
        cells = [token for token in tokens if token.type == "inline"]
        assert [cell.content for cell in cells[:3]] == ["a", "b", "c"]
        assert len(cells) == 7
        assert [shown(cell) for cell in cells[4:]] == [visible(evil), "end", "after"]


def test_what_was_computed_from_others_names_them() -> None:
    parts = [{"name": "a", "digest": "0" * 64, "weight": 0.5}, {"digest": "1" * 64, "weight": True}]
    facts = {"computed": {"method": "ties", "density": 0.2, "seed": None, "from": parts}}
    assert list(computed_rows(facts)) == [
        ("computed by", "ties, density 0.2"),
        ("computed from", "0.5 x a (000000000000)"),
        ("computed from", "not on record (111111111111)"),
    ]
    assert list(computed_rows({})) == []


def test_markdown_of_other_values() -> None:
    assert markdown_text(None) == "–"
    assert markdown_text(2) == "2"
    assert markdown_text(True) == "true"
    assert markdown_text({"b": [1], "a": None}) == '\\{"a": null, "b": \\[1\\]\\}'
    assert markdown_text("course_rec_v2_20261124") == "course_rec_v2_20261124"
    assert markdown_text("org/Model-0.5B") == "org/Model-0.5B"


def shown(cell: Token) -> str:
    """The text that a reader sees; anything but text in the cell fails."""
    assert {child.type for child in cell.children or ()} <= {"text", "text_special"}
    return "".join(child.content for child in cell.children or ())


def visible(text: str) -> str:
    cut = text if len(text) <= CARD_LIMIT else text[: CARD_LIMIT - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut).strip()
