"""Sections `swap`, `follow` and `serve`: using a registered model."""

from __future__ import annotations

from pydantic import Field

from styleblend.config.base import Section


class Swap(Section):
    """How `styleblend swap` tells people apart; the limits fit the identity network that the run uses.

    The defaults are for the small one. For ArcFace insightface's example calls two faces one person from 0.28 on.
    """

    min_likeness: float = Field(0.45, ge=-1, le=1, description="lowest accepted likeness to --target-like")
    likeness_margin: float = Field(0.1, ge=0, le=2, description="lead in likeness over every other face of the picture")


class Follow(Section):
    """Which version a running product uses, and how soon it notices that a person chose another one."""

    alias: str = Field("champion", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    every_s: float = Field(10, gt=0, description="seconds between two questions to the registry")


class Serve(Section):
    """What `styleblend serve` grants to whoever asks it."""

    host: str = Field("127.0.0.1", description="address to listen at; any but this machine's own lets others in")
    port: int = Field(8000, ge=0, le=65535, description="0 takes a free one")
    max_upload_mb: float = Field(20, gt=0, description="largest request, both pictures together, in 10^6 bytes")
    upload_seconds: float = Field(30, gt=0, description="longest time in which a request may arrive")
    swap_seconds: float = Field(60, gt=0, description="longest time until the answer; then the next step is the last")
    at_once: int = Field(1, ge=1, description="swaps at the same time, with those that were given up and go on")
    waiting: int = Field(4, ge=0, description="requests that may wait for their turn; further ones are sent away")
