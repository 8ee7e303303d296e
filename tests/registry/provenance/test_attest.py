"""SLSA provenance and bills of materials, held against in-toto's and CycloneDX's own validators, and signed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import lineage_registry
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import resource_descriptor_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from fusery.registry import Registry, tables
from fusery.registry.dsse import Pair, make_pair
from fusery.registry.errors import BadInputError, MissingExtraError
from fusery.registry.provenance.account import Account, AccountPart, Data, account_of
from fusery.registry.provenance.attest import BUILD_TYPES, Attested, bill, statement
from fusery.registry.records.adapter import Withdrawal
from fusery.registry.records.references import find_things, shippable
from fusery.storage.digest import digest_bytes
from fusery.storage.manifest import FileEntry

Everything = tuple[Registry, dict[str, str]]


def written(document: dict[str, Any]) -> bytes:
    return Attested("adapter", "x", "0" * 64, "slsa", document).data


def check(document: dict[str, Any]) -> provenance_pb2.Provenance:
    """Hold a statement against in-toto's messages, which refuse what they do not know; return the predicate."""
    document = json.loads(written(document))
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


def is_valid(document: Any) -> bool:
    text = written(document).decode()
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_every_kind_of_record(withdrawn: Everything) -> None:
    registry, found = withdrawn
    attest, serials = registry.provenance.attest, set()
    for name, reference in found.items():
        made, bom = attest(reference), attest(reference, form="cyclonedx")
        predicate = check(made.document)
        assert predicate.build_definition.build_type == BUILD_TYPES[made.kind], name
        assert is_valid(bom.document), name
        assert (attest(reference).data, attest(reference, form="cyclonedx").data) == (made.data, bom.data), (
            name
        )
        assert _refs_are_unique(bom.document)
        serials.add(bom.document["serialNumber"])
    assert len(serials) == len(found)


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
        row = session.query(tables.FusedRow).filter_by(key=found["sum"]).one()
        event = session.query(tables.EventRow).filter_by(action="fused.made", subject=row.key).one()
        assert run.metadata.invocation_id == f"sha256:{event.hash}"
        assert run.metadata.finished_on.ToDatetime(UTC) == row.created_at
        took = run.metadata.finished_on.ToNanoseconds() - run.metadata.started_on.ToNanoseconds()
        assert took / 1e9 == pytest.approx(row.seconds, abs=1e-5)
        assert definition.internal_parameters["engine"] == row.engine
    assert run.builder.id.startswith("urn:fusery:builder:fusery:")
    assert run.builder.version["engine"].startswith("canonical")


def test_the_subjects_are_the_files_of_the_bundle(withdrawn: Everything) -> None:
    registry, found = withdrawn
    for kind in ("bundle", "bundle of a sum", "unfused bundle"):
        folder = Path(found[kind])
        document = registry.provenance.attest(found[kind]).document
        told = {each["name"]: each["digest"]["sha256"] for each in document["subject"]}
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {str(path.relative_to(folder)): digest_bytes(path.read_bytes()) for path in files} == told
        assert found[kind] not in json.dumps(document)  # no path of this machine


def test_only_adapters_and_models_are_attested_in_known_formats(withdrawn: Everything) -> None:
    for reference, form in (("tiny", "slsa"), ("dataset:courses", "slsa"), ("course_rec@1", "spdx")):
        with pytest.raises(BadInputError):
            withdrawn[0].provenance.attest(reference, form=form)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)


@cache
def account(name: str) -> Account:
    registry, found = lineage_registry.withdrawn()
    with registry.workspace.database.read() as session:
        subject = shippable(find_things(session, found[name]), name)
        return account_of(registry.workspace, session, subject)


@given(st.sampled_from(["adapter", "sum", "bundle"]), TEXTS, st.none() | TEXTS, st.booleans())
@settings(max_examples=30)
def test_any_names_give_a_valid_statement_and_a_valid_bill(
    kind: str, name: str, licence: str | None, known: bool
) -> None:
    real = account(kind)
    data = Data(name, licence or "", "ab" * 32, 1 << 40)
    base = replace(real.base, name=name, licence=licence, hub=("team/model", name))
    files = tuple(FileEntry(f"{name}/{file.path}", file.size, file.sha256) for file in real.files)
    adapters = tuple(replace(part, name=name, licence=licence, data=data) for part in real.adapters)
    changed = replace(real, name=name, by=name, base=base, files=files, adapters=adapters)
    if kind == "adapter":
        changed = replace(changed, data=data)
    if not known:
        changed = replace(changed, began=None, ended=None, tool=None, entry=None, fidelity=None)
    check(statement(changed))
    assert is_valid(bill(changed))


def _refs_are_unique(document: dict[str, Any]) -> bool:
    found: list[str] = []
    waiting: list[Any] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found += [value["bom-ref"]] if "bom-ref" in value else []
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return len(found) == len(set(found))


def test_what_a_sum_descends_from(withdrawn: Everything) -> None:
    registry, found = withdrawn
    document = registry.provenance.attest(found["sum"], form="cyclonedx").document
    component = document["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    ancestors = {each["name"]: each for each in component["pedigree"]["ancestors"]}
    assert set(ancestors) == {"tiny", "other_v1_20260301", lineage_registry.DENSE, lineage_registry.CONTINUED}
    assert ancestors[lineage_registry.CONTINUED]["licenses"] == [{"license": {"id": "MIT"}}]
    assert ancestors["other_v1_20260301"]["licenses"] == [{"license": {"name": "our own & <odd>"}}]
    files = {each["name"]: each["hashes"] for each in ancestors[lineage_registry.DENSE]["components"]}
    shown = registry.adapters.show("course_rec@1")["files"]
    assert files == {file["path"]: [{"alg": "SHA-256", "content": file["sha256"]}] for file in shown}
    weights = {"other_v1_20260301": "1.0", lineage_registry.DENSE: "-1.0", lineage_registry.CONTINUED: "0.5"}
    for name, weight in weights.items():
        assert {"name": "fusery:weight", "value": weight} in ancestors[name]["properties"]
    datasets = {each["name"]: each["bom-ref"] for each in document["components"]}
    assert set(datasets) == {"courses", lineage_registry.ODD}
    card = component["modelCard"]
    assert {each["ref"] for each in card["modelParameters"]["datasets"]} == set(datasets.values())
    assert any(
        "contains the weights of course_rec_v2_20260201" in limit and "leaked" in limit
        for limit in card["considerations"]["technicalLimitations"]
    )
    metrics = {each["type"]: each["value"] for each in card["quantitativeAnalysis"]["performanceMetrics"]}
    assert 0.9 < float(metrics["fidelity of the fuse: retained"]) <= 1.01
    sliced = [each for each in card["quantitativeAnalysis"]["performanceMetrics"] if "slice" in each]
    assert {each["value"] for each in sliced} == {"0.61", "0.42"}


def test_the_extra_is_named(withdrawn: Everything, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx.spdx", None)
    with pytest.raises(MissingExtraError) as raised:
        withdrawn[0].provenance.attest("course_rec@1", form="cyclonedx")
    assert "fusery[bom]" in (raised.value.hint or "")


DIGEST, RECORDED = "cd" * 32, datetime(2026, 1, 5, 12, tzinfo=timezone(timedelta(hours=2)))
BASE_FACTS = {"architecture": "LlamaForCausalLM", "model_type": "llama"}


def made(**values: Any) -> Account:
    """Return the account of a trained adapter with one file, whose base is from the hub."""

    def file(path: str) -> tuple[FileEntry, ...]:
        return (FileEntry(path, 3, digest_bytes(path.encode())),)

    base = AccountPart(
        "base", "tiny", "ab" * 32, (*file("config.json"), *file("chat_template.jinja"), *file("vocab.txt")),
        licence="mit", hub=("team/tiny", "v 1"), facts=BASE_FACTS,
    )  # fmt: skip
    parts: dict[str, Any] = {"base": base, "adapters": (), "recorded": RECORDED, "by": "ann"}
    return replace(Account("adapter", "ads_v1", DIGEST, file("adapters.safetensors"), **parts), **values)


def facts_of(node: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in node["properties"]}


def test_statement_names_the_builder_and_the_moments() -> None:
    run = statement(made(entry="ef" * 32, began=RECORDED))["predicate"]["runDetails"]
    assert run == {
        "builder": {"id": "urn:fusery:builder:trainer"},
        "metadata": {"invocationId": f"sha256:{'ef' * 32}", "startedOn": "2026-01-05T10:00:00Z"},
    }
    versions = {"mlx": "0.30", "numpy": 2}
    for account, builder in (
        (made(facts={"versions": versions}, tool="x 1"), {"id": "urn:fusery:builder:trainer",
                                                        "version": {"mlx": "0.30", "numpy": "2"}}),
        (made(asked={"combination": {}}), {"id": "urn:fusery:builder:unrecorded"}),
        (made(asked={"combination": {}}, tool="fusery 0.1+a"),
         {"id": "urn:fusery:builder:fusery:0.1+a", "version": {"fusery": "0.1+a"}}),
        (made(kind="fused", tool="fusery 1", facts={"engine": "canonical"}),
         {"id": "urn:fusery:builder:fusery:1", "version": {"fusery": "1", "engine": "canonical"}}),
        (made(kind="bundle", tool="fusery 1", facts={"fuse": {"engine": "canonical"}}),
         {"id": "urn:fusery:builder:fusery:1", "version": {"fusery": "1", "engine": "canonical"}}),
    ):  # fmt: skip
        document = statement(account)["predicate"]
        assert document["runDetails"]["builder"] == builder
        assert document["runDetails"]["metadata"] == {"invocationId": f"sha256:{DIGEST}"}
        kind = "combination" if "combination" in account.asked else account.kind
        assert document["buildDefinition"]["buildType"] == BUILD_TYPES[kind]
    own = statement(made(facts={"a": 1}, fidelity={"retained": 1.0}))["predicate"]["buildDefinition"]
    assert own["internalParameters"] == {
        "name": "ads_v1", "digest": f"sha256:{DIGEST}", "by": "ann", "a": 1, "fidelity": {"retained": 1.0},
    }  # fmt: skip
    assert "fidelity" not in statement(made())["predicate"]["buildDefinition"]["internalParameters"]


def test_statement_lists_all_that_went_in() -> None:
    data = Data("d 1", "", "", None)
    parent = replace(
        made().base, kind="adapter", name="p", files=made().files, hub=None, data=Data("e", "r", "ab" * 32, 0)
    )
    parent = replace(parent, facts={"trained_on": "other"})
    account = made(data=data, adapters=(parent,), facts={"recipe": {"calibration": "12" * 32}})
    listed = statement(account)["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [(each["name"], each["annotations"]) for each in listed] == [
        ("base/tiny/config.json", {"of": "tiny", "role": "configuration", "size": 3}),
        ("base/tiny/chat_template.jinja", {"of": "tiny", "role": "chat template", "size": 3}),
        ("base/tiny/vocab.txt", {"of": "tiny", "role": "base file", "size": 3}),
        ("adapter/p/adapters.safetensors",
         {"of": "p", "role": "adapter weights", "size": 3, "trained_on": "other"}),
        ("dataset/d 1", {"role": "dataset"}),
        ("dataset/e", {"role": "dataset", "revision": "r", "examples": 0}),
        ("calibration", {"of": "tiny", "role": "calibration"}),
    ]  # fmt: skip
    assert [each.get("uri") for each in listed] == [
        *(f"pkg:huggingface/team/tiny@v%201#{name}" for name in ("config.json", "chat_template.jinja", "vocab.txt")),
        None, "urn:fusery:dataset:d%201", "urn:fusery:dataset:e", None,
    ]  # fmt: skip
    assert [each.get("digest", {}).get("sha256") for each in listed[4:]] == [None, "ab" * 32, "12" * 32]


def test_bill_of_an_adapter_and_of_a_sum() -> None:
    yank = Withdrawal("ads_v1", "itself", "leaked", RECORDED, "ann")
    other = replace(yank, relation="contains", adapter="p")
    data = Data("d", "r", "ab" * 32, 0)
    document = bill(
        made(data=data, facts={"val_loss": 0.5, "task": "ads", "empty": {}}, withdrawals=(yank, other))
    )
    main = document["metadata"]["component"]
    card = main["modelCard"]
    assert document["metadata"]["timestamp"] == "2026-01-05T10:00:00Z"
    assert facts_of(main) == {
        "fusery:by": "ann", "fusery:digest": f"sha256:{DIGEST}", "fusery:kind": "adapter",
        "fusery:yanked": "leaked", "fusery:withdrawals": json.dumps([other.summary]),
    }  # fmt: skip
    assert card["considerations"]["technicalLimitations"] == [yank.summary, other.summary]
    assert card["quantitativeAnalysis"]["performanceMetrics"] == [{"type": "validation loss", "value": "0.5"}]
    assert facts_of(card) == {"fusery:val_loss": "0.5", "fusery:task": "ads"}
    parameters = card["modelParameters"]
    assert (parameters["task"], parameters["approach"]) == ("ads", {"type": "supervised"})
    [dataset] = document["components"]
    assert (dataset["version"], dataset["hashes"][0]["content"]) == ("r", "ab" * 32)
    assert facts_of(dataset) == {"fusery:examples": "0"}
    assert document["dependencies"][1:] == [{"ref": dataset["bom-ref"]}] == [parameters["datasets"][0]]
    [ancestor] = main["pedigree"]["ancestors"]
    assert (ancestor["purl"], ancestor["licenses"]) == (
        "pkg:huggingface/team/tiny@v%201", [{"license": {"id": "MIT"}}],
    )  # fmt: skip
    assert "modelCard" not in ancestor

    part = AccountPart("adapter", "p", "ab" * 32, (), weight=1.0, facts={"task": "ads", "val_loss": 0.4})
    trained = replace(part, name="q", weight=None, data=Data("e", "", "", None))
    account = made(
        kind="fused", adapters=(part, replace(part, weight=0.5), trained),
        fidelity={"retained": 0.9, "noise": None, "verdict": "UNSURE"},
    )  # fmt: skip
    document = bill(account)
    main = document["metadata"]["component"]
    [_, first, second] = main["pedigree"]["ancestors"]
    assert (facts_of(first)["fusery:weight"], "fusery:weight" in facts_of(second)) == ("1.0, 0.5", False)
    assert first["modelCard"]["modelParameters"] == {"task": "ads"}
    assert second["modelCard"]["modelParameters"]["datasets"] == [
        {"ref": document["components"][0]["bom-ref"]}
    ]
    assert document["components"] == [
        {"type": "data", "name": "e", "bom-ref": document["components"][0]["bom-ref"]}
    ]
    loss = {"type": "validation loss of the adapter", "value": "0.4"}
    assert main["modelCard"]["quantitativeAnalysis"]["performanceMetrics"] == [
        *({**loss, "slice": name} for name in ("p", "p", "q")),
        {"type": "fidelity of the fuse: retained", "value": "0.9"},
    ]
    assert main["modelCard"]["considerations"] == {"technicalLimitations": ["fidelity of the fuse: UNSURE"]}
    bare = bill(made())["metadata"]["component"]["modelCard"]
    assert bare.keys() == {"modelParameters", "properties"}
    assert bare["modelParameters"].keys() == {"architectureFamily", "modelArchitecture", "datasets"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("keys") / "release.pem", None)


def public(pair: Pair) -> SSlibKey:
    return SSlibKey.from_crypto(load_pem_public_key(pair.public_key.read_bytes()), keyid=pair.key_id)


def test_a_verifier_takes_it_as_it_is(pair: Pair, withdrawn: Everything, tmp_path: Path) -> None:
    attest = withdrawn[0].provenance.attest
    for form in ("slsa", "cyclonedx"):
        made = attest("course_rec@1", form=form, key=pair.private_key)
        envelope = Envelope.from_dict(json.loads(made.data))
        assert list(envelope.verify([public(pair)], 1)) == [pair.key_id] == [made.key_id]
        assert envelope.payload == attest("course_rec@1", form=form).data
        assert "PRIVATE" not in made.data.decode()
    other = make_pair(tmp_path / "other.pem", None)
    with pytest.raises(VerificationError):
        envelope.verify([public(other)], 1)
    envelope.payload = envelope.payload.replace(b"course_rec_v1", b"course_rec_v7")
    with pytest.raises(VerificationError):
        envelope.verify([public(pair)], 1)


def test_locked_and_invalid_keys(pair: Pair, withdrawn: Everything, tmp_path: Path) -> None:
    locked = make_pair(tmp_path / "locked.pem", b"open sesame")
    attest = withdrawn[0].provenance.attest
    made = attest("course_rec@1", key=locked.private_key, passphrase=lambda: b"open sesame")
    assert Envelope.from_dict(json.loads(made.data)).verify([public(locked)], 1)
    (tmp_path / "none.pem").write_text("nothing")
    for path in (locked.private_key, tmp_path / "none.pem", pair.public_key):
        with pytest.raises(BadInputError):
            attest("course_rec@1", key=path, passphrase=lambda: b"wrong")
