"""Whether a file holds what the catalogue says: found out cheaply, and without running anything of it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from torch import Tensor

from styleblend.config.catalogue import Entry
from styleblend.errors import StyleBlendError
from styleblend.weights.formats import arcface_onnx, dlib_resnet, face_graphs, stylegan, tfjs_layers, tflite_graph
from styleblend.weights.formats.onnx_graph import parsed
from styleblend.weights.formats.tflite_network import TfliteNetwork
from styleblend.weights.formats.torch_file import read_torch


def expect(path: Path, entry: Entry) -> None:
    """Refuse a file that is damaged or another network than its entry describes.

    A graph or a state dict is read as data; TorchScript, which is a program, is not opened further than its list of
    contents. Whether weights fit a run's own sizes is the loader's question.

    Raises:
        StyleBlendError: it is damaged, would run code, or is of another format, architecture or resolution. One line.
    """
    if entry.format == "torchscript":
        _expect_torchscript(path)
    elif entry.format == "tflite":
        TfliteNetwork(tflite_graph.read_file(path))
    elif entry.format == "task":
        for graph in tflite_graph.read_bundle(path):
            TfliteNetwork(graph)
    elif entry.format == "tfjs_layers":
        tfjs_layers.read(path)
    elif entry.format == "onnx":
        outputs = len(parsed(path).graph.output)
        if entry.outputs not in (None, outputs):
            differ = f"{path} has {outputs} outputs, {entry.name} has {entry.outputs}"
            raise StyleBlendError(f"{differ}: it is another network")
        if {"identity", "identity_judge"} & set(entry.roles):
            arcface_onnx.load(path)
    elif entry.format == "dlib":
        dlib_resnet.load(path)
    elif entry.format == "tfjs":
        face_graphs.load(path)
    elif "decoder" in entry.roles:
        side = stylegan.largest_side(path)
        if entry.resolution not in (None, side):
            raise StyleBlendError(f"{path} draws {side} px, {entry.name} draws {entry.resolution}: it is another file")
    else:
        _expect_tensors(path, entry)


def _expect_torchscript(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise StyleBlendError(f"{path} is no TorchScript ({error}): get it again") from None
    if not any("/code/" in name for name in names):
        raise StyleBlendError(f"{path} is no TorchScript: it holds no code; get the file of StyleGAN's metrics")


def _expect_tensors(path: Path, entry: Entry) -> None:
    state = read_torch(path)
    if not isinstance(state, dict):
        raise StyleBlendError(f"{path} holds {type(state).__name__} and no state dict: it is not {entry.name}")
    for name, shape in entry.tensors.items():
        value, wanted = state.get(name), f"{entry.name} of {list(shape)}: it is another network"
        if not isinstance(value, Tensor):
            raise StyleBlendError(f"{path} has no weights '{name}', {wanted}")
        if tuple(value.shape) != shape:
            raise StyleBlendError(f"{path} has '{name}' of {list(value.shape)}, {wanted}")
