"""The names of the Python API, for type checkers and editors."""

from fusery.storage.errors import FuseryError as FuseryError
from fusery.storage.progress import Reporter as Reporter

from .adapters.finding import Finding as Finding
from .admission.refusal import AdmissionError as AdmissionError
from .api.registry import Registry as Registry
from .bundles.choices import Choices as Choices
from .catalog.where.problem import WhereError as WhereError
from .errors import AlreadyExistsError as AlreadyExistsError
from .errors import BadInputError as BadInputError
from .errors import CheckFailedError as CheckFailedError
from .errors import InvalidTokenError as InvalidTokenError
from .errors import MissingExtraError as MissingExtraError
from .errors import SchemaError as SchemaError
from .errors import UnknownReferenceError as UnknownReferenceError
from .fusion.request import FuseRequest as FuseRequest
from .record import Record as Record
from .recording.callback import RecordRun as RecordRun
from .recording.trainer_callback import FuseryCallback as FuseryCallback
from .records.adapter import Adapter as Adapter
from .records.adapter_details import AdapterDetails as AdapterDetails
from .records.alias import Alias as Alias
from .records.base import Base as Base
from .records.deployment import Deployment as Deployment
from .records.event import Event as Event
from .records.fused import Fused as Fused
from .records.token import Identity as Identity
from .records.token import NewToken as NewToken
from .records.token import Token as Token
from .serving.serve import ServeRequest as ServeRequest

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
    "ServeRequest",
    "Token",
    "UnknownReferenceError",
    "WhereError",
]
