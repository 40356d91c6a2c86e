"""The HTTP server: load model, detector and signer, listen, and answer requests until stopped."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from styleblend import model
from styleblend.config.params import Config
from styleblend.errors import StyleBlendError
from styleblend.model import Swapper
from styleblend.provenance import credentials
from styleblend.registry.follow import LiveModel
from styleblend.serving.app import build_app
from styleblend.swapping import find_detector, find_model

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SPARE_CONNECTIONS = 32
"""Connections beyond those of running and waiting swaps; further ones are answered 503."""


@dataclass(frozen=True)
class _FixedModel:
    model: Swapper
    name: str


def run(cfg: Config, reference: str | None, detector_weights: Path | None, host: str, port: int) -> None:
    """Serve until a signal ends it.

    Args:
        reference: a folder, alias or number to keep; None follows the alias of `follow`: moving it changes the model.
        port: 0 takes a free one; the printed address names it.
    Raises:
        StyleBlendError: a model, the detector or the certificate is missing, or the address cannot be used.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    signing = credentials.of(cfg.provenance)
    detector = find_detector(cfg, detector_weights)
    hosts = [*LOOPBACK, "[::1]"] if host in LOOPBACK else ["*"]
    if reference is not None:
        fixed = _FixedModel(*find_model(cfg.tracking, reference))
        app = build_app(cfg.serve, cfg.align.max_pixels, lambda: fixed, detector, signing, hosts=hosts)
    else:
        followed = LiveModel(cfg.tracking, model.load, cfg.follow)
        # A missing alias is reported in one line, before anything listens.
        followed.refresh()
        app = build_app(cfg.serve, cfg.align.max_pixels, lambda: followed.current, detector, signing, followed, hosts)
    settings = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        timeout_keep_alive=5,
        limit_concurrency=cfg.serve.at_once + cfg.serve.waiting + SPARE_CONNECTIONS,
    )
    server = uvicorn.Server(settings)
    sockets = [_bound(settings)]
    place = address(host, sockets[0].getsockname()[1])
    print(f"serve: http://{place} (its interface under /docs); Ctrl-C ends it", flush=True)
    server.run(sockets=sockets)


def _bound(settings: uvicorn.Config) -> socket.socket:
    try:
        return settings.bind_socket()
    except (SystemExit, OSError):
        raise StyleBlendError(
            f"{address(settings.host, settings.port)} cannot be used: end what listens there, or choose another port"
        ) from None


def address(host: str, port: int) -> str:
    """Host and port as in a URL, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
