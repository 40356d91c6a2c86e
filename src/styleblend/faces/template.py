"""The alignment template: its constants, and a hash by which a model is checked against this code.

A model works only on faces that are aligned like its training faces, so each model stores its template.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from styleblend.errors import StyleBlendError


class TemplateError(StyleBlendError):
    """A model was trained with another alignment template, or does not say with which."""


@dataclass(frozen=True)
class Template:
    """A square crop around eyes and mouth.

    eye_factor, mouth_factor: half the side is the larger of eye_factor times the distance between the eyes and
    mouth_factor times the distance from the eyes' midpoint to the mouth's.
    centre_shift: position of the centre on the line from the eyes' midpoint (0) to the mouth's (1).
    """

    name: str
    eye_factor: float
    mouth_factor: float
    centre_shift: float

    def identity(self) -> dict[str, Any]:
        """What a model stores: `template` (the name), `constants`, and `sha256` of both."""
        constants = asdict(self)
        name = constants.pop("name")
        content = json.dumps({"template": name, "constants": constants}, sort_keys=True)
        return {"template": name, "constants": constants, "sha256": hashlib.sha256(content.encode()).hexdigest()}


TEMPLATE = Template("ffhq", eye_factor=2.0, mouth_factor=1.8, centre_shift=0.1)
"""The template of this code. Changed constants need another name and a new training."""


def expect_template(kept: Any, owner: str) -> None:
    """Check that a model was trained with the template of this code.

    Args:
        kept: the model's `Template.identity`, possibly with other keys; None where it stored none.
        owner: name of the model in the message.
    Raises:
        TemplateError: it was another template, which the message names, or none was stored.
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
    """Name, start of the hash and constants in one phrase, even where a file holds wrong types."""
    constants = identity.get("constants")
    listed = ", ".join(f"{key} {value}" for key, value in constants.items()) if isinstance(constants, dict) else "?"
    return f"'{identity.get('template')}' {str(identity['sha256'])[:12]} ({listed})"
