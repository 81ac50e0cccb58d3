"""Listeners with passwords and certificates for a test Kafka, and what a client needs for them."""

import datetime as dt
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.kafka_server import Listener

USERNAME = "relay"
PASSWORD = "not-a-secret"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """What goes into `KafkaServer(listeners=..., scram_users=...)`, and the client's files."""

    #: SCRAM (SASL_SSL, SCRAM-SHA-512), PLAIN (SASL_PLAINTEXT) and MTLS (SSL, client certificate).
    listeners: tuple[Listener, ...]
    scram_users: Mapping[str, str]
    ca_file: Path
    #: The client's certificate and its key, for MTLS; the broker sees it as `User:CN=relay`.
    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class _Issued:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def secure_listeners(directory: Path, *, plain: bool = False) -> Security:
    """Write the certificates into the directory and describe one listener of each kind.

    Plain ones lack what RFC 5280 wants and only a strict check misses.
    """
    authority = _issue("relay test authority", None, plain=plain)
    server, client = (_issue(name, authority, plain=plain) for name in ("127.0.0.1", USERNAME))
    ca_file = _write(directory / "ca.pem", _pem(authority.certificate))
    cert_file = _write(directory / "client.pem", _pem(client.certificate))
    key_file = _write(directory / "client.key", _key_pem(client.key), secret=True)
    keystore = _write(
        directory / "server.pem", _key_pem(server.key) + _pem(server.certificate), secret=True
    )
    tls = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ca_file),
    }
    return Security(
        listeners=(_scram(tls), _plain(), _mtls(tls)),
        scram_users={USERNAME: PASSWORD},
        ca_file=ca_file,
        cert_file=cert_file,
        key_file=key_file,
    )


def brief(listener: Listener, lifetime: int) -> Listener:
    """Give such a listener where a login holds for so many milliseconds only."""
    mechanism = listener.properties["sasl.enabled.mechanisms"].lower()
    brevity = {f"{mechanism}.connections.max.reauth.ms": str(lifetime)}
    return replace(
        listener, name=f"BRIEF{listener.name}", properties={**listener.properties, **brevity}
    )


def _scram(tls: Mapping[str, str]) -> Listener:
    login = {
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "scram-sha-512.sasl.jaas.config": f"{_SCRAM} required;",
    }
    return Listener(name="SCRAM", protocol="SASL_SSL", properties={**tls, **login})


def _plain() -> Listener:
    login = {
        "sasl.enabled.mechanisms": "PLAIN",
        "plain.sasl.jaas.config": f'{_PLAIN} required user_{USERNAME}="{PASSWORD}";',
    }
    return Listener(name="PLAIN", protocol="SASL_PLAINTEXT", properties=login)


def _mtls(tls: Mapping[str, str]) -> Listener:
    required = {"ssl.client.auth": "required"}
    return Listener(name="MTLS", protocol="SSL", properties={**tls, **required})


def _issue(common_name: str, authority: _Issued | None, *, plain: bool) -> _Issued:
    """A certificate for loopback: of the authority, or the authority's own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = dt.datetime.now(dt.UTC)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    signer = authority.key if authority else key
    # Python 3.13 verifies strictly: it wants both key identifiers and what the key is for.
    public, issuer = key.public_key(), signer.public_key()
    identifiers = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.certificate.subject if authority else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    if not plain:
        builder = (
            builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(identifiers, critical=False)
            .add_extension(_usage(signs_others=authority is None), critical=True)
        )
    return _Issued(builder.sign(signer, hashes.SHA256()), key)


def _usage(*, signs_others: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_others,
        crl_sign=signs_others,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, content: bytes, *, secret: bool = False) -> Path:
    path.write_bytes(content)
    path.chmod(0o600 if secret else 0o644)
    return path
