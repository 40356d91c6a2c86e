"""What MLflow runs when it loads a registered version: model code and safetensors weights, nothing pickled.

MLflow copies this file into the version and executes it on loading; nothing else imports it.

Two settings come with the version: `made_by`, which its pictures name, and `provenance`, who signs them, as in
params.yaml. Others are given on loading: `mlflow.pyfunc.load_model(uri, model_config={"provenance": {...}})`, or as
JSON in SERVING_MODEL_CONFIG for `mlflow models serve`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from PIL import Image

from styleblend import provenance
from styleblend.config.data import MAX_PIXELS
from styleblend.config.provenance import Provenance
from styleblend.errors import StyleBlendError
from styleblend.faces.pictures import UnusablePicture, open_picture
from styleblend.faces.pixels import to_8bit
from styleblend.faces.resize import square_tensor
from styleblend.perception import bending
from styleblend.provenance import credentials


class RegisteredSwapper(PythonModel):
    """Swaps aligned faces: columns `source` and `target` hold picture files as bytes, so does `swapped`."""

    def load_context(self, context: Any) -> None:
        """Read the weights and the certificate. MLflow calls this once, with the version's files and settings.

        Raises:
            StyleBlendError: the weights or the certificate cannot be used.
        """
        self.made_by = str(context.model_config["made_by"])
        self.signing = credentials.of(Provenance.model_validate(context.model_config["provenance"]))
        self.swapper = bending.load(Path(context.artifacts["swapper"]))

    @torch.no_grad()
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Swap row by row; the pictures are aligned as in training (FFHQ crop) and of any size.

        Returns:
            column `swapped`: PNG files, marked as synthetic.
        """
        swapped = [
            self._png(self.swapper(self._tensor(source), self._tensor(target)))
            for source, target in zip(model_input["source"], model_input["target"], strict=True)
        ]
        return pd.DataFrame({"swapped": swapped}, index=model_input.index)

    def _tensor(self, data: bytes) -> torch.Tensor:
        try:
            picture = open_picture(io.BytesIO(data), MAX_PIXELS).opaque()
        except UnusablePicture as reason:
            raise StyleBlendError(f"a picture in the request {reason}: give another") from None
        return square_tensor(picture, self.swapper.encoder.input_px)

    def _png(self, swapped: torch.Tensor) -> bytes:
        picture = Image.fromarray(to_8bit(swapped[0]).permute(1, 2, 0).numpy())
        return provenance.marked_picture(picture, "PNG", model=self.made_by, kind="swap", credentials=self.signing)


# MLflow finds the model of an executed file by this call.
set_model(RegisteredSwapper())
