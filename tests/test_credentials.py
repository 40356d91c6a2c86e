"""Who signs: the user's certificate, checked before it is used, or a test certificate of this machine."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from styleblend.config.provenance import Provenance
from styleblend.provenance import credentials
from styleblend.provenance.credentials import CredentialsError

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a usable pair: certificate.pem and private_key.pem."""
    credentials.of_this_machine(tmp_path / "pair")
    return tmp_path / "pair"


def refused(folder: Path, algorithm: str = "es256") -> str:
    """The line with which a pair is refused."""
    with pytest.raises(CredentialsError) as caught:
        credentials.load(folder / "certificate.pem", folder / "private_key.pem", algorithm)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_test_certificate_is_made_once_and_kept_private(folder: Path) -> None:
    """The key can be read by its owner only; the authority's key is nowhere; a second use finds the first pair."""
    first = credentials.of_this_machine(folder)
    assert stat.S_IMODE((folder / "private_key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sum(path.read_bytes().count(b"PRIVATE KEY-----\n") for path in folder.iterdir()) == 2
    assert credentials.of_this_machine(folder) == first
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    """Whoever is first makes the pair; nobody signs with a key whose certificate was replaced."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(credentials.of_this_machine, [tmp_path / "pair"] * 8))
    assert len({(each.chain, each.private_key) for each in made}) == 1


def test_an_expired_test_certificate_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has nothing to renew."""
    with monkeypatch.context() as patch:
        patch.setattr(credentials, "_TEST_VALIDITY", timedelta(minutes=30))
        credentials._make_test_credentials(tmp_path / "pair")
    before = (tmp_path / "pair/certificate.pem").read_bytes()
    assert "expired on" in refused(tmp_path / "pair")
    assert credentials.of_this_machine(tmp_path / "pair").chain != before


def test_the_certificate_says_that_it_is_a_test(folder: Path) -> None:
    """Whoever looks at a signature reads what it is worth."""
    signer, authority = x509.load_pem_x509_certificates(credentials.of_this_machine(folder).chain)
    signer.verify_directly_issued_by(authority)
    assert credentials.TEST_ISSUER in signer.issuer.rfc4514_string()


def test_where_nothing_can_be_written_the_remedy_is_named(tmp_path: Path) -> None:
    """One line: the place, the reason, and that an own certificate would do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CredentialsError, match=r"file/pair: .*kept there \(.+\).*provenance\.certificate"):
        credentials.of_this_machine(tmp_path / "file/pair")


def test_configured_credentials_take_the_place_of_the_test_certificate(folder: Path, tmp_path: Path) -> None:
    """Files that are named are used, with algorithm and timestamps; otherwise a test certificate is made."""
    own = Provenance(
        certificate=folder / "certificate.pem",
        private_key=folder / "private_key.pem",
        timestamp_url="http://tsa.invalid",
    )
    used = credentials.of(own, tmp_path / "unused")
    assert used.chain == (folder / "certificate.pem").read_bytes()
    assert used.timestamp_url == "http://tsa.invalid"
    assert not (tmp_path / "unused").exists()
    assert credentials.of(Provenance(), tmp_path / "made").timestamp_url is None
    assert (tmp_path / "made").is_dir()


def test_missing_and_unusable_files_are_named(folder: Path) -> None:
    """The line names the setting or file, and what belongs there."""
    certificate, key = folder / "certificate.pem", folder / "private_key.pem"
    pem = key.read_bytes()
    key.write_text("no key")
    assert "private_key.pem holds no private key" in refused(folder)
    key.unlink()
    assert "provenance.private_key" in refused(folder)
    key.write_bytes(pem)
    certificate.write_text("no certificate")
    assert "certificate.pem holds no certificate" in refused(folder)
    certificate.unlink()
    assert "provenance.certificate" in refused(folder)


def test_a_key_that_does_not_fit_is_refused(folder: Path) -> None:
    """A key of another certificate, a locked one, and an algorithm for other keys: each is said, none is tried."""
    assert "es384 does not fit" in refused(folder, "es384")
    assert "set it to es256" in refused(folder, "ed25519")
    key = folder / "private_key.pem"
    own = serialization.load_pem_private_key(key.read_bytes(), password=None)
    key.write_bytes(own.private_bytes(PEM, PKCS8, serialization.BestAvailableEncryption(b"secret")))
    assert "locked by a password" in refused(folder)
    other = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(other.private_bytes(PEM, PKCS8, serialization.NoEncryption()))
    assert "is not the key of" in refused(folder)
    wrong_kind = ed25519.Ed25519PrivateKey.generate()
    key.write_bytes(wrong_kind.private_bytes(PEM, PKCS8, serialization.NoEncryption()))
    assert "is not the key of" in refused(folder)


def test_a_key_is_in_no_representation_and_no_message(folder: Path) -> None:
    """Neither printing credentials nor any refusal shows a line of the key."""
    found = credentials.of_this_machine(folder)
    secret = found.private_key.decode().splitlines()[1]
    assert secret not in repr(found)
    (folder / "certificate.pem").write_bytes(found.private_key)
    assert secret not in refused(folder)
