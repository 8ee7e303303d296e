"""Signing: a signature over a list of files, recorded and, for a path, written to a file beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fusery.storage.publishing import write_atomically

from ..dsse.envelope import BadSignatureError, parse_envelope, read_bytes
from ..dsse.keys import key_id, public_pem, read_private_key
from ..errors import AlreadyExistsError, BadInputError
from ..record import Record, described
from ..records.signatures import SCHEME, SIGSTORE
from ..wire import LongText
from .library import chain_of, sign_with_key, sign_with_sigstore, with_certificates
from .subject import Subject, find_subject
from .verify import beside_of

if TYPE_CHECKING:
    from .subject import SignatureLog

NO_PASSPHRASE = "the key is locked with a passphrase, and none was given"


def no_passphrase() -> bytes:
    """Refuse: the default for who gives a passphrase."""
    raise BadInputError(NO_PASSPHRASE, hint="--passphrase-file FILE, or FUSERY_KEY_PASSPHRASE")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What to sign with.

    Attributes:
        key: PEM file of a private key; without it, Sigstore.
        passphrase: returns the key's passphrase if the key needs one.
        certificate: PEM file of the certificate of the key.
        chain: PEM files of the certificates that vouch for that one.
        token: with Sigstore: of the identity, if it is not to be asked for.
    """

    key: Path | None = None
    passphrase: Callable[[], bytes] = no_passphrase
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Signed(Record):
    """A signature that was made.

    Attributes:
        recorded: it is on record; False where nothing of these files is.
        existed: it was on record already.
        output: the file it was written to, if any.
        public: the public key as PEM; empty for Sigstore, whose keys live for minutes.
    """

    subject: Subject = described("what was signed")
    key_id: str = described("id of the key")
    scheme: str = described("`model-signing` or `sigstore`")
    signature: bytes = described("the file's content")
    recorded: bool = False
    existed: bool = False
    output: Path | None = None
    public: str = ""
    KEYS: ClassVar[tuple[str, ...]] = (
        "kind",
        "name",
        "digest",
        "files",
        "scheme",
        "key_id",
        "recorded",
        "existed",
        "path",
    )

    @property
    def kind(self) -> str | None:
        """`adapter`, `fused` or `bundle`; None where nothing of these files is on record."""
        return self.subject.kind

    @property
    def name(self) -> str:
        """What people call that which was signed."""
        return self.subject.name

    @property
    def digest(self) -> str:
        """The digest of its list of files."""
        return self.subject.digest

    @property
    def files(self) -> int:
        """How many files it has."""
        return len(self.subject.files)

    @property
    def path(self) -> Path | None:
        """The file that the signature was written to, if any."""
        return self.output


def sign(
    registry: SignatureLog,
    text: str,
    with_key: SigningKey,
    *,
    output: Path | None = None,
    force: bool = False,
    at_server: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Signed:
    """Sign an adapter, a fused model or a bundle.

    A thing on record is signed by its recorded list of files, and nothing is read; what lies at a path is read and held
    against what it says of itself before.  The same key signs the same files once.

    Args:
        registry: what is on record.
        text: a reference, or a path.
        with_key: what to sign with.
        output: file for the signature; for a path, `PATH.sig` beside it by default.
        force: replace that file if it is something else than a signature.
        at_server: the registry is at a server, whose answer is compared with the reference.
        progress: called with the bytes read and the total, for a path.

    Raises:
        CheckFailedError: what lies at the path is damaged.
        BadInputError: the key cannot be used.
        AlreadyExistsError: the file for the signature is something else.
        ServerRefusedError: the server answered with something else than the reference means.
        MissingExtraError: model-signing is not installed.
    """
    subject = find_subject(registry, text, at_server=at_server, progress=progress)
    place = output or (beside_of(subject.path) if subject.path is not None else None)
    if place is not None and not force:
        _require_signature_or_nothing(place)
    made = _make(subject, with_key)
    if subject.kind is not None:
        recorded = registry.record_signature(
            subject.kind,
            subject.digest,
            key_id=made.key_id,
            scheme=made.scheme,
            envelope=LongText(made.signature.decode("ascii")),
            public=made.public,
        )
        made = replace(made, signature=recorded.envelope.encode(), recorded=True, existed=recorded.existed)
    if place is not None:
        write_atomically(place, made.signature, mode=0o644)
    return replace(made, output=place)


def _make(subject: Subject, chosen: SigningKey) -> Signed:
    called = subject.said + subject.name
    if chosen.key is None:
        data = sign_with_sigstore(called, subject.files, chosen.token)
        return Signed(subject, sigstore_identity(data), SIGSTORE, data)
    secrets: list[bytes] = []

    def remembered() -> bytes:
        secrets.append(chosen.passphrase())
        return secrets[0]

    private = read_private_key(chosen.key, remembered)
    public = public_pem(private.public_key())
    chain = _chain(chosen, public)
    data = sign_with_key(called, subject.files, chosen.key, secrets[0] if secrets else None)
    if chain:
        data = with_certificates(data, chain)
    return Signed(subject, key_id(private.public_key()), SCHEME, data, public=public)


def _chain(chosen: SigningKey, public: str) -> Sequence[bytes]:
    if chosen.certificate is None:
        return ()
    from ..dsse.keys import read_public_key

    if public_pem(read_public_key(chosen.certificate)) != public:
        raise BadInputError(f"{chosen.certificate.name} is not the certificate of this key")
    return chain_of(chosen.certificate, chosen.chain)


def sigstore_identity(signature: bytes) -> str:
    """Return whom Sigstore's certificate in a signature names, as `sigstore:IDENTITY`.

    Raises:
        BadSignatureError: the signature has no certificate that names anybody.
    """
    from cryptography.x509 import ExtensionNotFound, SubjectAlternativeName, load_der_x509_certificate

    envelope = parse_envelope(signature, "the new signature")
    if not envelope.certificates:
        raise BadSignatureError("Sigstore's signature has no certificate")
    try:
        certificate = load_der_x509_certificate(envelope.certificates[0])
        names = list(certificate.extensions.get_extension_for_class(SubjectAlternativeName).value)
    except (ValueError, ExtensionNotFound) as error:
        raise BadSignatureError("Sigstore's certificate cannot be read") from error
    if not names or not str(names[0].value).isprintable():
        raise BadSignatureError("Sigstore's certificate names nobody")
    return f"sigstore:{names[0].value}"[:200]


def _require_signature_or_nothing(place: Path) -> None:
    if place.is_dir():
        raise AlreadyExistsError(f"{place} is a folder", hint="-o FILE")
    if place.is_file():
        try:
            parse_envelope(read_bytes(place), place.name)
        except BadSignatureError as error:
            raise AlreadyExistsError(
                f"{place} is there and is no signature", hint="-o FILE, or --force to replace it"
            ) from error
