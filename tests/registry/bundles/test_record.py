from __future__ import annotations

import json
from typing import Any

import pytest

from fusery.registry.bundles import BUNDLE_FORMAT, BundleSource
from fusery.registry.bundles.record import bundle_record
from fusery.registry.documents import record_bytes, without_places
from fusery.registry.errors import BadInputError


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/ann/data/train.jsonl", "train.jsonl"),
        ("/srv/models/Qwen/", "Qwen"),
        ("~/data/train.jsonl", "train.jsonl"),
        ("~ann/train.jsonl", "train.jsonl"),
        ("file:///home/ann/train.jsonl", "train.jsonl"),
        (r"C:\Users\ann\train.jsonl", "train.jsonl"),
        (r"\\server\share\train.jsonl", "train.jsonl"),
        ("https://ann:secret@host/train.jsonl", "https://host/train.jsonl"),
        ("https://token@host/a?X-Amz-Signature=secret#secret", "https://host/a"),
        ("https://a@b:secret@host/x", "https://host/x"),
        ("s3://key:secret@bucket/train", "s3://bucket/train"),
        ("hf://datasets/org/name@main/x", "hf://datasets/org/name@main/x"),
        ("org/Tiny-1M", "org/Tiny-1M"),
        ("courses-2026", "courses-2026"),
        ("~5 % of the data", "~5 % of the data"),
        ("data/train.jsonl", "data/train.jsonl"),
        ("", ""),
    ],
)
def test_places_and_credentials_are_left_out(text: str, left: str) -> None:
    assert without_places({"a": [text, 1, None]}) == {"a": [left, 1, None]}


def test_record_keeps_every_text_exactly(source: BundleSource, provenance: dict[str, Any], evil: str) -> None:
    provenance["adapter"]["dataset"] = evil
    document = json.loads(record_bytes(bundle_record(source, "model", ".")))
    assert document["format"] == BUNDLE_FORMAT
    assert document["provenance"] == provenance
    assert document["files"] == [entry.to_dict() for entry in source.fused.manifest]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"], ids=repr)
def test_what_is_no_json_is_refused(source: BundleSource, provenance: dict[str, Any], value: object) -> None:
    provenance["adapter"]["val_loss"] = value
    with pytest.raises(BadInputError, match="course_rec_v2_20261124 is not plain JSON"):
        record_bytes(bundle_record(source, "model", "."))
