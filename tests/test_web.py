"""The model behind HTTP: what it answers, what it refuses, and the page in a real browser."""

from __future__ import annotations

import asyncio
import io
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Page

from browser import browser_page
from local_servers import wait_for
from styleblend import model, provenance
from styleblend.config.product import Follow, Serve
from styleblend.config.tracking import Tracking
from styleblend.face_detector.detection import Detection, annotated
from styleblend.faces.pictures import as_picture
from styleblend.provenance import credentials, verification
from styleblend.registry import runs, versions
from styleblend.registry.follow import LiveModel
from styleblend.reporting import comparison
from styleblend.serving.app import LOOPBACK, MODEL_HEADER, address, build_app
from styleblend.swapping import FaceSwapper
from styleblend.synthetic import factors, renderer
from test_comparison import measured
from test_swapping import Annotations, moved
from tiny_model import MODEL

SIDE = 192
LIMITS = Serve(port=0, max_upload_mb=1, upload_seconds=2, swap_seconds=20, at_once=1, waiting=1)


@dataclass
class LoadedModel:
    """What `current` gives; tests change it as an alias would."""

    model: model.Swapper
    name: str


@dataclass
class Site:
    """A running server and what it was given."""

    url: str
    loaded: LoadedModel
    source: Image.Image
    target: Image.Image
    two: Image.Image
    detector: Annotations


def face(person: int) -> tuple[Image.Image, Detection]:
    made = renderer.render(factors.sample(11, [person], [0]), SIDE, supersample=1)
    pixels = ((made.images[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels), annotated(made.landmarks_px[0])


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


class Slow(Annotations):
    """A detector that can be told to wait, as a picture with very many faces makes one."""

    seconds = 0.0

    def detect(self, image: Image.Image) -> list[Detection]:
        time.sleep(self.seconds)
        return super().detect(image)


class Hanging(Annotations):
    """A detector that hangs until it is let go, and counts the pictures that it was given."""

    asked = 0
    let_go = threading.Event()

    def detect(self, image: Image.Image) -> list[Detection]:
        self.asked += 1
        assert self.let_go.wait(60)
        return super().detect(image)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server on a free port of this machine, with an untrained model."""
    (source, its_face), (target, other) = face(0), face(1)
    two = Image.new("RGB", (2 * SIDE, SIDE))
    two.paste(source, (0, 0))
    two.paste(target, (SIDE, 0))
    detector = Slow((source, [its_face]), (target, [other]), (two, [its_face, moved(other, SIDE)]))
    torch.manual_seed(0)
    loaded = LoadedModel(model.build(MODEL).eval(), "styleblend version 1")
    signing = credentials.of_this_machine(tmp_path_factory.mktemp("machine") / "certificate")
    with served(build_app(LIMITS, 1_000_000, lambda: loaded, detector, signing)) as url:
        yield Site(url, loaded, source, target, two, detector)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application on a free port of this machine; gives its address."""
    settings = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    listening = settings.bind_socket()
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def post(site: Site, source: bytes, target: bytes, **fields: str) -> httpx.Response:
    files = {"source": ("../../etc/passwd", source), "target": ("/etc/shadow.png", target)}
    return httpx.post(f"{site.url}/swap", files=files, data=fields, timeout=60)


def test_answer_is_the_swap_marked_and_named(site: Site, tmp_path: Path) -> None:
    """The bytes are those of the Python interface, marked, and the header names the model that made them."""
    answer = post(site, png(site.source), png(site.target))
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    assert answer.headers[MODEL_HEADER] == "styleblend version 1"
    wanted = FaceSwapper.from_source(as_picture(site.source, 10**6), site.loaded.model, site.detector).swap_into(
        as_picture(site.target, 10**6)
    )
    with Image.open(io.BytesIO(answer.content)) as found:
        assert np.array_equal(np.asarray(found), np.asarray(wanted))
    file = tmp_path / "answer.png"
    file.write_bytes(answer.content)
    assert provenance.read_marks(file) and verification.verify(file).synthetic


def test_several_faces_are_a_question_and_a_number_answers_it(site: Site) -> None:
    """409 names the faces and the fields of the form; with a number one is swapped, with all_faces both."""
    asked = post(site, png(site.source), png(site.two))
    assert asked.status_code == 409
    assert "which of the 2 faces" in asked.json()["detail"] and "target_face" in asked.json()["detail"]
    assert "--" not in asked.json()["detail"]
    assert asked.json()["detail"].endswith("? give target_face NUMBER or all_faces")
    wrong = post(site, png(site.source), png(site.two), target_face="2")
    assert wrong.status_code == 422
    assert wrong.json()["detail"] == "target_face 2: the target picture has 2 faces, counted from 0"
    pictures = {}
    for name, fields in (("one", {"target_face": "1"}), ("all", {"all_faces": "true"})):
        answer = post(site, png(site.source), png(site.two), **fields)
        assert answer.status_code == 200
        with Image.open(io.BytesIO(answer.content)) as found:
            pictures[name] = np.asarray(found.convert("RGB")).astype(int)
    before = np.asarray(site.two).astype(int)
    assert np.array_equal(pictures["one"][:, :SIDE], before[:, :SIDE])
    assert not np.array_equal(pictures["all"][:, :SIDE], before[:, :SIDE])


def test_jpeg_is_made_where_it_is_asked_for(site: Site) -> None:
    """The format of the answer is the client's choice; another word is refused with the choices."""
    answer = post(site, png(site.source), png(site.target), format="jpeg")
    assert answer.headers["content-type"] == "image/jpeg" and answer.content[:2] == b"\xff\xd8"
    assert post(site, png(site.source), png(site.target), format="exe").status_code == 422


def test_a_form_that_lacks_a_field_or_has_a_wrong_one_is_the_documented_line(site: Site) -> None:
    """422 with `detail` as one text, as the interface says, which names every such field and its value."""
    documented = httpx.get(f"{site.url}/openapi.json").json()
    answers = documented["paths"]["/swap"]["post"]["responses"]["422"]["content"]["application/json"]["schema"]
    assert documented["components"]["schemas"]["Refusal"]["properties"]["detail"]["type"] == "string"
    assert answers == {"$ref": "#/components/schemas/Refusal"}
    both = {"source": ("a", png(site.source)), "target": ("b", png(site.target))}
    wrong = {
        "the field source is missing; the field target is missing": {},
        "the field target is missing": {"files": {"source": both["source"]}},
        "the field source must be a file": {"files": {"target": both["target"]}, "data": {"source": "text"}},
        "the field source_face must be a text, not a file": {"files": {**both, "source_face": ("c", b"1")}},
        "the field format is 'exe', input should be 'png' or 'jpeg'": {"files": both, "data": {"format": "exe"}},
        "the field source_face is '-1', input should be greater": {"files": both, "data": {"source_face": "-1"}},
        "the field all_faces is '" + 60 * "x" + "...'": {"files": both, "data": {"all_faces": 90 * "x"}},
    }
    for words, given in wrong.items():
        answer = httpx.post(f"{site.url}/swap", timeout=60, **given)
        assert answer.status_code == 422 and list(answer.json()) == ["detail"]
        detail = answer.json()["detail"]
        assert detail.startswith(words) and detail.endswith(": /docs describes the form") and "\n" not in detail


@pytest.mark.parametrize("path", ["/", "/health", "/version", "/docs", "/docs-files/favicon-32x32.png", "/nothing"])
def test_head_answers_as_get_without_a_body(site: Site, path: str) -> None:
    """Status and headers are those of GET, the length included; a form is for POST alone all the same."""
    got, head = httpx.get(f"{site.url}{path}"), httpx.head(f"{site.url}{path}")
    assert (head.status_code, head.content) == (got.status_code, b"")
    for name in ("content-type", "content-length", "content-security-policy"):
        assert head.headers.get(name) == got.headers.get(name)
    assert httpx.head(f"{site.url}/swap").status_code == httpx.get(f"{site.url}/swap").status_code == 405


@pytest.mark.parametrize("kind", ["text", "cut off", "bomb", "empty"])
def test_what_is_no_picture_is_one_line(site: Site, kind: str) -> None:
    """Text, half a file, a picture of too many pixels and nothing at all are 422 with a reason, and it lives on."""
    bomb = png(Image.new("L", (4000, 3000)))
    bad = {"text": b"hello", "cut off": png(site.target)[:500], "bomb": bomb, "empty": b""}[kind]
    answer = post(site, png(site.source), bad)
    assert answer.status_code == 422 and answer.json()["detail"].startswith("the target picture")
    assert "\n" not in answer.json()["detail"]
    assert httpx.get(f"{site.url}/health").json() == {"status": "ok", "overdue": 0}


def test_pictures_stay_in_memory(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A picture of more than a megabyte is read, and found cut off, where no temporary file can be made."""
    signing = credentials.of_this_machine(tmp_path / "certificate")
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    large = png(Image.fromarray(noise))[:-1000]
    assert 2**20 < len(large) < 2e6
    limits = LIMITS.model_copy(update={"max_upload_mb": 2})
    with served(build_app(limits, 10**6, lambda: site.loaded, site.detector, signing)) as url:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
        with pytest.raises(FileNotFoundError), tempfile.TemporaryFile():
            pass
        answer = post(replace(site, url=url), png(site.source), large)
    assert answer.status_code == 422 and answer.json()["detail"].startswith("the target picture")


def test_only_known_names_of_the_server_are_answered(site: Site, tmp_path: Path) -> None:
    """A page elsewhere whose name points to this machine (DNS rebinding) gets 400; the machine's own names work."""
    signing = credentials.of_this_machine(tmp_path / "certificate")
    with served(build_app(LIMITS, 10**6, lambda: site.loaded, site.detector, signing, hosts=LOOPBACK)) as url:
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/health", headers={"Host": "localhost:8000"}).status_code == 200
        assert httpx.get(f"{url}/health", headers={"Host": "elsewhere.example"}).status_code == 400


def test_too_large_a_request_is_refused_whatever_length_it_states(site: Site) -> None:
    """413 by the stated length before anything is sent, and by counting where none is stated."""
    assert post(site, bytes(2_000_000), b"").status_code == 413

    def parts() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="source"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield bytes(50_000)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        answer = httpx.post(f"{site.url}/swap", content=parts(), headers=headers, timeout=30)
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        # The server closes while the client still sends: refused all the same.
        pass
    else:
        assert answer.status_code == 413
    assert httpx.get(f"{site.url}/health").status_code == 200


def test_a_request_that_does_not_end_is_ended(site: Site) -> None:
    """A client that states a body and sends none is sent away after upload_seconds."""
    host, port = site.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            b"POST /swap HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        started = time.monotonic()
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 408") and time.monotonic() - started >= 0.9 * LIMITS.upload_seconds


def test_who_comes_while_all_places_are_taken_is_sent_away(site: Site) -> None:
    """With one at work and one waiting a third gets 503 at once; when the work is done there is room again."""
    site.detector.seconds = 1.5
    answers: list[int] = []

    def ask() -> None:
        answers.append(post(site, png(site.source), png(site.target)).status_code)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        time.sleep(1)
        third = post(site, png(site.source), png(site.target))
        assert third.status_code == 503 and third.headers["retry-after"]
    finally:
        for thread in threads:
            thread.join()
        site.detector.seconds = 0
    assert answers == [200, 200]
    assert post(site, png(site.source), png(site.target)).status_code == 200


def test_work_that_takes_too_long_keeps_its_place_until_it_has_ended(site: Site, tmp_path: Path) -> None:
    """No second swap begins beside it, /health says so, who waited in vain hears `busy`, and it ends at its next step.

    Nothing of it is done after that: the target is never looked at, and its place is free again.
    """
    (source, its_face), (target, other) = face(0), face(1)
    detector = Hanging((source, [its_face]), (target, [other]))
    limits = LIMITS.model_copy(update={"swap_seconds": 1})
    signing = credentials.of_this_machine(tmp_path / "certificate")
    with served(build_app(limits, 1_000_000, lambda: site.loaded, detector, signing)) as url:
        here = Site(url, site.loaded, source, target, site.two, detector)
        late = post(here, png(source), png(target))
        assert late.status_code == 503 and late.json()["detail"].startswith("it took longer than 1 s")
        health = httpx.get(f"{url}/health")
        assert (health.status_code, health.json()) == (503, {"status": "stuck", "overdue": 1})
        waited = post(here, png(source), png(target))
        assert waited.status_code == 503 and waited.json()["detail"].startswith("the server is busy")
        assert detector.asked == 1, "the second never began"
        detector.let_go.set()
        wait_for(lambda: httpx.get(f"{url}/health").json() == {"status": "ok", "overdue": 0}, seconds=20)
        assert detector.asked == 1, "the first ended before it looked at the target"
        assert post(here, png(source), png(target)).status_code == 200
        assert detector.asked == 3


def test_threads_end_also_where_what_runs_beside_them_fails(site: Site, tmp_path: Path) -> None:
    """A server whose following of versions fails as it stops leaves no thread of swaps behind."""

    @contextmanager
    def failing() -> Iterator[None]:
        yield
        raise ConnectionError("MLflow is gone")

    before = set(threading.enumerate())
    signing = credentials.of_this_machine(tmp_path / "certificate")
    app = build_app(LIMITS, 10**6, lambda: site.loaded, site.detector, signing, failing())

    async def serve_one() -> None:
        async with app.router.lifespan_context(app):
            files = {"source": png(site.source), "target": png(site.target)}
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
                assert (await client.post("/swap", files=files)).status_code == 200

    with pytest.raises(ConnectionError, match="MLflow is gone"):
        asyncio.run(serve_one())
    assert not [each for each in set(threading.enumerate()) - before if each.name.startswith("swap")]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "fe80::1"])
def test_the_printed_address_can_be_opened(host: str) -> None:
    """A client finds host and port in it, also where the host has colons of its own."""
    url = httpx.URL(f"http://{address(host, 8000)}")
    assert (url.host, url.port) == (host, 8000)


def test_version_follows_what_is_loaded(site: Site) -> None:
    """The version endpoint and the header of the next answer name another model as soon as it is in use."""
    site.loaded.name = "styleblend version 2"
    try:
        assert httpx.get(f"{site.url}/version").json() == {"model": "styleblend version 2"}
        assert post(site, png(site.source), png(site.target)).headers[MODEL_HEADER] == "styleblend version 2"
    finally:
        site.loaded.name = "styleblend version 1"


def test_the_interface_describes_itself_without_another_host(site: Site) -> None:
    """OpenAPI names every path, and the page under /docs loads its files from this server alone."""
    described = httpx.get(f"{site.url}/openapi.json").json()
    assert {"/swap", "/health", "/version"} == set(described["paths"])
    page = httpx.get(f"{site.url}/docs").text
    assert "https://" not in page
    for file in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/docs-files/{file}" in page and httpx.get(f"{site.url}/docs-files/{file}").status_code == 200


@pytest.mark.slow
def test_page_swaps_two_pictures_in_a_browser(site: Site, tmp_path: Path) -> None:
    """A person chooses two files, presses the button and sees a picture; a refusal is read on the page."""
    files = {}
    for name in ("source", "target", "two"):
        files[name] = tmp_path / f"{name}.png"
        getattr(site, name).save(files[name])
    with browser_page() as page:
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(site.url)
        page.wait_for_selector("#version:text-is('styleblend version 1')")
        page.set_input_files("input[name=source]", files["source"])
        page.set_input_files("input[name=target]", files["two"])
        page.click("button")
        page.wait_for_selector("#message:has-text('which of the 2 faces')")
        page.set_input_files("input[name=target]", files["target"])
        page.click("button")
        page.wait_for_selector("#result img", state="visible")
        width = page.locator("#result img").evaluate("image => image.decode().then(() => image.naturalWidth)")
        assert width == SIDE
        assert "marked as synthetic" in page.inner_text("figcaption")
        page.goto(f"{site.url}/docs")
        page.wait_for_selector("text=The target picture with the identity of the source")
        assert not problems


@pytest.mark.slow
def test_a_person_promotes_a_version_in_mlflow_and_another_model_answers(
    mlflow_server: tuple[str, object], tmp_path: Path
) -> None:
    """Clicks in MLflow's page give version 2 the alias champion; the running product follows, and goes back alike.

    Before that the person sees its figures beside the champion's there, and both on the same faces.
    """
    track = Tracking(uri=mlflow_server[0])
    (source, its_face), (target, other) = face(0), face(1)
    for seed, alias in ((1, "champion"), (2, None)):
        torch.manual_seed(seed)
        folder = tmp_path / f"swapper{seed}"
        folder.mkdir()
        model.save(model.build(MODEL), MODEL, folder)
        parent = runs.start_pipeline(track, "p", {})
        with runs.child_run(track, parent, "register", f"{seed}", {}) as run:
            versions.register_version(track, folder, {}, {}, {}, alias, run=run, key=f"{seed}")
            if alias is None:
                beside_champion(run, track, tmp_path)
    followed = LiveModel(track, model.load, Follow(every_s=0.2), tmp_path / "kept")
    detector = Annotations((source, [its_face]), (target, [other]))
    signing = credentials.of_this_machine(tmp_path / "certificate")
    app = build_app(LIMITS, 1_000_000, lambda: followed.current, detector, signing, followed)

    def answer(url: str) -> tuple[str, bytes]:
        files = {"source": png(source), "target": png(target)}
        given = httpx.post(f"{url}/swap", files=files, timeout=60)
        with Image.open(io.BytesIO(given.content)) as picture:
            return given.headers[MODEL_HEADER], picture.tobytes()

    with served(app) as url, browser_page() as page:
        first = answer(url)
        assert first[0] == "styleblend version 1"
        page.goto(f"{mlflow_server[0]}/#/models/styleblend/versions/2")
        table = page.get_by_role("table").filter(has_text="pose error, degrees")
        assert "version 2 is better" in table.inner_text()
        # MLflow leaves out the words that stand for a picture.
        drawn = page.locator("a[href*='comparison/version_2_and_1.png'] img")
        assert drawn.evaluate("image => image.decode().then(() => image.naturalWidth)") == SIDE
        promote(page, mlflow_server[0], "2")
        wait_for(lambda: httpx.get(f"{url}/version").json()["model"] == "styleblend version 2")
        second = answer(url)
        assert second[0] == "styleblend version 2" and second[1] != first[1]
        promote(page, mlflow_server[0], "1")
        wait_for(lambda: httpx.get(f"{url}/version").json()["model"] == "styleblend version 1")
        assert answer(url) == first


def beside_champion(run: runs.Run, track: Tracking, folder: Path) -> None:
    """Version 2's page says how it compares with version 1, as the stage register writes it."""
    new, old = measured(folder / "new", "version 2", 0.0), measured(folder / "old", "version 1", 0.3)
    file = folder / "version_2_and_1.png"
    provenance.save_picture(Image.new("RGB", (SIDE, SIDE)), file, model="both", kind="grid")
    run.log_artifact(file, "comparison")
    shown = runs.picture_markdown(run, f"comparison/{file.name}", "both versions on the same faces")
    version = versions.find_version(track, "2")
    versions.describe(track, version, f"Beside the champion:\n\n{comparison.table(new, old)}\n\n{shown}")


def promote(page: Page, mlflow: str, version: str) -> None:
    """Give a version the alias champion, as a person does on its page."""
    page.goto(f"{mlflow}/#/models/styleblend/versions/{version}")
    page.get_by_text(f"Version {version}", exact=True).first.wait_for()
    page.locator("[data-component-id*=modelversionviewaliaseditor]").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").click()
    page.keyboard.type("champion")
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Save aliases").click()
    dialog.wait_for(state="hidden")
