"""SLSA provenance: in-toto's own validator, and the predicate's published message, for every kind of record."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import lineage_registry
import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import resource_descriptor_pb2
from in_toto_attestation.v1.statement import Statement

from fusery.registry import Registry, tables
from fusery.registry.errors import BadInputError
from fusery.registry.provenance.account import Account, Data, File, Part
from fusery.registry.provenance.attest import document_bytes
from fusery.registry.provenance.cyclonedx import bill
from fusery.registry.provenance.slsa import BUILD_TYPES, statement
from fusery.registry.records.withdrawals import Withdrawal
from fusery.storage.digest import digest_bytes
from fusery.storage.safetensors import read_header

Everything = tuple[Registry, dict[str, str]]


def check(document: dict[str, Any]) -> provenance_pb2.Provenance:
    """Hold a statement against in-toto's messages, which refuse what they do not know; return the predicate."""
    document = json.loads(document_bytes(document))
    subjects = [
        json_format.ParseDict(each, resource_descriptor_pb2.ResourceDescriptor())
        for each in document["subject"]
    ]
    Statement(subjects, document["predicateType"], document["predicate"]).validate()
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    predicate = json_format.ParseDict(document["predicate"], provenance_pb2.Provenance())
    assert predicate.build_definition.build_type and predicate.run_details.builder.id
    assert predicate.build_definition.HasField("external_parameters")
    for each in predicate.build_definition.resolved_dependencies:
        assert each.uri or each.digest or each.content  # asked for by SLSA
    return predicate


def test_every_kind_of_record(withdrawn: Everything) -> None:
    registry, found = withdrawn
    for name, reference in found.items():
        made = registry.provenance.attest(reference)
        predicate = check(made.document)
        assert predicate.build_definition.build_type == BUILD_TYPES[made.kind], name
        assert registry.provenance.attest(reference).data == made.data, name


def test_the_fuse_is_told_in_full(withdrawn: Everything) -> None:
    registry, found = withdrawn
    predicate = check(registry.provenance.attest(found["sum"]).document)
    definition, run = predicate.build_definition, predicate.run_details
    adapters = definition.external_parameters["adapters"]
    assert [(each["name"], each["weight"]) for each in adapters] == [
        ("other_v1_20260301", 1.0),
        (lineage_registry.CONTINUED, 0.5),
        (lineage_registry.DENSE, -1.0),
    ]
    known = {each.digest["sha256"] for each in definition.resolved_dependencies if each.digest}
    for reference in ("other@1", "course_rec@1", "course_rec@2"):
        assert {file["sha256"] for file in registry.adapters.show(reference)["files"]} <= known
    assert {file["sha256"] for file in registry.bases.show("tiny")["files"]} <= known
    roles = {each.annotations["role"] for each in definition.resolved_dependencies}
    assert roles >= {"base weights", "adapter weights", "configuration", "chat template", "dataset"}
    with registry.workspace.database.read() as session:
        row = session.query(tables.Fused).filter_by(key=found["sum"]).one()
        event = session.query(tables.Event).filter_by(action="fused.made", subject=row.key).one()
        assert run.metadata.invocation_id == f"sha256:{event.hash}"
        assert run.metadata.finished_on.ToDatetime(UTC) == row.created_at
        took = run.metadata.finished_on.ToNanoseconds() - run.metadata.started_on.ToNanoseconds()
        assert took / 1e9 == pytest.approx(row.seconds, abs=1e-5)
        assert definition.internal_parameters["engine"] == row.engine
    assert run.builder.id.startswith("urn:fusery:builder:fusery:")
    assert run.builder.version["engine"].startswith("canonical")


def test_the_subjects_are_the_files_of_the_bundle(withdrawn: Everything) -> None:
    from pathlib import Path

    registry, found = withdrawn
    for kind in ("bundle", "bundle of a sum", "unfused bundle"):
        folder = Path(found[kind])
        told = {
            each["name"]: each["digest"]["sha256"]
            for each in registry.provenance.attest(found[kind]).document["subject"]
        }
        there = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        assert {name: digest_bytes(path.read_bytes()) for name, path in there.items()} == told
    assert read_header(Path(found["bundle"]) / "model.safetensors")
    assert found["bundle"] not in json.dumps(
        registry.provenance.attest(found["bundle"]).document
    )  # no path of this machine


@pytest.mark.parametrize("reference", ["tiny", "dataset:courses"])
def test_a_base_or_a_dataset_was_not_made_here(reference: str, withdrawn: Everything) -> None:
    with pytest.raises(BadInputError, match="neither an adapter"):
        withdrawn[0].provenance.attest(reference)
    with pytest.raises(BadInputError, match="no format"):
        withdrawn[0].provenance.attest("course_rec@1", form="spdx")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
digests = st.binary(max_size=3).map(digest_bytes)
floats = st.floats(allow_nan=False, allow_infinity=False, width=32)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))
paths = st.lists(
    st.builds(File, texts, st.integers(0, 1 << 50), digests),
    min_size=1,
    max_size=3,
    unique_by=lambda f: f.path,
)
FACTS = {
    "model_type": "llama",
    "architecture": "LlamaForCausalLM",
    "parameters": 1,
    "dtype": "bf16",
    "quantization": None,
}
data = st.builds(Data, texts, st.just("") | texts, st.just("") | digests, st.none() | st.integers(0, 1 << 40))


@st.composite
def yanks(draw: st.DrawFn) -> Withdrawal:
    relation = draw(st.sampled_from(("itself", "same-bytes", "contains")))
    return Withdrawal(draw(texts), relation, draw(texts), datetime(2026, 5, 1, tzinfo=UTC), draw(texts))


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    """Any account whose records a registry could hold, and names that no sane person gives."""
    base = Part(
        "base",
        draw(texts),
        draw(digests),
        tuple(draw(paths)),
        draw(st.none() | texts),
        hub=draw(
            st.none() | st.tuples(st.from_regex(r"[a-z]{1,5}(/[A-Za-z0-9._-]{1,9})?", fullmatch=True), texts)
        ),
        facts=FACTS,
    )
    adapters = tuple(
        Part(
            "adapter",
            draw(texts),
            draw(digests),
            tuple(draw(paths)),
            draw(st.none() | texts | st.sampled_from(["mit", "Apache-2.0", "gpl-3.0"])),
            draw(st.none() | floats),
            data=draw(st.none() | data),
            facts={
                "task": draw(texts),
                "val_loss": draw(st.none() | floats),
                "method": "dora",
                "scale": draw(floats),
            },
        )
        for _ in range(draw(st.integers(0, 3)))
    )
    recorded = draw(moments)
    kind = draw(st.sampled_from(["adapter", "fused", "bundle"]))
    files = tuple(draw(paths))
    chosen: dict[str, Any] = {
        "key": draw(digests),
        "recipe": {"calibration": draw(st.none() | digests)},
        "val_loss": draw(floats),
    }
    return Account(
        kind,
        draw(texts),
        draw(digests),
        files,
        base,
        adapters,
        recorded,
        draw(texts),
        fused=Part("fused", draw(texts), draw(digests), files, facts=chosen) if kind == "bundle" else None,
        data=draw(st.none() | data) if kind == "adapter" else None,
        began=draw(st.none() | st.just(recorded - timedelta(seconds=1.5))),
        ended=draw(st.none() | st.just(recorded)),
        tool=draw(st.none() | st.just("fusery 1.2.3")),
        entry=draw(st.none() | digests),
        asked={"command": draw(texts)},
        chosen=chosen,
        fidelity=draw(st.none() | st.just({"verdict": "DEGRADED", "retained": 0.5, "noise": None})),
        withdrawals=tuple(draw(st.lists(yanks(), max_size=2))),
    )


@given(accounts())
@settings(max_examples=60, deadline=None)
def test_any_names_give_a_valid_statement(account: Account) -> None:
    check(statement(account))
    assert document_bytes(statement(account)) == document_bytes(statement(replace(account)))


@given(accounts())
@settings(max_examples=60, deadline=None)
def test_any_names_give_a_valid_bill(account: Account) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = document_bytes(bill(account)).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert document_bytes(bill(replace(account))).decode() == text
