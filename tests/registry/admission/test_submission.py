"""What a user may say about an adapter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusery.registry import Registry
from fusery.registry.admission.submission import Submission
from fusery.registry.errors import BadInputError
from fusery.registry.record import plain
from fusery.storage.secrets import without_credentials

CANARY = "c4n4ryP4ssw0rd"


def test_a_password_in_the_configuration_reaches_neither_finding_nor_record(
    registry: Registry, tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter()
    url = f"https://ann:{CANARY}@models.example/team/strange"
    config = json.loads((folder / "adapter_config.json").read_bytes())
    config |= {"model": url, "resume_adapter_file": f"s3://bucket/x?X-Amz-Signature={CANARY}&part=1"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_metadata.json").write_text(json.dumps({"base_model": url, "mirrors": [url]}))
    registry.bases.add(tiny_base, name="other")
    checked = registry.adapters.check(folder, base="other")
    assert "models.example/team/strange" in str([finding.to_dict() for finding in checked])
    assert CANARY not in str([finding.to_dict() for finding in checked])

    config["model"] = f"https://ann:{CANARY}@models.example/team/other"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_metadata.json").unlink()
    made = registry.adapters.register(folder, base="other", task="course_rec")
    shown = json.dumps(plain([made, registry.adapters.show("course_rec@1"), registry.upkeep.log()]))
    assert "models.example/team/other" in json.dumps(registry.adapters.show("course_rec@1").to_dict())
    assert CANARY not in shown


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"https://ann:{CANARY}@host/a/b", "https://host/a/b"),
        (f"see https://{CANARY}@@host:80 and s3://b", "see https://host:80 and s3://b"),
        (f"https://h/a?sig={CANARY}&rev=2#top", "https://h/a?sig=***&rev=2#top"),
        (f"https://h/?X-Amz-Security-Token={CANARY}&n=1", "https://h/?X-Amz-Security-Token=***&n=1"),
        (f"https://ann:{CANARY}/x@host/a", "https://host/a"),
        (f"mysql:/ann:{CANARY}@host/a", "mysql:/host/a"),
        ("oci://h:5000/n@sha256:0f and ann@host, a/b@main?max_tokens=9", None),
        ("file:/home/ann@work and C:/a@b:c hf://org/name@main?split=train", None),
    ],
)
def test_secrets_are_taken_out_of_a_text(text: str, left: str | None) -> None:
    assert without_credentials({"a": [text]}) == {"a": [left or text]}


HALF = "\ud800"


BAD: list[tuple[str, Any]] = [
    *(("trained_on", value) for value in ("a\0b", "b" * 501)),
    *(("base", value) for value in ("a\0b", HALF)),
    *(("task", value) for value in ("a task", HALF)),
    *(("version", value) for value in (0, 10**9, 10**400, 1.5, True)),
    *(("date", value) for value in ("20260231", 20260101)),
    *(("alpha", value) for value in (math.inf, math.nan, 10**400, "16")),
    *(("val_loss", value) for value in (-math.inf, math.nan)),
    *(("dataset", value) for value in ("d" * 501, "a\0b")),
    *(("examples", value) for value in (-5, 2**31)),
    ("alpha", -1),
    *(("checkpoint", value) for value in ("worst", True, 1.5, -1, "1" * 11, "²")),
    ("log", "l" * 4097),
    ("parent", HALF),
    *(("note", value) for value in (HALF, "a\0b", "n" * 10_001)),
    *(("tags", {"a": value}) for value in ("v" * 501, HALF, None, 1)),
    *(("tags", value) for value in ({"A": "1", "a": "2"}, {"a b": "1"}, {1: "1"}, [("a", "1")])),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=lambda value: ascii(value)[:30])
def test_invalid_facts_are_refused(field: str, value: Any) -> None:
    with pytest.raises(BadInputError) as caught:
        Submission(**{"base": "tiny", field: value})
    assert caught.value.hint and caught.value.message.isprintable()


def test_the_limits_are_accepted() -> None:
    said = Submission(
        base="tiny", version=999_999_999, examples=2**31 - 1, dataset="d" * 500, tags={"a": "v" * 500}
    )
    assert (said.version, said.examples) == (999_999_999, 2**31 - 1)
    for checkpoint in ("best", "last", 400, "1" * 10, None):
        said = Submission(base="tiny", checkpoint=checkpoint, log="l" * 4096, note="n" * 10_000)
        assert said.checkpoint == (None if checkpoint is None else str(checkpoint))


def test_numbers_and_tags_get_their_one_form() -> None:
    said = Submission(base="tiny", alpha=16, val_loss=0, tags={"Team": "Search"})
    assert (said.alpha, said.val_loss, said.tags) == (16.0, 0.0, {"team": "Search"})
    assert type(said.alpha) is float


@pytest.mark.parametrize("fact", [{"alpha": math.inf}, {"version": 2**63}, {"note": HALF}], ids=str)
def test_the_python_interface_is_covered(registry: Registry, tmp_path: Path, fact: dict[str, Any]) -> None:
    for use in (registry.adapters.register, registry.adapters.check):
        with pytest.raises(BadInputError):
            use(tmp_path, base="tiny", **fact)
