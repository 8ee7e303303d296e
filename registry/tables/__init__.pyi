"""The tables, for type checkers and editors."""

from sqlalchemy import MetaData

from .adapters import SORTED as SORTED
from .adapters import Adapter as Adapter
from .adapters import AdapterFinding as AdapterFinding
from .adapters import AdapterRendering as AdapterRendering
from .adapters import AdapterSource as AdapterSource
from .adapters import AdapterTag as AdapterTag
from .adapters import Amendment as Amendment
from .adapters import CurvePoint as CurvePoint
from .adapters import Dataset as Dataset
from .adapters import Evaluation as Evaluation
from .adapters import Task as Task
from .adapters import TrainingRun as TrainingRun
from .aliases import Alias as Alias
from .aliases import AliasMove as AliasMove
from .aliases import Yank as Yank
from .bases import BaseModel as BaseModel
from .bases import BaseName as BaseName
from .bases import BaseRevision as BaseRevision
from .bases import Calibration as Calibration
from .bundles import Bundle as Bundle
from .bundles import BundleAdapter as BundleAdapter
from .bytes import Blob as Blob
from .bytes import Intent as Intent
from .bytes import Lease as Lease
from .bytes import Manifest as Manifest
from .bytes import ManifestFile as ManifestFile
from .bytes import Tensor as Tensor
from .fused import Fused as Fused
from .fused import FusedExtra as FusedExtra
from .fused import ModuleFidelity as ModuleFidelity
from .record import Record as Record
from .signatures import Signature as Signature
from .signatures import TrustedKey as TrustedKey
from .trail import Event as Event
from .trail import Registry as Registry
from .trust import AliasRule as AliasRule
from .trust import Approval as Approval
from .trust import Deployment as Deployment
from .trust import Token as Token
from .webhooks import Webhook as Webhook
from .webhooks import WebhookDelivery as WebhookDelivery

metadata: MetaData
