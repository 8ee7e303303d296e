"""The schema: every table as a typed class; docs/internals/data-model.md says what the rows mean and what may change.

`bytes` holds blobs and manifests, `bases`, `adapters` and `fused` what the registry is for, `trail` what happened to them,
`signatures` who signed them, `trust` who decides about them and where they run, `webhooks` who is told.
"""

from .adapters import (
    SORTED,
    Adapter,
    AdapterFinding,
    AdapterRendering,
    AdapterSource,
    AdapterTag,
    Amendment,
    CurvePoint,
    Dataset,
    Evaluation,
    Task,
    TrainingRun,
)
from .bases import BaseModel, BaseName, BaseRevision, Calibration
from .bytes import Blob, Intent, Lease, Manifest, ManifestFile, Tensor
from .fused import Fused, FusedExtra, ModuleFidelity
from .record import Record
from .signatures import Signature, TrustedKey
from .trail import Alias, AliasMove, Bundle, BundleAdapter, Event, Registry, Yank
from .trust import AliasRule, Approval, Deployment, Token
from .webhooks import Webhook, WebhookDelivery

metadata = Record.metadata

__all__ = [
    "SORTED", "Adapter", "AdapterFinding", "AdapterRendering", "AdapterSource", "AdapterTag", "Alias",
    "AliasMove", "AliasRule", "Amendment", "Approval", "BaseModel", "BaseName", "BaseRevision",
    "Blob", "Bundle", "BundleAdapter", "Calibration", "CurvePoint", "Dataset", "Deployment",
    "Evaluation", "Event", "Fused", "FusedExtra", "Intent", "Lease", "Manifest", "ManifestFile",
    "ModuleFidelity", "Record", "Registry", "Signature", "Task", "Tensor", "Token", "TrainingRun",
    "TrustedKey", "Webhook", "WebhookDelivery", "Yank", "metadata",
]  # fmt: skip
