"""Whom TLS trusts: a file, all files of a directory, or the system."""

import shutil
import ssl
from pathlib import Path

import pytest

from relay.settings.certificates import Certificates
from tests.kafka_security import secure_listeners


def test_file_is_the_only_authority(tmp_path: Path) -> None:
    security = secure_listeners(tmp_path)
    context = Certificates(authority=security.ca_file).context()
    assert len(context.get_ca_certs()) == 1
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_system_is_trusted_where_nobody_is_named() -> None:
    assert Certificates().context().get_ca_certs() == (ssl.create_default_context().get_ca_certs())


def test_all_authorities_of_a_directory_are_trusted(tmp_path: Path) -> None:
    """As in Strimzi's Secret while an authority is replaced: also the one before."""
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    for name in ("ca-2026-11-30T01-02-03Z.crt", "ca.crt", "another.pem"):
        shutil.copy(secure_listeners(tmp_path).ca_file, trusted / name)
    (trusted / "ca.p12").write_bytes(b"\x00\x01")
    (trusted / "ca.password").write_text("secret")
    assert len(Certificates(authority=trusted).context().get_ca_certs()) == 3


@pytest.mark.parametrize("name", ["ca.p12", "ca.crt.old"])
def test_directory_without_an_authority_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(FileNotFoundError, match=r"no \.crt or \.pem"):
        Certificates(authority=tmp_path).context()


def test_one_file_that_is_none_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(ssl.SSLError):
        Certificates(authority=tmp_path).context()
