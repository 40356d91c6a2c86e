"""insightface's networks from their ONNX files, through its own model_zoo, which tells by the graph what a file holds.

The library is MIT; its pretrained networks (buffalo_l, antelopev2 and others) are for non-commercial research only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from styleblend.errors import StyleBlendError
from styleblend.weights.formats.onnx_graph import parsed

_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")


def load(path: Path, threads: int = 0) -> Any:
    """The model that insightface makes of a file: SCRFD, Landmark, ArcFaceONNX or Attribute; None for another graph.

    Nothing is downloaded.

    Args:
        threads: of ONNX Runtime on the CPU; 0 lets it take all cores.
    Raises:
        StyleBlendError: the file is missing, damaged or no ONNX file that can be run.
    """
    content = parsed(path)
    # It takes seconds to import, and most runs use none of its networks.
    from insightface import model_zoo

    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = threads
    session.log_severity_level = 3
    providers = [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]
    options: dict[str, Any] = {}
    if _reads_bytes(content):
        # Detectors of newer packs may normalise pictures inside the graph; unless told, the library would do it again.
        options = {"model_task": "detection", "model_metadata": {"preprocessing": "embedded"}}
    try:
        return model_zoo.get_model(str(path), providers=providers, sess_options=session, download=False, **options)
    # ONNX Runtime's errors have no common class of their own.
    except Exception as error:
        raise unusable(path, error) from None


def unusable(path: Path, error: Exception) -> StyleBlendError:
    """What to tell of a file with which the library or ONNX Runtime ended in `error`."""
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return StyleBlendError(f"{path} cannot be run ({reason}): get the file again from its pack")


def _reads_bytes(content: onnx.ModelProto) -> bool:
    stored = {each.name for each in content.graph.initializer}
    inputs = [each for each in content.graph.input if each.name not in stored]
    return bool(inputs) and inputs[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
