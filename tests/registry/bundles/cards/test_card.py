"""The model card: what it says of fidelity, and that nothing in it can be more than text."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from fusery.registry.bundles import BundleSource
from fusery.registry.bundles.cards.card import card_values
from fusery.registry.bundles.record import bundle_record
from fusery.registry.bundles.rendering import render


def card(source: BundleSource) -> str:
    return render("model_card.md.j2", **card_values(bundle_record(source, "model", "."))).decode()


def table(text: str, first: str) -> list[list[str]]:
    """Return the body of the table whose header begins with a word."""
    lines = text[text.index(f"| {first} |") :].splitlines()[2:]
    body = lines[: next(number for number, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body]


def test_fidelity_is_said_in_sentences(source: BundleSource) -> None:
    rows = dict(table(card(source), "measure"))
    assert list(rows) == ["verdict", "share retained", "cosine", "relative error"]
    assert rows["verdict"] == "PASS. The weights hold what the adapter learned."
    assert rows["share retained"].startswith("98.8 % of the update")
    assert "it is 0.500" in rows["cosine"]
    assert "is 0.1 times as large as the update" in rows["relative error"]


@pytest.mark.parametrize("verdict", ["PASS", "DEGRADED", "LOST"])
def test_every_verdict_has_its_sentence(
    verdict: str, source: BundleSource, provenance: dict[str, Any]
) -> None:
    provenance["fidelity"]["verdict"] = verdict
    assert len(dict(table(card(source), "measure"))["verdict"]) > len(verdict) + 20


def test_the_precision_comes_with_its_size(source: BundleSource) -> None:
    said = "Precision: mixed, 6 bits where adapted, 1,234,567 bytes of weights, 1.17 times the base model's."
    assert said in card(source)


def test_the_worst_modules_are_named(source: BundleSource, provenance: dict[str, Any]) -> None:
    provenance["fidelity"]["worst"] *= 3
    rows = table(card(source), "module")
    assert len(rows) == 5
    assert rows[0] == ["model.layers.0.mlp.up_proj", "90.0 %", "0.25", "2.5"]


def test_combined_adapters_are_listed_with_their_weights(
    source: BundleSource, provenance: dict[str, Any]
) -> None:
    assert table(card(source), "adapter | weight") == [
        [source.name, "1.0", "c" * 64],
        ["courses_v1_20261101", "0.5", "e" * 64],
    ]
    provenance["with"] = []
    assert "weight in the sum" not in card(source)


def test_the_command_to_make_it_again_is_shown(source: BundleSource) -> None:
    assert f"```sh\n{source.provenance['rebuild']}\n```" in card(source)


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf .",
        "fusery fuse a; rm -rf .",
        "fusery fuse a\nrm -rf .",
        "fusery fuse a | sh",
        "fusery fuse $(x)",
        7,
    ],
)
def test_what_is_not_plainly_that_command_is_left_out(
    command: object, source: BundleSource, provenance: dict[str, Any]
) -> None:
    provenance["rebuild"] = command
    assert "To make it again" not in card(source)


@pytest.mark.parametrize("part", ["with", "fidelity", "rebuild", "format", "recipe"])
@pytest.mark.parametrize("value", [None, [], {}, 7, "text", [None, 1]], ids=repr)
def test_a_part_of_any_kind_is_no_error(part: str, value: object, source: BundleSource) -> None:
    assert card(replace(source, provenance={**source.provenance, part: value})).startswith("---\n")


def test_texts_from_outside_stay_texts(source: BundleSource, provenance: dict[str, Any], evil: str) -> None:
    plain = card(source)
    provenance["with"][0] = {"adapter": evil, "weight": evil, "digest": evil}
    provenance["format"] = evil
    provenance["fidelity"] |= {"verdict": evil, "worst": [{"module": evil}] * 5}
    shown = card(source)
    assert len(shown.splitlines()) == len(plain.splitlines())
    assert [line[:2] for line in shown.splitlines()] == [line[:2] for line in plain.splitlines()]
    assert len(table(shown, "module")[0]) == 4
