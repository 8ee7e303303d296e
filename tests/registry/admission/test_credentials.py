"""A password in the URL of a model, as a training's configuration may have it, reaches no finding and no record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fusery.registry import Registry
from fusery.registry.record import plain
from fusery.storage.secrets import without_credentials

CANARY = "c4n4ryP4ssw0rd"


def test_a_password_in_the_configuration_reaches_neither_finding_nor_record(
    registry: Registry, tiny_base: Path, make_adapter: Callable[..., Path]
) -> None:
    folder = make_adapter()
    url = f"https://ann:{CANARY}@models.example/team/tiny"
    config = json.loads((folder / "adapter_config.json").read_bytes())
    config |= {"model": url, "resume_adapter_file": f"s3://bucket/x?X-Amz-Signature={CANARY}&part=1"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_metadata.json").write_text(json.dumps({"base_model": url, "mirrors": [url]}))
    (folder / "fusery_run.json").write_text(
        json.dumps({"started_at": "2026-01-15T12:00:00Z", "arguments": {"model": f"{url}-2"}})
    )
    registry.bases.add(tiny_base, name="other")
    checked = registry.adapters.check(folder, base="other")
    assert "models.example/team/tiny" in str([finding.to_dict() for finding in checked])
    assert CANARY not in str([finding.to_dict() for finding in checked])

    config["model"] = f"https://ann:{CANARY}@models.example/team/other"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_metadata.json").unlink()
    (folder / "fusery_run.json").unlink()
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
