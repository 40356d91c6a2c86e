"""Pictures and persons that were taken out of the data for good: a list of hashes that the stage download reads.

The list tells nobody whom it names: a picture is the SHA-256 of its file, a person a salted, slow hash of the name. Who
has a picture, or guesses a name, can test it against the list; that is what the list is for.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from styleblend.errors import StyleBlendError
from styleblend.system.files import whole_file

FOLDER = Path("data/forgotten")
"""Where a project keeps its list. DVC watches the folder, which git holds, so a list that is not there is no error."""
FILE = "list.json"
_COST = {"n": 2**12, "r": 8, "p": 1, "dklen": 16}
"""Of scrypt: a name costs something to guess, and all names of a large data set can still be checked."""


@dataclass(frozen=True)
class Forgotten:
    """What must not be in the data: SHA-256 of files, and hashes of persons' names with their salt, all in hex."""

    salt: str = ""
    pictures: frozenset[str] = frozenset()
    persons: frozenset[str] = frozenset()
    _known: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def person(self, name: object) -> bool:
        """Whether the person of this name is to be forgotten; None and what is no name is not."""
        if not self.persons or not isinstance(name, str):
            return False
        if name not in self._known:
            self._known[name] = _hash(name, self.salt) in self.persons
        return self._known[name]

    def holds(self, row: dict[str, Any]) -> bool:
        """Whether a row of an index, with `sha256` and `person`, is to be left out."""
        return row.get("sha256") in self.pictures or self.person(row.get("person"))

    def also(self, pictures: Iterable[str], persons: Iterable[str]) -> Forgotten:
        """The list with more pictures, by SHA-256, and persons, by name."""
        salt = self.salt or secrets.token_hex(16)
        hashed = {_hash(name, salt) for name in persons}
        return Forgotten(salt, self.pictures | set(pictures), self.persons | hashed)

    @property
    def size(self) -> int:
        """How many pictures and persons it names."""
        return len(self.pictures) + len(self.persons)


def read(folder: Path) -> Forgotten:
    """The list of a folder; an empty one where there is none.

    Raises:
        StyleBlendError: the list is damaged.
    """
    file = folder / FILE
    if not file.exists():
        return Forgotten()
    try:
        found = json.loads(file.read_text())
        pictures, persons = (frozenset(str(each) for each in found[key]) for key in ("pictures", "persons"))
        return Forgotten(str(found["salt"]), pictures, persons)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StyleBlendError(
            f"{file} cannot be read ({error}): take it back from git, for without it what was forgotten comes back"
        ) from None


def write(forgotten: Forgotten, folder: Path) -> None:
    """Write the list, in order, so that git shows what was added."""
    content = {
        "salt": forgotten.salt, "pictures": sorted(forgotten.pictures), "persons": sorted(forgotten.persons),
    }  # fmt: skip
    with whole_file(folder / FILE) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def _hash(name: str, salt: str) -> str:
    return hashlib.scrypt(name.encode(errors="surrogateescape"), salt=bytes.fromhex(salt), **_COST).hex()
