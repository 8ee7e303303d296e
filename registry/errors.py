"""The errors of the registry: grouped by what the user does next."""

from __future__ import annotations

from typing import ClassVar, Literal

from fusery.storage.errors import FuseryError


class RegistryError(FuseryError):
    """Something about records rather than bytes."""

    code = "registry"


class BadInputError(RegistryError):
    """An argument, option or file that the user gave is not acceptable."""

    code = "bad_input"


class UnknownReferenceError(RegistryError):
    """A reference names nothing in this registry."""

    code = "unknown_reference"


class AmbiguousReferenceError(RegistryError):
    """A digest prefix matches more than one thing."""

    code = "ambiguous_reference"


class AlreadyExistsError(RegistryError):
    """A name or version is taken by something else."""

    code = "already_exists"


class MetricRecordedTwiceError(AlreadyExistsError):
    """Another value of the same metric is on record, measured on and with the same."""

    code = "metric_recorded_twice"


class MetricNotFiniteError(BadInputError):
    """What is given as the value of a metric is NaN or infinite."""

    code = "metric_not_finite"


class MetricOfOtherAdapterError(BadInputError):
    """Results say that they are of another registered adapter."""

    code = "metric_of_other_adapter"


class InvalidTokenError(RegistryError):
    """The secret of a token is not, or no longer, one of this registry's; its sentence tells nobody which.

    Attributes:
        why: `unknown`, `revoked` or `expired`, for a log.
        token: name of the token; None if it is unknown.
    """

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

    code = "alias_guarded"


class MissingExtraError(RegistryError):
    """An optional package is needed and not installed.

    Attributes:
        extra: the extra of the `fusery` distribution that brings it.
    """

    code = "missing_extra"

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs packages that are not installed",
            hint=f"pip install 'fusery[{extra}]'",
        )
        self.extra = extra


class FusionUnsupportedError(RegistryError):
    """This base, adapter or recipe is outside of what the engine can fuse exactly."""

    code = "fusion_unsupported"


class FidelityError(RegistryError):
    """A fuse lost the adapter and was not published."""

    code = "fidelity_lost"
    exit_code: ClassVar[int] = 1


class CheckFailedError(RegistryError):
    """A check ran to its end and found something wrong."""

    code = "check_failed"
    exit_code: ClassVar[int] = 1


class SchemaError(RegistryError):
    """The database is newer, older or other than this version of fusery expects."""

    code = "schema"


class UnreadableRecordError(RegistryError, ValueError):
    """A value in the database is none that fusery writes there.

    A `ValueError`, so that who goes through many records passes over it like over any other value that is none.
    """

    code = "record_unreadable"


class DatabaseUnavailableError(RegistryError):
    """The database did not answer, or refused."""

    code = "database_unavailable"


class DatabaseReadOnlyError(DatabaseUnavailableError):
    """The database may be read by this user here, and not written."""

    code = "database_read_only"


class LeaseLostError(RegistryError):
    """Another process took over while this one was too slow; nothing was published."""

    code = "lease_lost"


class DepositLostError(RegistryError):
    """Blobs were collected while they were being stored, because their storing took too long; nothing was recorded."""

    code = "deposit_lost"


class RebuildDiffersError(RegistryError):
    """A fused artifact was built again and came out different from its record."""

    code = "rebuild_differs"
    exit_code: ClassVar[int] = 1


class ModelUnusableError(RegistryError):
    """A model or an adapter cannot be loaded or run by mlx-lm."""

    code = "model_unusable"


class TrainingFailedError(RegistryError):
    """The trainer raised an error; what it had saved until then is in its folder."""

    code = "training_failed"
    exit_code: ClassVar[int] = 1


class BuildFailedError(RegistryError):
    """A container engine did not build a bundle's image; the bundle itself is complete."""

    code = "build_failed"
    exit_code: ClassVar[int] = 1


class UploadBusyError(RegistryError):
    """The same bytes are arriving at this moment, under the same name."""

    code = "upload_busy"


class UploadOffsetError(RegistryError):
    """An upload is gone on with at another place than where it stopped."""

    code = "upload_offset"


class UploadTooLargeError(RegistryError):
    """A blob is larger than a server takes."""

    code = "upload_too_large"


class BlobsMissingError(RegistryError):
    """Records came to a server before the bytes that they are of."""

    code = "blobs_missing"


class ServerUnavailableError(RegistryError):
    """A server for a registry did not answer, or not in full."""

    code = "server_unavailable"


class ServerRefusedError(RegistryError):
    """A server for a registry refused what was asked."""

    code = "server_refused"
