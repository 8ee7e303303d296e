"""What each command prints with `--json`, as types; `fusery schema` and the tests read it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from importlib import import_module
from operator import or_
from typing import Any

OTHERS_FORMAT = "another's format"
"""Of a command that prints a document whose form others have laid down, such as a JSON Schema or an attestation."""

DOCUMENTS: Mapping[str, str] = {
    "init": ".home:Initialised",
    "demo": ".demo:Demonstration",
    "login": ".login:Login",
    "doctor": "audit.doctor:Health",
    "completion": ".home:Completion",
    "schema": OTHERS_FORMAT,
    "base add": "records.base:AddedBase",
    "base list": "[records.base:Base]",
    "base show": "records.base:BaseDetails",
    "base calibrate": "records.calibrations:CalibrationReport",
    "train": "recording.result:TrainingResult",
    "check": "admission.checked:Checked | [admission.checked:CheckedFolder]",
    "register": "records.adapter:Registered",
    "list": "[records.adapter:Adapter]",
    "show": "records.adapter_details:AdapterDetails",
    "ui": "records.listening:Listening",
    "history": "[records.adapter:Version]",
    "amend": "registration.amend:Amended",
    "diff": "catalog.diff:Difference | catalog.diff:WeightsDifference",
    "compare": "catalog.compare:ComparedAdapters",
    "eval record": "evaluation.measured:RecordedEvaluations",
    "eval run": "evaluation.measured:RecordedEvaluations",
    "eval withdraw": "evaluation.withdrawing:WithdrawnEvaluations",
    "eval list": "[records.evaluations:Evaluation]",
    "probe": "evaluation.probe_report:ProbeReport",
    "bench": "evaluation.bench_report:BenchReport | null",
    "fuse": "records.fused:Fused | [bulk.jobs:FusedOrNot]",
    "combine": "combining.combine:Combination",
    "shrink": "combining.combine:Combination",
    "fidelity": "records.fused:FusedDetails | fusion.formats:Formats",
    "cache list": "fusion.cache:CacheContents",
    "cache prune": "fusion.cache:Pruned",
    "cache pin": "[fusion.cache:Pinned]",
    "cache unpin": "[fusion.cache:Pinned]",
    "cache explain": "fusion.explain:Explanation",
    "materialize": "bundles.materialize:Materialized | [bulk.jobs:BundledOrNot]",
    "serve": "serving.serve:Serving",
    "alias set": "records.alias:Moved",
    "alias remove": "records.alias:Moved",
    "alias rollback": "records.alias:Moved",
    "alias list": "[records.alias:Alias]",
    "alias show": "records.alias:AliasHolder",
    "alias history": "[records.alias:AliasMove]",
    "sync": "sync.outcome:Synced",
    "deploy record": "records.deployment:Deployed",
    "deploy end": "[records.deployment:Deployment]",
    "deploy list": "[records.deployment:Deployment]",
    "path": "records.folders:LocalFolder",
    "export": "exchange.export:Exported",
    "import": "records.adapter:Registered | [exchange.import_runs:ImportedRun]",
    "lineage": "records.graph:Graph | .written:WrittenDocument",
    "identify": "identification.identified:Identified",
    "events": "[catalog.journal:Event]",
    "audit": "audit:Report",
    "attest": OTHERS_FORMAT,
    "sign": "signing.sign:Signed",
    "verify": "signing.verify:Verification",
    "signature list": "signing.recorded:Signatures",
    "signature export": "signing.recorded:ExportedSignature",
    "signature anchor": "signing.anchor:WrittenAnchor",
    "trust keygen": "dsse.keys:Pair",
    "trust add": "signing.trusted:TrustedKey",
    "trust list": "[signing.trusted:TrustedKey]",
    "trust revoke": "signing.trusted:TrustedKey",
    "server": "records.listening:Listening",
    "push": "exchange:Exchanged",
    "pull": "exchange:Exchanged",
    "rules set": "releases.keeping:SetRules",
    "rules show": "releases.keeping:AliasRules",
    "rules list": "[releases.keeping:AliasRules]",
    "rules remove": "releases.keeping:RemovedRules",
    "approve": "releases.approvals:Approval",
    "promote": "releases.promote:Promotion",
    "yank": "releases.yanks:Yank | releases.yanks:LiftedYank | [releases.yanks:Yank] | [releases.yanks:LiftedYank]",
    "token create": "records.token:NewToken",
    "token list": "[records.token:Token]",
    "token revoke": "records.token:Token",
    "webhook add": "records.webhook:AddedWebhook",
    "webhook list": "[records.webhook:Webhook]",
    "webhook show": "records.webhook:Webhook",
    "webhook remove": "records.webhook:Webhook",
    "webhook key": "records.webhook:WebhookKey",
    "webhook deliver": "[records.webhook:WebhookDeliveries]",
    "webhook retry": "records.webhook:Webhook",
    "webhook skip": "records.webhook:SkippedEvent",
    "impact": "releases.impact:Impact",
    "report": "reporting:Written",
    "backup": "backup:BackedUp",
    "restore": "backup:Restored",
    "gc": "collect:Collection",
    "db upgrade": "audit.upgrade:Upgraded",
    "db current": "database.schema:SchemaState",
    "db check": ".home:SchemaCheck",
}
"""By command: module and name of a record, within `fusery.registry` or, with a leading dot, within `fusery.cli`.

An array of them is in brackets; one of several is separated by `|`.
"""


def document_of(command: str) -> Any:
    """Return the type of what a command prints with `--json`; `object` where its form is another's."""
    return reduce(or_, map(_type, DOCUMENTS[command].split(" | ")))


def _type(text: str) -> Any:
    if text == OTHERS_FORMAT:
        return object
    if text == "null":
        return None
    if text.startswith("["):
        return list[_type(text[1:-1])]  # type: ignore[misc]
    module, _, name = text.partition(":")
    place = f"fusery.cli{module}" if module.startswith(".") else f"fusery.registry.{module}"
    return getattr(import_module(place), name)
