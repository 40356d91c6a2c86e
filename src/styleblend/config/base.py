"""What every section of params.yaml stands on: a frozen base class, shared types, and the check for passwords."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from styleblend.errors import StyleBlendError


class ConfigError(StyleBlendError):
    """A parameter is unknown, missing or out of range. The message names it, its value and the remedy."""


class Section(BaseModel):
    """Base of every section: immutable, and a key that nobody declared is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def has_secret(address: str) -> bool:
    """Whether an address carries a password or, as the user of a web address, a token."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "@" in address
    web = parts.scheme in ("http", "https", "s3")
    asked = parse_qs(parts.query)
    in_query = any(name in asked for name in ("password", "access_key", "secret_key", "session_token"))
    return parts.password is not None or (web and parts.username is not None) or in_query


def expect_no_password(name: str, address: str | None, remedy: str) -> None:
    """Settings are kept by DVC and MLflow and with every version: the message shows nothing of the address."""
    if address is not None and has_secret(address):
        kept = "params.yaml is kept with every version"
        raise ValueError(f"{name} holds a name or password, and {kept}: take it out, {remedy}")


Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, description="weight of a loss term; 0 switches the term off")]
Statement = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

Finder = Literal["yunet", "insightface", "face_alignment", "mediapipe"]
"""Whose networks find faces: OpenCV's YuNet, insightface's SCRFD, face-alignment's, or MediaPipe's BlazeFace."""
