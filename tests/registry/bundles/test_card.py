"""The model card: what it says of fidelity, and that nothing in it can be more than text."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace
from typing import Any

from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.card import card_values
from fusery.registry.bundles.rendering import render
from fusery.registry.bundles.writing import bundle_record


def card(source: BundleSource) -> str:
    return render("model_card.md.j2", **card_values(bundle_record(source, "model", "."))).decode()


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
