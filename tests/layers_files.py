"""Layers models of TensorFlow.js as nsfwjs packs them, JavaScript modules in a zip, and an independent reference."""

from __future__ import annotations

import base64
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Layer = dict[str, Any]
SIDE_PX = 12


def layer(kind: str, name: str, reads: list[str], **config: Any) -> Layer:
    inbound = [[[read, 0, 0, {}] for read in reads]] if reads else []
    return {"name": name, "class_name": kind, "config": {"name": name, **config}, "inbound_nodes": inbound}


def small(width: int = 2048) -> list[Layer]:
    """Two paths of every known layer, joined, down to one place, flattened; then one that nobody asks for."""
    plain = {"activation": "linear", "use_bias": False, "dilation_rate": [1, 1], "data_format": "channels_last"}
    norm = {"axis": 3, "epsilon": 0.001, "center": True, "scale": False}
    pool = {"pool_size": [3, 3], "data_format": "channels_last"}
    return [
        layer("InputLayer", "input_1", [], batch_input_shape=[None, SIDE_PX, SIDE_PX, 3], dtype="float32"),
        layer("Conv2D", "c1", ["input_1"], filters=4, kernel_size=[3, 3], strides=[2, 2], padding="valid", **plain),
        layer("BatchNormalization", "n1", ["c1"], **norm),
        layer("Activation", "a1", ["n1"], activation="relu"),
        layer("Conv2D", "c2", ["a1"], filters=3, kernel_size=[1, 7], strides=[1, 1], padding="same", **plain),
        layer("AveragePooling2D", "p1", ["a1"], strides=[1, 1], padding="same", **pool),
        layer("Concatenate", "j1", ["c2", "p1"], axis=3),
        layer("MaxPooling2D", "p2", ["j1"], strides=[2, 2], padding="valid", **pool),
        layer("Conv2D", "c3", ["p2"], filters=width, kernel_size=[1, 1], strides=[1, 1], padding="valid", **plain),
        layer("AveragePooling2D", "p3", ["c3"], strides=[2, 2], padding="valid", **{**pool, "pool_size": [2, 2]}),
        layer("Flatten", "flatten_1", ["p3"], data_format="channels_last"),
        layer("Dense", "dense_1", ["flatten_1"], units=5, activation="softmax"),
    ]


def shapes(width: int = 2048) -> dict[str, list[int]]:
    norm = {f"n1/{part}": [4] for part in ("beta", "moving_mean", "moving_variance")}
    kernels = {"c1/kernel": [3, 3, 3, 4], "c2/kernel": [1, 7, 4, 3], "c3/kernel": [1, 1, 7, width]}
    return {**norm, **kernels, "dense_1/kernel": [width, 5]}


def weights(width: int = 2048) -> tuple[list[dict[str, Any]], bytes, dict[str, Array]]:
    """The list of the weights, their bytes in its order, and their values: quantised to 8 bits."""
    random = np.random.default_rng(0)
    listed, raw, values = [], b"", {}
    for name, shape in shapes(width).items():
        stored = random.integers(0, 256, shape, dtype=np.uint8)
        # A minimum and a scale without a leading zero, and one as large as 1.
        low, step = (0.25, 0.01) if name.endswith("variance") else (-0.5, 0.004)
        quantisation = {"min": low, "scale": step, "dtype": "uint8"}
        listed.append({"name": name, "shape": shape, "dtype": "float32", "quantization": quantisation})
        raw += stored.tobytes()
        values[name] = stored.astype(np.float64) * step + low
    return listed, raw, values


def literal(value: Any) -> str:
    """An object as a minifier writes it: keys without quotes, !0 and !1, no zero in front of a decimal point."""
    text = json.dumps(value, separators=(",", ":"))
    text = re.sub(r'"([A-Za-z_]\w*)":', r"\1:", text)
    text = re.sub(r"\btrue\b", "!0", re.sub(r"\bfalse\b", "!1", text))
    return re.sub(r"(?<=[:,\[])(-?)0\.", r"\1.", text)


def module(content: str) -> str:
    """A module as bundlers write it; who runs it gets an error."""
    return f"!function(a){{throw a}}(function(){{return{{1:[function(a,n,i){{n.exports={content}}},{{}}]}},{{}},[1]}});"


def write(path: Path, layers: list[Layer] | None = None, width: int = 2048, cut: int = 0) -> Path:
    """The model in two shards; `cut` leaves out its last bytes."""
    listed, raw, _ = weights(width)
    raw = raw[: len(raw) - cut]
    parts = {"group1-shard1of2": raw[:100], "group1-shard2of2": raw[100:]}
    topology = {
        "keras_version": "2.2.4",
        "model_config": {"class_name": "Model", "config": {"layers": layers or small(width)}},
    }
    model = {"modelTopology": topology, "weightsManifest": [{"paths": list(parts), "weights": listed}]}
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("model.min.js", module(literal(model)))
        for name, content in parts.items():
            bundle.writestr(f"{name}.min.js", module(f'"{base64.b64encode(content).decode()}"'))
    return path


def features(picture: Array, width: int = 2048) -> Array:
    """What `small` gives for one picture [SIDE_PX, SIDE_PX, 3] in [0, 1], by loops over places."""
    _, _, w = weights(width)
    x = _slide(picture, (3, 3), 2, lambda part: np.einsum("hwc,hwcf->f", part, w["c1/kernel"]))
    x = (x - w["n1/moving_mean"]) / np.sqrt(w["n1/moving_variance"] + 0.001) + w["n1/beta"]
    x = np.maximum(x, 0)
    wide = np.pad(x, ((0, 0), (3, 3), (0, 0)))
    path = _slide(wide, (1, 7), 1, lambda part: np.einsum("hwc,hwcf->f", part, w["c2/kernel"]))
    empty = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    pooled = _slide(empty, (3, 3), 1, lambda part: np.nanmean(part, axis=(0, 1)))
    x = np.concatenate([path, pooled], axis=2)
    x = _slide(x, (3, 3), 2, lambda part: part.max(axis=(0, 1)))
    x = x @ w["c3/kernel"][0, 0]
    return _slide(x, (2, 2), 2, lambda part: part.mean(axis=(0, 1))).flatten()


def _slide(x: Array, size: tuple[int, int], stride: int, of: Any) -> Array:
    rows, columns = ((x.shape[axis] - size[axis]) // stride + 1 for axis in (0, 1))
    return np.array(
        [
            [of(x[r * stride : r * stride + size[0], c * stride : c * stride + size[1]]) for c in range(columns)]
            for r in range(rows)
        ]
    )
