"""The errors of the registry: grouped by what the user does next."""

from __future__ import annotations

from typing import ClassVar, Literal

from fusery.storage.errors import FuseryError


class RegistryError(FuseryError):
    """A record, a reference or a request is invalid."""


class BadInputError(RegistryError):
    """An argument, an option or an input file is invalid."""


class UnknownReferenceError(RegistryError):
    """The reference was not found in this registry."""


class AmbiguousReferenceError(RegistryError):
    """A reference matches several records."""


class AlreadyExistsError(RegistryError):
    """The name or version is already taken."""


class MetricRecordedTwiceError(AlreadyExistsError):
    """A different value is recorded for this metric, dataset, split, harness and seed."""


class MetricNotFiniteError(BadInputError):
    """The value of a metric is NaN or infinite."""


class MetricOfOtherAdapterError(BadInputError):
    """The results file names another registered adapter."""


class InvalidTokenError(RegistryError):
    """The token is unknown, revoked or expired; the message does not say which."""

    code = "token_invalid"

    def __init__(self, why: Literal["unknown", "revoked", "expired"], token: str | None = None) -> None:
        super().__init__("this token is not valid", hint="ask an admin for a new one")
        self.why = why
        self.token = token


class RoleError(RegistryError):
    """The client's role does not allow the request."""

    code = "role_not_enough"


class AliasGuardedError(RegistryError):
    """An alias with rules can only be moved by a promotion."""


class MissingExtraError(RegistryError):
    """The command needs an optional package that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        hint = f"pip install 'fusery[{extra}]'"
        super().__init__(f"{feature} needs packages that are not installed", hint=hint)
        self.extra = extra


class MissingPartError(RegistryError):
    """The command needs a part of fusery that is not installed."""

    def __init__(self, folder: str) -> None:
        super().__init__(f"fusery's part {folder!r} is not installed", hint="install all of fusery again")


class FusionUnsupportedError(RegistryError):
    """The engine cannot fuse this base, adapter or recipe exactly."""


class FidelityError(RegistryError):
    """The fused model lost too much of the adapter, and was not published."""

    code = "fidelity_lost"
    exit_code: ClassVar[int] = 1


class CheckFailedError(RegistryError):
    """A record, a file or a server's answer failed a check."""

    exit_code: ClassVar[int] = 1


class SchemaError(RegistryError):
    """The database has another schema than this version of fusery expects."""


class UnreadableRecordError(RegistryError, ValueError):  # loops over records skip a ValueError
    """A value in the database is invalid."""

    code = "record_unreadable"


class DatabaseUnavailableError(RegistryError):
    """The database did not answer, or refused the connection."""


class DatabaseReadOnlyError(DatabaseUnavailableError):
    """This user may not write to the database."""


class LeaseLostError(RegistryError):
    """Another process took the lease because this one was too slow; nothing was published."""


class DepositLostError(RegistryError):
    """`admin gc` removed blobs of an upload that took too long; nothing was recorded."""


class RebuildDiffersError(RegistryError):
    """A rebuilt fused model differs from its record."""

    exit_code: ClassVar[int] = 1


class ModelUnusableError(RegistryError):
    """The model, the adapter or the template cannot be run."""


class TrainingFailedError(RegistryError):
    """The trainer failed; the checkpoints that it saved are in the run's folder."""

    exit_code: ClassVar[int] = 1


class UploadBusyError(RegistryError):
    """Another upload of the same blob is in progress."""


class UploadOffsetError(RegistryError):
    """The upload resumed at the wrong offset."""


class UploadTooLargeError(RegistryError):
    """The blob exceeds the server's size limit."""


class BlobsMissingError(RegistryError):
    """A client sent records before it uploaded their files."""


class ServerUnavailableError(RegistryError):
    """The fusery server did not answer, or its answer was incomplete."""


class ServerRefusedError(RegistryError):
    """The fusery server refused the request."""


class WhereError(BadInputError):
    """A `--where` expression is invalid."""

    code = "bad_expression"
    _AROUND: ClassVar[int] = 60

    def __init__(self, message: str, expression: str, position: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        start, end = max(0, position - self._AROUND), position + self._AROUND
        before, after = _printable(expression[start:position]), _printable(expression[position:end])
        self.position = position
        self.excerpt = (
            ("..." if start else "") + before + after + ("..." if end < len(expression) else ""),
            " " * (len(before) + 3 * bool(start)) + "^",
        )


def _printable(text: str) -> str:
    # One column for each character, so that the caret is under its place.
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)
