"""`fusery server` as a process: tokens from the command line are what it lets in, over TLS if it has a certificate."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import printed_documents
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from page_process import running
from page_server import ask

from .conftest import Fusery


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine, and return its file and that of its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return public, private


def test_a_token_of_the_command_line_is_let_in_until_it_is_revoked(fusery: Fusery, tmp_path: Path) -> None:
    assert fusery("init").code == 0
    secret = json.loads(fusery("token", "create", "ci", "--role", "reader", "--json").out)["secret"]
    with running(tmp_path / "home", "server", "--port", "0", "--json") as (process, printed):
        found = json.loads(printed)
        printed_documents.require("server", found)
        address, borne = found["url"], {"authorization": f"Bearer {secret}"}
        assert ask(address, "/api/v1/tasks").status == 401
        assert ask(address, "/api/v1/tasks", **borne).json["tasks"] == []
        assert fusery("token", "revoke", "ci").code == 0
        assert ask(address, "/api/v1/tasks", **borne).status == 401
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0
        assert secret not in said and "Traceback" not in said


def test_over_tls(fusery: Fusery, tmp_path: Path) -> None:
    assert fusery("init").code == 0
    secret = json.loads(fusery("token", "create", "ci", "--role", "reader", "--json").out)["secret"]
    public, private = certificate(tmp_path)
    words = ["server", "--port", "0", "--json", "--certificate", str(public), "--key", str(private)]
    with running(tmp_path / "home", *words) as (_, printed):
        url = urlsplit(json.loads(printed)["url"])
        assert url.scheme == "https"
        context = ssl.create_default_context(cafile=str(public))
        connection = http.client.HTTPSConnection(url.hostname or "", url.port, context=context, timeout=60)
        connection.request("GET", "/api/v1/tasks", headers={"Authorization": f"Bearer {secret}"})
        assert json.load(connection.getresponse())["tasks"] == []
        form = f"token={secret}"
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/sign-in", form, kind)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 303 and "; Secure" in (answer.getheader("set-cookie") or "")
        connection.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--host", "0.0.0.0"], "fusery token create"),
        (["--host", "192.0.2.7", "--insecure-http"], "fusery token create"),
        (["--proxy", "somewhere"], "not an address"),
        (["--certificate", "CERTIFICATE"], "go together"),
        (["--host", "no such host"], "fusery token create"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    fusery: Fusery, tmp_path: Path, words: list[str], said: str
) -> None:
    assert fusery("init").code == 0
    public, _ = certificate(tmp_path)
    ran = fusery("server", "--port", "0", *(str(public) if word == "CERTIFICATE" else word for word in words))
    assert (ran.code, said in ran.err, "Traceback" in ran.err) == (2, True, False), ran.err


def test_a_certificate_that_is_none_is_one_sentence(fusery: Fusery, tmp_path: Path) -> None:
    assert fusery("init").code == 0
    (tmp_path / "none.pem").write_text("nothing")
    none = str(tmp_path / "none.pem")
    ran = fusery("server", "--port", "0", "--certificate", none, "--key", none)
    assert (ran.code, "none.pem" in ran.err, "Traceback" in ran.err) == (2, True, False), ran.err
