"""The errors of the registry: grouped by what the user does next."""

from __future__ import annotations

from typing import ClassVar, Literal

from fusery.storage.errors import FuseryError


class RegistryError(FuseryError):
    """Something about records rather than bytes."""


class BadInputError(RegistryError):
    """An argument, option or file that the user gave is not acceptable."""


class UnknownReferenceError(RegistryError):
    """A reference names nothing in this registry."""


class AmbiguousReferenceError(RegistryError):
    """A digest prefix matches more than one thing."""


class AlreadyExistsError(RegistryError):
    """A name or version is taken by something else."""


class MetricRecordedTwiceError(AlreadyExistsError):
    """Another value of the same metric is on record, measured on and with the same."""


class MetricNotFiniteError(BadInputError):
    """What is given as the value of a metric is NaN or infinite."""


class MetricOfOtherAdapterError(BadInputError):
    """Results say that they are of another registered adapter."""


class InvalidTokenError(RegistryError):
    """The token is unknown, revoked or expired (`why`); the message does not distinguish these.  `token` is its name."""

    code = "token_invalid"

    def __init__(self, why: Literal["unknown", "revoked", "expired"], token: str | None = None) -> None:
        super().__init__("this token is not valid", hint="ask an admin for a new one")
        self.why = why
        self.token = token


class RoleError(RegistryError):
    """The client is known, and its role does not allow the request."""

    code = "role_not_enough"


class AliasGuardedError(RegistryError):
    """An alias with rules is moved by a promotion only."""


class MissingExtraError(RegistryError):
    """An optional package is needed and not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs packages that are not installed", hint=f"pip install 'fusery[{extra}]'"
        )
        self.extra = extra


class MissingPartError(RegistryError):
    """A part of fusery is needed that this installation does not have."""

    def __init__(self, folder: str) -> None:
        super().__init__(
            f"this installation does not have fusery's part {folder!r}", hint="install all of fusery again"
        )


class FusionUnsupportedError(RegistryError):
    """This base, adapter or recipe is outside of what the engine can fuse exactly."""


class FidelityError(RegistryError):
    """A fuse lost the adapter and was not published."""

    code = "fidelity_lost"
    exit_code: ClassVar[int] = 1


class CheckFailedError(RegistryError):
    """A check ran to its end and found something wrong."""

    exit_code: ClassVar[int] = 1


class SchemaError(RegistryError):
    """The database is newer, older or other than this version of fusery expects."""


class UnreadableRecordError(RegistryError, ValueError):
    """A value in the database is invalid (a `ValueError`, so that loops over records skip it)."""

    code = "record_unreadable"


class DatabaseUnavailableError(RegistryError):
    """The database did not answer, or refused."""


class DatabaseReadOnlyError(DatabaseUnavailableError):
    """The database may be read by this user here, and not written."""


class LeaseLostError(RegistryError):
    """Another process took over while this one was too slow; nothing was published."""


class DepositLostError(RegistryError):
    """Blobs were collected while they were being stored, because their storing took too long; nothing was recorded."""


class RebuildDiffersError(RegistryError):
    """A fused artifact was built again and came out different from its record."""

    exit_code: ClassVar[int] = 1


class ModelUnusableError(RegistryError):
    """A model or an adapter cannot be loaded or run by mlx-lm."""


class TrainingFailedError(RegistryError):
    """The trainer raised an error; what it had saved until then is in its folder."""

    exit_code: ClassVar[int] = 1


class UploadBusyError(RegistryError):
    """The same bytes are arriving at this moment, under the same name."""


class UploadOffsetError(RegistryError):
    """An upload is gone on with at another place than where it stopped."""


class UploadTooLargeError(RegistryError):
    """A blob is larger than a server takes."""


class BlobsMissingError(RegistryError):
    """Records came to a server before the bytes that they are of."""


class ServerUnavailableError(RegistryError):
    """A server for a registry did not answer, or not in full."""


class ServerRefusedError(RegistryError):
    """A server for a registry refused what was asked."""


class WhereError(BadInputError):
    """A `--where` expression cannot be understood."""

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
