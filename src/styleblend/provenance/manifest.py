"""The signed mark: a C2PA manifest in the file, by c2pa-python. Only a configured timestamp server is contacted."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import c2pa

from styleblend.errors import StyleBlendError
from styleblend.provenance import credentials as signing
from styleblend.provenance import xmp

_ACTIONS = ("c2pa.actions", "c2pa.actions.v2")
_MADE: dict[xmp.Kind, str] = {
    "swap": "AI-made: {model} put another person's face into this picture",
    "grid": "AI-made: results of {model}",
    "rendered": "made by {model}",
}


@dataclass(frozen=True)
class Reading:
    """A file's manifest and the result of its validation."""

    state: Literal["none", "valid", "altered", "invalid"]
    """`altered`: the file changed after signing. `invalid`: broken or wrongly signed, see `problems`."""
    trusted: bool = False
    """Whether the signer's certificate chains to one of the reader's trust anchors."""
    signer: str | None = None
    test_certificate: bool = False
    """Whether the signer's certificate names itself as a test certificate of this project."""
    generator: str | None = None
    model: str | None = None
    source_type: str | None = None
    problems: tuple[str, ...] = ()
    """C2PA's codes of failed checks, except trust."""


def signed(
    content: bytes,
    file_format: Literal["PNG", "JPEG"],
    *,
    model: str,
    kind: xmp.Kind,
    credentials: signing.Credentials | None = None,
) -> bytes:
    """Add a signed manifest, which names the model and declares the picture AI-made, to a picture file.

    Args:
        credentials: None is the test certificate of this machine.
    Raises:
        StyleBlendError: C2PA does not accept the certificate, or the timestamp server does not answer.
    """
    mime, signer_of = f"image/{file_format.lower()}", credentials or signing.of_this_machine()
    created = {
        "action": "c2pa.created",
        "digitalSourceType": xmp.source_type(kind),
        "softwareAgent": {"name": "StyleBlend", "version": model},
        "description": _MADE[kind].format(model=model),
    }
    definition = {
        "claim_generator_info": [{"name": "StyleBlend"}],
        "format": mime,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }
    signed_content = io.BytesIO()
    try:
        info = c2pa.C2paSignerInfo(signer_of.algorithm, signer_of.chain, signer_of.private_key, signer_of.timestamp_url)
        with (
            _context() as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder.from_json(json.dumps(definition), context=context) as builder,
        ):
            builder.sign(signer, mime, io.BytesIO(content), signed_content)
    except c2pa.C2paError as error:
        raise StyleBlendError(
            f"C2PA cannot sign with {signer_of.origin} ({' '.join(str(error).split())}): give a chain and key that "
            "C2PA accepts for signing, or leave out provenance.certificate and provenance.private_key"
        ) from None
    return signed_content.getvalue()


def read(content: bytes, mime: str, anchors: Path | None = None) -> Reading:
    """Read and validate the manifest of a file of any format that C2PA knows.

    Args:
        anchors: trusted PEM certificates; None trusts nobody. No network is used.
    Raises:
        StyleBlendError: `anchors` cannot be read.
    """
    try:
        trusted = None if anchors is None else anchors.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StyleBlendError(f"{anchors}: {error}; name a PEM file with the certificates that you trust") from None
    try:
        with _context(trusted) as context, c2pa.Reader(mime, io.BytesIO(content), context=context) as reader:
            return _reading(json.loads(reader.json()))
    except (c2pa.C2paError.ManifestNotFound, c2pa.C2paError.NotSupported):
        return Reading("none")
    except c2pa.C2paError as error:
        return Reading("invalid", problems=(" ".join(str(error).split()),))


def _context(anchors: str | None = None) -> c2pa.Context:
    """c2pa with network access and thumbnails switched off."""
    settings: dict[str, Any] = {
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
        "builder": {"thumbnail": {"enabled": False}},
    }
    if anchors is not None:
        settings["trust"] = {"trust_anchors": anchors}
    return c2pa.Context.from_dict(settings)


def _reading(store: dict[str, Any]) -> Reading:
    active = store["manifests"][store["active_manifest"]]
    failures = store.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    problems = tuple(each["code"] for each in failures if each["code"] != "signingCredential.untrusted")
    signature = active.get("signature_info") or {}
    signer = ", ".join(signature[key] for key in ("issuer", "common_name") if signature.get(key))
    actions = [
        action
        for assertion in active.get("assertions", [])
        if assertion["label"] in _ACTIONS
        for action in assertion["data"]["actions"]
    ]
    sources = [action["digitalSourceType"] for action in actions if "digitalSourceType" in action]
    agents = [action["softwareAgent"] for action in actions if isinstance(action.get("softwareAgent"), dict)]
    state: Literal["valid", "altered", "invalid"] = "valid"
    if store.get("validation_state") == "Invalid":
        state = "altered" if any(code.endswith(".mismatch") for code in problems) else "invalid"
    return Reading(
        state,
        trusted=store.get("validation_state") == "Trusted",
        signer=signer or None,
        test_certificate=signature.get("issuer") == signing.TEST_ISSUER,
        generator=(active.get("claim_generator_info") or [{}])[0].get("name"),
        model=agents[0].get("version") if agents else None,
        source_type=next((source for source in sources if source in xmp.SYNTHETIC), next(iter(sources), None)),
        problems=problems,
    )
