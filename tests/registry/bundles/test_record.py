from __future__ import annotations

import json
from typing import Any

import pytest

from fusery.registry.bundles import BUNDLE_FORMAT, BundleSource
from fusery.registry.bundles.writing import bundle_record
from fusery.registry.documents import record_bytes, without_places
from fusery.registry.errors import BadInputError

LEFT = {
    "/home/ann/data/train.jsonl": "train.jsonl",
    "/srv/models/Qwen/": "Qwen",
    "~/data/train.jsonl": "train.jsonl",
    "~ann/train.jsonl": "train.jsonl",
    "file:///home/ann/train.jsonl": "train.jsonl",
    r"C:\Users\ann\train.jsonl": "train.jsonl",
    r"\\server\share\train.jsonl": "train.jsonl",
    "https://ann:secret@host/train.jsonl": "https://host/train.jsonl",
    "https://token@host/a?X-Amz-Signature=secret#secret": "https://host/a",
    "https://a@b:secret@host/x": "https://host/x",
    "s3://key:secret@bucket/train": "s3://bucket/train",
}
KEPT = (
    "hf://datasets/org/name@main/x",
    "org/Tiny-1M",
    "courses-2026",
    "~5 % of the data",
    "data/train.jsonl",
    "",
)


def test_places_and_credentials_are_left_out() -> None:
    for text, left in (LEFT | {text: text for text in KEPT}).items():
        assert without_places({"a": [text, 1, None]}) == {"a": [left, 1, None]}


def test_record_keeps_texts(source: BundleSource, provenance: dict[str, Any], evil_texts: list[str]) -> None:
    for evil in evil_texts:
        provenance["adapter"]["dataset"] = evil
        document = json.loads(record_bytes(bundle_record(source, "model", ".")))
        assert document["format"] == BUNDLE_FORMAT
        assert document["provenance"] == provenance
        assert document["files"] == [entry.to_dict() for entry in source.fused.manifest]
    for value in (float("nan"), float("inf"), {1, 2}, b"x"):
        provenance["adapter"]["val_loss"] = value
        with pytest.raises(BadInputError):
            record_bytes(bundle_record(source, "model", "."))
