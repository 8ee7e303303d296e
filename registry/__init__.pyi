"""The names of the Python API, for type checkers and editors."""

from fusery.storage.errors import FuseryError as FuseryError
from fusery.storage.progress import Reporter as Reporter

from .adapters import Finding as Finding
from .admission.code import AdmissionError as AdmissionError
from .api.registry import Registry as Registry
from .bundles.source import Choices as Choices
from .errors import AlreadyExistsError as AlreadyExistsError
from .errors import BadInputError as BadInputError
from .errors import CheckFailedError as CheckFailedError
from .errors import InvalidTokenError as InvalidTokenError
from .errors import MissingExtraError as MissingExtraError
from .errors import SchemaError as SchemaError
from .errors import UnknownReferenceError as UnknownReferenceError
from .errors import WhereError as WhereError
from .fusion.request import FuseRequest as FuseRequest
from .record import Record as Record
from .recording.callback import RecordRun as RecordRun
from .recording.trainer_callback import FuseryCallback as FuseryCallback
from .records.adapter import Adapter as Adapter
from .records.adapter_details import AdapterDetails as AdapterDetails
from .records.event import Event as Event
from .records.fused import Base as Base
from .records.fused import Fused as Fused
from .records.release import Alias as Alias
from .records.release import Deployment as Deployment
from .records.trust import Identity as Identity
from .records.trust import NewToken as NewToken
from .records.trust import Token as Token

__all__ = [
    "Adapter",
    "AdapterDetails",
    "AdmissionError",
    "Alias",
    "AlreadyExistsError",
    "BadInputError",
    "Base",
    "CheckFailedError",
    "Choices",
    "Deployment",
    "Event",
    "Finding",
    "FuseRequest",
    "Fused",
    "FuseryCallback",
    "FuseryError",
    "Identity",
    "InvalidTokenError",
    "MissingExtraError",
    "NewToken",
    "Record",
    "RecordRun",
    "Registry",
    "Reporter",
    "SchemaError",
    "Token",
    "UnknownReferenceError",
    "WhereError",
]
