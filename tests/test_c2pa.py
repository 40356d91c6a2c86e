"""Signed manifests: what they say, and that a changed file is noticed. c2pa's own reader is the judge."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.provenance import FileFormat, manifest, marked_picture, xmp
from styleblend.provenance.credentials import TEST_ISSUER, Credentials, _test_chain, of_this_machine

MODEL = "styleblend version 3"


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return of_this_machine(tmp_path_factory.mktemp("signer") / "pair")


def marked(credentials: Credentials, file_format: FileFormat, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return marked_picture(Image.fromarray(pixels), file_format, model=MODEL, kind="swap", credentials=credentials)


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Names and whole bytes of a PNG file's chunks."""
    found, place = [], 8
    while place < len(png):
        end = place + 12 + struct.unpack(">I", png[place : place + 4])[0]
        found.append((png[place + 4 : place + 8], png[place:end]))
        place = end
    return found


@pytest.mark.parametrize(("file_format", "mime"), [("PNG", "image/png"), ("JPEG", "image/jpeg")])
def test_a_signed_picture_validates(credentials: Credentials, file_format: FileFormat, mime: str) -> None:
    """All holds but trust, which a test certificate does not deserve; the model and the source type are named."""
    content = marked(credentials, file_format)
    with c2pa.Reader(mime, io.BytesIO(content)) as reader:
        assert reader.get_validation_state() == "Valid"
        results = reader.get_validation_results()
    assert results is not None
    assert [each["code"] for each in results["activeManifest"]["failure"]] == ["signingCredential.untrusted"]
    found = manifest.read(content, mime)
    assert (found.state, found.trusted, found.test_certificate, found.problems) == ("valid", False, True, ())
    assert (found.model, found.generator) == (MODEL, "StyleBlend")
    assert found.source_type == xmp.SOURCE_TYPE + "compositeWithTrainedAlgorithmicMedia"
    assert TEST_ISSUER in (found.signer or "")


def test_a_trusted_authority_makes_the_signature_trusted(credentials: Credentials, tmp_path: Path) -> None:
    """Trust is the reader's choice: the same file is trusted by whoever names its authority, and by nobody else."""
    content = marked(credentials, "PNG")
    (tmp_path / "own.pem").write_bytes(credentials.chain)
    stranger = of_this_machine(tmp_path / "stranger")
    (tmp_path / "other.pem").write_bytes(stranger.chain)
    assert manifest.read(content, "image/png", tmp_path / "own.pem").trusted
    assert not manifest.read(content, "image/png", tmp_path / "other.pem").trusted
    with pytest.raises(StyleBlendError, match=r"absent\.pem.*name a PEM file"):
        manifest.read(content, "image/png", tmp_path / "absent.pem")


def test_changed_pixels_are_reported(credentials: Credentials) -> None:
    """The manifest of one picture on the pixels of another, and one changed byte in a JPEG, are both `altered`."""
    mine, other = marked(credentials, "PNG"), marked(credentials, "PNG", seed=1)
    body = next(chunk for name, chunk in chunks(other) if name == b"IDAT")
    forged = mine[:8] + b"".join(body if name == b"IDAT" else chunk for name, chunk in chunks(mine))
    assert Image.open(io.BytesIO(forged)).convert("RGB").tobytes() == Image.open(io.BytesIO(other)).tobytes()
    assert manifest.read(forged, "image/png").state == "altered"
    photo = bytearray(marked(credentials, "JPEG"))
    photo[-200] ^= 1
    assert manifest.read(bytes(photo), "image/jpeg").state == "altered"


def test_changed_xmp_is_reported(credentials: Credentials) -> None:
    """The signature covers the other metadata, so that a name in it cannot be exchanged."""
    forged = marked(credentials, "JPEG").replace(
        b"StyleBlend, styleblend version 3", b"StyleBlend, styleblend version 4"
    )
    assert manifest.read(forged, "image/jpeg").state == "altered"


def test_a_damaged_manifest_is_a_finding_not_an_error(credentials: Credentials) -> None:
    """Bytes that are no manifest any more are told from a file that never had one."""
    content = marked(credentials, "PNG")
    chunk = next(chunk for name, chunk in chunks(content) if name == b"caBX")
    damaged = content.replace(chunk[8:200], bytes(192))
    assert manifest.read(damaged, "image/png").state == "invalid"
    bare = io.BytesIO()
    Image.new("RGB", (8, 8)).save(bare, "PNG")
    assert manifest.read(bare.getvalue(), "image/png") == manifest.Reading("none")
    assert manifest.read(b"BM", "image/bmp") == manifest.Reading("none")


@pytest.mark.parametrize("algorithm", ["es384", "es512", "ps256", "ed25519"])
def test_other_algorithms_sign(algorithm: str) -> None:
    """Every kind of key that the setting names signs, and is read as valid."""
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
    if algorithm == "ps256":
        key = rsa.generate_private_key(65537, 2048)
    elif algorithm == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = ec.generate_private_key({"es384": ec.SECP384R1(), "es512": ec.SECP521R1()}[algorithm])
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    own = Credentials(_test_chain(key.public_key()), secret, algorithm, "own.pem")
    assert manifest.read(marked(own, "PNG"), "image/png").state == "valid"


def test_a_certificate_that_c2pa_refuses_is_one_line(credentials: Credentials) -> None:
    """A chain whose signer may not sign documents is named, with the reason and without the key."""
    authority = x509.load_pem_x509_certificates(credentials.chain)[1]
    key = ec.generate_private_key(ec.SECP256R1())
    plain = (
        x509.CertificateBuilder()
        .subject_name(authority.subject)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(authority.not_valid_before_utc)
        .not_valid_after(authority.not_valid_after_utc)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    own = Credentials(plain.public_bytes(serialization.Encoding.PEM), secret, "es256", "plain.pem")
    with pytest.raises(StyleBlendError, match=r"C2PA cannot sign with plain\.pem") as caught:
        marked(own, "PNG")
    assert "\n" not in str(caught.value)
    assert secret.decode().splitlines()[1] not in str(caught.value)


def test_pictures_of_others_are_understood(tmp_path: Path) -> None:
    """XMP that keeps the source type in an element instead of an attribute is read all the same."""
    other = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        f"<e:DigitalSourceType>{xmp.SOURCE_TYPE}trainedAlgorithmicMedia</e:DigitalSourceType>"
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", xmp=other.encode())
    with xmp.opened(tmp_path / "a.jpg") as image:
        assert xmp.read_properties(image) == {"source_type": xmp.SOURCE_TYPE + "trainedAlgorithmicMedia"}
    assert xmp.read_marks(tmp_path / "a.jpg") == {}
