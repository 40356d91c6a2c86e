"""Signing credentials: the user's own certificate, or a self-made test certificate of this machine.

The content of a private key appears in no message, repr or log.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from styleblend.config.provenance import Provenance
from styleblend.errors import StyleBlendError

TEST_ISSUER = "StyleBlend test certificate"
"""Organisation in every test certificate: such a signature is not to be trusted."""

TEST_FOLDER = Path(".state/provenance")
_TEST_VALIDITY = timedelta(days=3650)
_KEY_USAGES = (
    "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
    "encipher_only decipher_only"
)
_CURVES = {"es256": "secp256r1", "es384": "secp384r1", "es512": "secp521r1"}


class CredentialsError(StyleBlendError):
    """Certificate and key cannot be used; the message names the file."""


@dataclass(frozen=True)
class Credentials:
    """Certificate chain and key that sign a manifest."""

    chain: bytes
    """PEM certificates, the signer's first, each followed by its issuer's."""
    private_key: bytes = field(repr=False)
    algorithm: str
    """As provenance.algorithm in params.yaml, for example `es256`."""
    origin: str
    """Path of the certificate, for messages."""
    timestamp_url: str | None = None


def of(cfg: Provenance, test_folder: Path = TEST_FOLDER) -> Credentials:
    """Load the configured credentials, else this machine's test credentials.

    Raises:
        CredentialsError: a file is missing or unusable, key and certificate do not fit, or it has expired.
    """
    if cfg.certificate is None or cfg.private_key is None:
        return of_this_machine(test_folder)
    return load(cfg.certificate, cfg.private_key, cfg.algorithm, cfg.timestamp_url)


def load(certificate: Path, private_key: Path, algorithm: str, timestamp_url: str | None = None) -> Credentials:
    """Load credentials from two PEM files; checks that they belong together and are valid now.

    Raises:
        CredentialsError: a file is missing or unusable, key and certificate do not fit, or it has expired.
    """
    chain = _read(certificate, "provenance.certificate", "a certificate chain, the signer's own first")
    key = _read(private_key, "provenance.private_key", "the certificate's private key")
    signer = _signer(chain, certificate)
    _expect_valid_now(signer, certificate)
    _expect_fit(signer, key, private_key, certificate, algorithm)
    return Credentials(chain, key, algorithm, str(certificate), timestamp_url)


def of_this_machine(folder: Path = TEST_FOLDER) -> Credentials:
    """Load the test credentials in `folder`; they are made at first use and again when they expire.

    A temporary authority issues the certificate; its key is never written. Only the owner can read the signer's key.

    Raises:
        CredentialsError: the folder cannot be written, or holds no such pair.
    """
    certificate, private_key = folder / "certificate.pem", folder / "private_key.pem"
    try:
        if certificate.is_file() and _expired(_signer(certificate.read_bytes(), certificate)):
            shutil.rmtree(folder)
        if not folder.exists():
            _make_test_credentials(folder)
        return load(certificate, private_key, "es256")
    except OSError as error:
        raise CredentialsError(
            f"{folder}: the test certificate cannot be kept there ({error.strerror}); run where you may write, or "
            "name your own as provenance.certificate and provenance.private_key"
        ) from None


def _read(path: Path, setting: str, holding: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{setting} {path}: {error.strerror}; name a PEM file with {holding}") from None


def _signer(chain: bytes, path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(chain)[0]
    except ValueError:
        remedy = "give a chain, the signer's own certificate first"
        raise CredentialsError(f"{path} holds no certificate in PEM form: {remedy}") from None


def _expired(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_after_utc < datetime.now(UTC)


def _expect_valid_now(certificate: x509.Certificate, path: Path) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if _expired(certificate):
        raise CredentialsError(f"{path} expired on {end:%Y-%m-%d}: give a renewed one")
    if start > datetime.now(UTC):
        raise CredentialsError(f"{path} is valid from {start:%Y-%m-%d} only: give one that is valid today")


def _expect_fit(
    certificate: x509.Certificate, private_key: bytes, key_path: Path, certificate_path: Path, algorithm: str
) -> None:
    try:
        key = serialization.load_pem_private_key(private_key, password=None)
    except TypeError:
        remedy = "give an unlocked key in a file that only you can read"
        raise CredentialsError(f"{key_path} is locked by a password: {remedy}") from None
    except (ValueError, UnsupportedAlgorithm):
        remedy = "give the key of the certificate"
        raise CredentialsError(f"{key_path} holds no private key in PEM form: {remedy}") from None
    if key.public_key() != certificate.public_key():
        raise CredentialsError(f"{key_path} is not the key of {certificate_path}: give the two that belong together")
    if isinstance(key, ec.EllipticCurvePrivateKey):
        possible = [name for name, curve in _CURVES.items() if curve == key.curve.name]
    elif isinstance(key, rsa.RSAPrivateKey):
        possible = ["ps256", "ps384", "ps512"]
    else:
        possible = ["ed25519"] if isinstance(key, ed25519.Ed25519PrivateKey) else []
    if algorithm not in possible:
        choice = f"set it to {' or '.join(possible)}" if possible else "C2PA knows no algorithm for this kind of key"
        raise CredentialsError(f"provenance.algorithm {algorithm} does not fit {key_path}: {choice}")


def _make_test_credentials(folder: Path) -> None:
    """Write both files atomically; the pair of a faster process is kept."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A folder of mkdtemp is accessible to its owner only.
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (partial / "certificate.pem").write_bytes(_test_chain(key.public_key()))
        handle = os.open(partial / "private_key.pem", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        try:
            # rename replaces an empty folder only, so the first of several processes wins.
            os.rename(partial, folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _test_chain(public_key: ec.EllipticCurvePublicKey) -> bytes:
    """A signer's certificate with the key usage that C2PA requires, and its issuer's."""

    def name(common: str) -> x509.Name:
        parts = ((NameOID.ORGANIZATION_NAME, TEST_ISSUER), (NameOID.COMMON_NAME, common))
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in parts])

    def usage(*granted: str) -> x509.KeyUsage:
        return x509.KeyUsage(**{name: name in granted for name in _KEY_USAGES.split()})

    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = name("authority of this machine")
    # Clocks differ: the certificate must be valid on a machine whose clock is slow.
    start = datetime.now(UTC) - timedelta(hours=1)

    def draft(subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + _TEST_VALIDITY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )

    authority = (
        draft(authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    signer = (
        draft(name("signer of this machine"), public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (signer, authority))
