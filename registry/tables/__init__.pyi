"""The tables, for type checkers and editors."""

from sqlalchemy import MetaData

from .adapters import AdapterFindingRow as AdapterFindingRow
from .adapters import AdapterRenderingRow as AdapterRenderingRow
from .adapters import AdapterRow as AdapterRow
from .adapters import AdapterSketchRow as AdapterSketchRow
from .adapters import AdapterSourceRow as AdapterSourceRow
from .adapters import AdapterTagRow as AdapterTagRow
from .adapters import AliasMoveRow as AliasMoveRow
from .adapters import AliasRow as AliasRow
from .adapters import AmendmentRow as AmendmentRow
from .adapters import CurvePointRow as CurvePointRow
from .adapters import DatasetRow as DatasetRow
from .adapters import EvaluationRow as EvaluationRow
from .adapters import TaskRow as TaskRow
from .adapters import TrainingRunRow as TrainingRunRow
from .adapters import YankRow as YankRow
from .bases import BaseModelRow as BaseModelRow
from .bases import BaseNameRow as BaseNameRow
from .bases import BaseRevisionRow as BaseRevisionRow
from .bases import BlobRow as BlobRow
from .bases import CalibrationRow as CalibrationRow
from .bases import IntentRow as IntentRow
from .bases import LeaseRow as LeaseRow
from .bases import ManifestFileRow as ManifestFileRow
from .bases import ManifestRow as ManifestRow
from .bases import SignatureRow as SignatureRow
from .bases import TensorRow as TensorRow
from .bases import TrustedKeyRow as TrustedKeyRow
from .fused import BundleAdapterRow as BundleAdapterRow
from .fused import BundleRow as BundleRow
from .fused import FusedExtraRow as FusedExtraRow
from .fused import FusedRow as FusedRow
from .fused import ModuleFidelityRow as ModuleFidelityRow
from .record import TableRow as TableRow
from .trail import EventRow as EventRow
from .trail import RegistryRow as RegistryRow
from .trail import WebhookDeliveryRow as WebhookDeliveryRow
from .trail import WebhookRow as WebhookRow
from .trust import AliasRuleRow as AliasRuleRow
from .trust import ApprovalRow as ApprovalRow
from .trust import DeploymentRow as DeploymentRow
from .trust import TokenRow as TokenRow

metadata: MetaData
