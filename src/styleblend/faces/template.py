"""Which rule cuts faces out: its constants, and the hash by which a model and this code know that they agree.

A model only works on faces that lie where its training faces lay, so each model keeps the identity of its template.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from styleblend.errors import StyleBlendError


class TemplateError(StyleBlendError):
    """A model was trained on faces that were cut out by another rule, or does not say by which."""


@dataclass(frozen=True)
class Template:
    """A square crop around eyes and mouth.

    eye_factor, mouth_factor: half its side is the larger of eye_factor times the distance between the eyes and
    mouth_factor times the distance from the eyes' middle to the mouth's.
    centre_shift: share of the way from the eyes' middle to the mouth's at which its centre lies.
    """

    name: str
    eye_factor: float
    mouth_factor: float
    centre_shift: float

    def identity(self) -> dict[str, Any]:
        """What a model keeps: `template` (its name), `constants`, and `sha256` of both."""
        constants = asdict(self)
        name = constants.pop("name")
        content = json.dumps({"template": name, "constants": constants}, sort_keys=True)
        return {"template": name, "constants": constants, "sha256": hashlib.sha256(content.encode()).hexdigest()}


TEMPLATE = Template("ffhq", eye_factor=2.0, mouth_factor=1.8, centre_shift=0.1)
"""The rule of this code. Change the name with the constants, and train again."""


def expect_template(kept: Any, owner: str) -> None:
    """Check that a model's faces were cut out as this code does it.

    Args:
        kept: what the model kept of `Template.identity`, among other facts; None where it kept nothing.
        owner: what the model is called in the message.
    Raises:
        TemplateError: it was another template, which the message names beside this one, or none was kept.
    """
    ours = TEMPLATE.identity()
    if not isinstance(kept, dict) or not kept.get("sha256"):
        raise TemplateError(
            f"{owner} does not say by which alignment template its faces were cut out (this StyleBlend uses"
            f" {_named(ours)}), as models of earlier versions do not: train it again with `dvc repro`"
        )
    if any(kept.get(key) != value for key, value in ours.items()):
        raise TemplateError(
            f"{owner} was trained with the alignment template {_named(kept)}, this StyleBlend cuts faces out by"
            f" {_named(ours)}: use the version of StyleBlend that made the model, or train again with `dvc repro`"
        )


def _named(identity: dict[str, Any]) -> str:
    """Name, start of the hash and constants in one phrase, whatever a file held in their places."""
    constants = identity.get("constants")
    listed = ", ".join(f"{key} {value}" for key, value in constants.items()) if isinstance(constants, dict) else "?"
    return f"'{identity.get('template')}' {str(identity['sha256'])[:12]} ({listed})"
