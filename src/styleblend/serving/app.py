"""The HTTP server and its web application: swap two uploaded pictures, name the model, report health.

Pictures stay in memory. Names of uploaded files are ignored, and nothing in a request becomes a path.
"""

from __future__ import annotations

import io
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Protocol

import uvicorn
from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image
from pydantic import BaseModel, Field
from starlette.formparsers import MultiPartParser
from starlette.middleware.trustedhost import TrustedHostMiddleware
from swagger_ui_bundle import swagger_ui_path

from styleblend.config.params import Config
from styleblend.config.product import Serve
from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Detection
from styleblend.face_detector.finder import FaceFinder
from styleblend.faces.pictures import Picture, UnusablePicture, as_picture, open_picture
from styleblend.model import Swapper
from styleblend.provenance import credentials, marked_picture
from styleblend.provenance.credentials import Credentials
from styleblend.serving import refusals
from styleblend.serving.body_limit import BodyLimit
from styleblend.serving.head_requests import HeadAsGet
from styleblend.serving.work_queue import DeadlineExceeded, QueueFull, WorkQueue
from styleblend.swapping import Detector, FaceSwapper, SeveralFaces, every_face, face_number, find_detector, find_model
from styleblend.swapping.loaders import follow_model
from styleblend.swapping.swap import CancelCheck

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SPARE_CONNECTIONS = 32
"""Connections beyond those of running and waiting swaps; further ones are answered 503."""
MODEL_HEADER = "X-StyleBlend-Model"
PAGE = Path(__file__).with_name("page.html")


class LoadedModel(Protocol):
    """A model and its name."""

    @property
    def model(self) -> Swapper: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class _FixedModel:
    model: Swapper
    name: str


class Health(BaseModel):
    """The server answers and has a model. `stuck` (503): every thread is occupied by an overdue swap."""

    status: Literal["ok", "stuck"] = "ok"
    overdue: int = Field(0, description="swaps that took too long and keep their place until they have ended")


class Version(BaseModel):
    """What makes the pictures now, for example `styleblend version 3`."""

    model: str


class Refusal(BaseModel):
    """Why there is no picture, and what to do."""

    detail: str


class LockedDetector:
    """A detector that several threads share: OpenCV's keeps the size of its current picture."""

    def __init__(self, detector: Detector) -> None:
        self._detector, self._lock = detector, threading.Lock()

    def detect(self, image: Image.Image) -> list[Detection]:
        """As the detector itself; other threads wait."""
        with self._lock:
            return self._detector.detect(image)


def locked(detector: Detector) -> Detector:
    """A detector for several threads; of a FaceFinder the detector inside, so that swaps take turns between looks."""
    if isinstance(detector, FaceFinder):
        return replace(detector, detector=LockedDetector(detector.detector))
    return LockedDetector(detector)


def build_app(
    cfg: Serve,
    max_pixels: int,
    current: Callable[[], LoadedModel],
    detector: Detector,
    signing: Credentials,
    while_serving: AbstractContextManager[object] | None = None,
    hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """Build the application.

    Args:
        max_pixels: larger pictures are refused before they are decoded.
        current: returns the model to use; called once a request, so that an answer's model and name belong together.
        signing: signs the pictures.
        while_serving: entered when the server starts, left when it stops.
        hosts: accepted Host headers; others are refused, against DNS rebinding.
    """
    # Larger parts of a form would go to a temporary file. The setting is that of the whole process.
    MultiPartParser.spool_max_size = round(cfg.max_upload_mb * 1e6)
    locked_detector = locked(detector)
    queue = WorkQueue(cfg.at_once, cfg.waiting, cfg.swap_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            with while_serving or nullcontext():
                yield
        finally:
            queue.close()

    app = FastAPI(
        title="StyleBlend",
        description="Puts the identity of a source face into a target picture. Every answer is marked as synthetic.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.openapi_version = "3.0.3"  # what the page under /docs can draw
    app.add_middleware(BodyLimit, max_bytes=round(cfg.max_upload_mb * 1e6), seconds=cfg.upload_seconds)
    app.add_middleware(HeadAsGet)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.mount("/docs-files", StaticFiles(directory=swagger_ui_path), name="docs-files")

    @app.exception_handler(StyleBlendError)
    async def refuse(_: Request, error: StyleBlendError) -> JSONResponse:
        if isinstance(error, SeveralFaces):
            return JSONResponse({"detail": f"{error.problem} give {_FACE_FIELDS[error.role]}"}, 409)
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    async def refuse_form(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": refusals.of_form(error.errors())}, 422)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(), headers={"Content-Security-Policy": _POLICY})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="StyleBlend",
            swagger_js_url="/docs-files/swagger-ui-bundle.js",
            swagger_css_url="/docs-files/swagger-ui.css",
            swagger_favicon_url="/docs-files/favicon-32x32.png",
        )

    @app.get(
        "/health",
        summary="Whether the server lives, has a model and can work",
        responses={503: {"model": Health, "description": "every swap at work is overdue"}},
    )  # fmt: skip
    async def health(response: Response) -> Health:
        current()
        if queue.stuck:
            response.status_code = 503
        return Health(status="stuck" if queue.stuck else "ok", overdue=queue.overdue)

    @app.get("/version", summary="Which model makes the pictures now")
    async def version() -> Version:
        return Version(model=current().name)

    @app.post(
        "/swap",
        summary="The target picture with the identity of the source",
        response_class=Response,
        responses={
            200: {"content": {"image/png": {}, "image/jpeg": {}}, "description": f"{MODEL_HEADER} names the model"},
            408: {"model": Refusal, "description": "the pictures came too slowly"},
            409: {"model": Refusal, "description": "several faces, and it was not said which one"},
            413: {"model": Refusal, "description": "the request is too large"},
            422: {"model": Refusal, "description": "a field is missing or wrong, or a picture cannot be used"},
            503: {"model": Refusal, "description": "busy, or it took too long: try again later"},
        },
    )  # fmt: skip
    async def swap(
        source: Annotated[UploadFile, File(description="picture whose face gives the identity")],
        target: Annotated[UploadFile, File(description="picture that keeps pose, expression, light and background")],
        source_face: Annotated[int | None, Form(ge=0, description="which face, from the left, from 0")] = None,
        target_face: Annotated[int | None, Form(ge=0, description="which face, from the left, from 0")] = None,
        all_faces: Annotated[bool, Form(description="every face of the target")] = False,
        format: Annotated[Literal["png", "jpeg"], Form(description="of the answer")] = "png",
    ) -> Response:
        if all_faces and target_face is not None:
            raise HTTPException(422, "target_face and all_faces exclude one another: give one of them")
        if queue.full:
            raise _busy()
        files = await source.read(), await target.read()
        loaded = current()

        def work(cancel_check: CancelCheck) -> bytes:
            pictures = []
            for content, role in zip(files, _ROLES, strict=True):
                cancel_check()
                pictures.append(_read(content, role, max_pixels))
            of_source = None if source_face is None else face_number("source", source_face)
            of_target = every_face if all_faces else None if target_face is None else face_number("target", target_face)
            swapper = FaceSwapper.from_source(pictures[0], loaded.model, locked_detector, of_source, cancel_check)
            swapped = swapper.swap_into(pictures[1], of_target)
            cancel_check()
            if format == "jpeg" and swapped.mode == "RGBA":
                swapped = as_picture(swapped, max_pixels).opaque()
            kind: Literal["JPEG", "PNG"] = "JPEG" if format == "jpeg" else "PNG"
            return marked_picture(swapped, kind, model=loaded.name, kind="swap", credentials=signing)

        try:
            content = await queue.run(work)
        except QueueFull:
            raise _busy() from None
        except DeadlineExceeded:
            raise HTTPException(503, f"it took longer than {cfg.swap_seconds:g} s: send smaller pictures") from None
        return Response(content, media_type=f"image/{format}", headers={MODEL_HEADER: loaded.name})

    return app


_ROLES = ("source", "target")
_FACE_FIELDS = {"source": "source_face NUMBER", "target": "target_face NUMBER or all_faces"}
# The page has its script and style in itself and loads nothing else.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob:; connect-src 'self'"


def _busy() -> HTTPException:
    return HTTPException(503, "the server is busy: try again later", {"Retry-After": "5"})


def _read(content: bytes, role: str, max_pixels: int) -> Picture:
    try:
        return open_picture(io.BytesIO(content), max_pixels)
    except UnusablePicture as reason:
        raise StyleBlendError(f"the {role} picture {reason}: send another") from None


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
        fixed = _FixedModel(*find_model(cfg, reference))
        app = build_app(cfg.serve, cfg.align.max_pixels, lambda: fixed, detector, signing, hosts=hosts)
    else:
        # A missing alias is reported in one line, before anything listens.
        followed = follow_model(cfg)
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
