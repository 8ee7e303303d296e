"""The documents of a package: one for each base model, calibration, adapter and fused model.

`encode` and `decode` of `fusery.registry.wire` write and read them, so that neighbouring versions understand each other: unknown
keys are ignored, and missing keys get defaults.  A document is complete in itself; it names what it needs by digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Literal

from fusery.storage.digest import Digest
from fusery.storage.errors import FormatError
from fusery.storage.jsonfile import MAX_DEPTH, parse_json
from fusery.storage.manifest import FileEntry, Manifest

from ..errors import BadInputError
from ..record import LARGE, LINE, LONG, Record, described
from ..records.adapter import Adapter, Withdrawal
from ..records.adapter_details import CurvePoint, Rendering, TrainingRun
from ..records.evaluation import Evaluation
from ..records.fused import FusedAnswers, ModuleFidelity, Source
from ..wire import decode

FORMAT = "fusery.package.v2"  # name and version of the format of a package
MOST_BYTES = 32 << 20  # maximum size of a package in one request
MOST_VALUES = 2_000_000  # maximum number of JSON values in it
MOST_EVENTS = 200  # maximum number of log entries in a document: the newest ones

LogEntries = tuple[Mapping[str, Any], ...]  # log entries about a record, oldest first, with all hashed fields


class Document(Record):
    """The base class of documents; `kept` says where the files are: in the store, in a folder, or `absent`."""

    kind: ClassVar[str]
    SUBJECT: ClassVar[str] = "digest"  # the field that names the subject of its log entries
    digest: Digest
    files: tuple[FileEntry, ...]
    kept: Literal["store", "folder", "absent"] = "store"
    log: LogEntries = ()

    @property
    def subject(self) -> str:
        """The subject of its log entries."""
        return str(getattr(self, self.SUBJECT))

    @property
    def manifest(self) -> Manifest:
        """Its files."""
        return Manifest.of(self.files)


class SignatureDocument(Record):
    """A signature of an adapter's or fused model's files."""

    scheme: str = described("signing scheme", most=50)
    key_id: str = described("id of the key", most=200)
    envelope: str = described("the signed envelope", most=LONG)
    at: datetime = described("when it was recorded")
    by: str = described("who recorded it", most=200)


class YankDocument(Record):
    """A yank of an adapter, lifted or not."""

    reason: str = described("the reason", most=LONG)
    at: datetime = described("when it was yanked")
    by: str = described("who yanked it", most=200)
    lifted_at: datetime | None = None
    lifted_by: str | None = described("who lifted it", optional=True, most=200)


class EvaluationDocument(Evaluation):
    """An evaluation of an adapter, withdrawn or not."""

    withdrawn_at: datetime | None = None
    withdrawn_by: str | None = described("who withdrew it", optional=True, most=200)
    withdrawn_reason: str | None = described("why", optional=True, most=LONG)


class Pinned(Record):
    """An adapter that a document refers to."""

    name: str = described("its name", most=200)
    digest: Digest = described("digest of its files")


class BaseDocument(Document):
    """A base model, with the facts computed from its files."""

    kind: ClassVar[str] = "base"
    names: tuple[str, ...] = described("all its names; the first one is shown", most=200)
    content: Digest | None = None
    sources: tuple[Source, ...] = ()
    architecture: str = described("class that runs it", most=200)
    model_type: str = described("family of the architecture", most=100)
    parameters: int = described("number of parameters", most=LARGE)
    dtype: str = described("dtype of its weights", most=20)
    quantization: Mapping[str, Any] | None = None
    bytes: int = described("size of its files in bytes", most=LARGE)
    config: Mapping[str, Any]
    weights: Mapping[str, Any]
    written_by_mlx: bool
    created_at: datetime
    created_by: str = described("who added it", most=200)

    @property
    def name(self) -> str:
        """The first of its names."""
        return self.names[0] if self.names else self.digest


class CalibrationDocument(Document):
    """A calibration of a base model."""

    kind: ClassVar[str] = "calibration"
    base: str = described("name of the base model", most=200)
    base_digest: Digest
    prompts: str = described("name of the prompts", most=200)
    prompts_digest: Digest
    tokens: int = described("number of tokens", least=1, most=LARGE)
    rank: int = described("rank", least=1)
    engine: str = described("the engine", most=200)
    adapter: Digest | None = None
    created_at: datetime
    created_by: str = described("who made it", most=200)

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self.base} calibrated ({self.prompts})"


class AdapterDocument(Adapter, Document):
    """An adapter with everything recorded about it."""

    kind: ClassVar[str] = "adapter"
    SUBJECT: ClassVar[str] = "name"
    base_digest: Digest
    base_names: tuple[str, ...] = described("names and hub ids of its base model", most=LONG)
    trained_on_names: tuple[str, ...] = described("those of the base model of its training", most=LONG)
    parent_digest: Digest | None = None
    sources: tuple[Pinned, ...] = ()
    training_run: TrainingRun | None = None
    curve: tuple[CurvePoint, ...] = ()
    training: Mapping[str, Any]
    renderings: tuple[Rendering, ...] = ()
    yanks: tuple[YankDocument, ...] = ()
    evaluations: tuple[EvaluationDocument, ...] = ()
    signatures: tuple[SignatureDocument, ...] = ()


class FusedDocument(Document):
    """A fused model; its files are in the package if published."""

    kind: ClassVar[str] = "fused"
    SUBJECT: ClassVar[str] = "key"
    key: Digest
    base_digest: Digest
    adapter: Pinned
    extras: tuple[Pinned, ...] = ()
    recipe: Mapping[str, Any]
    engine: str = described("the engine", most=200)
    precision: str = described("precision", choices=("keep", "dither", "mixed", "dequantize"))
    quantization: Mapping[str, Any] | None = None
    bytes: int = described("size of its files in bytes", most=LARGE)
    seconds: float = 0.0
    verdict: str = described("verdict", choices=("PASS", "UNSURE", "DEGRADED", "LOST"))
    retained: float | None = None
    cosine: float | None = None
    relative_error: float | None = None
    noise: float | None = None
    modules: tuple[ModuleFidelity, ...] = ()
    answers: FusedAnswers | None = None
    created_at: datetime
    created_by: str = described("who made it", most=200)
    used_at: datetime
    withdrawals: tuple[Withdrawal, ...] = ()
    signatures: tuple[SignatureDocument, ...] = ()

    @property
    def name(self) -> str:
        """Its name in messages: adapters, precision and the beginning of its key."""
        adapters = " + ".join(pinned_adapter.name for pinned_adapter in (self.adapter, *self.extras))
        return f"{adapters} ({self.precision}, {self.key[:12]})"


Item = BaseDocument | CalibrationDocument | AdapterDocument | FusedDocument

KINDS: Mapping[str, type[Item]] = {
    kind.kind: kind for kind in (BaseDocument, CalibrationDocument, AdapterDocument, FusedDocument)
}
"""The classes of documents in the order of recording: each after those it needs."""


class Package(Record):
    """A package: documents of a registry, as sent in a request."""

    format: str = FORMAT
    tool: str = described("the program that made it, with its version", most=LINE)
    registry: str = described("id of the registry that it comes from", most=36)
    made_at: datetime
    base: tuple[BaseDocument, ...] = ()
    calibration: tuple[CalibrationDocument, ...] = ()
    adapter: tuple[AdapterDocument, ...] = ()
    fused: tuple[FusedDocument, ...] = ()

    @property
    def documents(self) -> tuple[Item, ...]:
        """All documents in the order of recording."""
        return (*self.base, *self.calibration, *self.adapter, *self.fused)


def read_package(data: bytes) -> Package:
    """Return the package in a request or response."""
    try:
        document = parse_json(data, "the package", most=MOST_VALUES, deepest=2 * MAX_DEPTH)
    except FormatError as error:
        raise BadInputError(str(error)) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadInputError(f"invalid package (expected {FORMAT})", hint="update fusery on both sides")
    package: Package = read_document(Package, document)
    return package


def read_document(kind: type[Any], document: Any) -> Any:
    """Decode a document of a class from JSON, without validating its values."""
    try:
        return decode(kind, document)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        hint = "fusery audit, on the other registry"
        raise BadInputError(f"invalid package: {str(error)[:200]}", hint=hint) from error
