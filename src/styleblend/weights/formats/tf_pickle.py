"""Pickled TensorFlow networks of NVIDIA's dnnlib, read without TensorFlow and without running what they hold.

Such a file names classes to build and carries the source code of its network. Here a name is looked up in a short list
and never imported: arrays are made by functions of this module, a network becomes a record of its state, and any other
name ends the reading. The source code stays a string.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from numbers import Number
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from styleblend.errors import StyleBlendError

Allowed = dict[tuple[str, str], Callable[..., Any]]

_NETWORK = ("dnnlib.tflib.network", "Network")
# What pickle and numpy raise when bytes are wrong or missing.
_PICKLE_DAMAGE = (pickle.UnpicklingError, EOFError, OSError, AttributeError, ImportError, LookupError, RecursionError)
_ARRAY_DAMAGE = (TypeError, ValueError, ArithmeticError, MemoryError)

# Arguments of NVIDIA's builder that change what is drawn, at the values that this project's decoder has built in.
_BUILT_IN: dict[str, Any] = {
    "num_channels": 3,
    "use_styles": True,
    "const_input_layer": True,
    "use_noise": True,
    "nonlinearity": "lrelu",
    "use_wscale": True,
    "use_pixel_norm": False,
    "use_instance_norm": True,
    "fused_scale": "auto",
    "blur_filter": [1, 2, 1],
    "mapping_nonlinearity": "lrelu",
    "mapping_lrmul": 0.01,
    "normalize_latents": True,
}


class Network(NamedTuple):
    """One network of a file: the arguments that its builder got, its own arrays by name, and its parts."""

    arguments: dict[str, Any]
    arrays: dict[str, np.ndarray]
    parts: dict[str, Network]


def read_generator(path: Path) -> dict[str, Tensor]:
    """Arrays of Gs, the last network of a StyleGAN1's file: "synthesis/..." and "mapping/..." of its parts, its own.

    Raises:
        StyleBlendError: as read_networks, or the generator was built with an option that this project's decoder does
            not have, or an array holds no numbers.
    """
    generator = read_networks(path)[-1]
    for network in (generator, *generator.parts.values()):
        for name, wanted in _BUILT_IN.items():
            if not _is(network.arguments.get(name, wanted), wanted):
                raise StyleBlendError(f"{path} was built with another {name} than {wanted}: it cannot be loaded")
    arrays = dict(generator.arrays)
    for part, network in generator.parts.items():
        arrays |= {f"{part}/{name}": array for name, array in network.arrays.items()}
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise StyleBlendError(f"{path} holds '{name}' of type {array.dtype}: expected floating-point numbers")
    return {name: torch.from_numpy(array.astype("f4")) for name, array in arrays.items()}


def _is(given: Any, wanted: Any) -> bool:
    """Equality that calls no method of an unknown value."""
    if isinstance(wanted, list):
        return isinstance(given, list | tuple) and len(given) == len(wanted) and all(map(_is, given, wanted))
    return isinstance(given, str | Number) and given == wanted


def read_networks(path: Path) -> list[Network]:
    """The networks of a file in their order: one, or the three (G, D, Gs) that training saves.

    Raises:
        StyleBlendError: the file is damaged, names a class or function that no network needs (with that name), or
            holds something else than networks.
    """
    allowed = _allowed()
    try:
        with path.open("rb") as stream:
            content = _Reader(stream, allowed, path).load()
    except (*_PICKLE_DAMAGE, *_ARRAY_DAMAGE) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise StyleBlendError(f"{path} is a damaged pickle ({reason}): fetch it again") from None
    record = allowed[_NETWORK]
    found = content if isinstance(content, tuple | list) else [content]
    if not found or not all(type(item) is record for item in found):
        raise StyleBlendError(f"{path} is a pickle without networks of dnnlib: expected the file of a StyleGAN")
    return [_network(item, record, path) for item in found]


class _Reader(pickle.Unpickler):
    """Looks names up in `allowed` and imports nothing."""

    def __init__(self, stream: Any, allowed: Allowed, path: Path) -> None:
        super().__init__(stream)
        self._names, self._path = allowed, path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._names:
            return self._names[module, name]
        what = f"{self._path} holds {module}.{name}, which no network needs"
        raise StyleBlendError(f"{what}: nothing of it was run; use another file")


def _allowed() -> Allowed:
    """What a file may name. Made anew for each file, so that none can change what the next is read with."""

    class Record:
        def __setstate__(self, state: Any) -> None:
            self.state = state

    def data_type(name: Any, *_: Any) -> np.dtype:
        if not (isinstance(name, str) and re.fullmatch(r"[<>=|]?[biuf][1248]", name)):
            raise pickle.UnpicklingError("an array of something else than numbers")
        # A copy: the file goes on to set its byte order.
        return np.dtype(name, copy=True)

    def empty_array(*_: Any) -> np.ndarray:
        return np.empty(0, np.int8)  # the file goes on to set its shape and values

    def scalar(kind: Any, value: bytes) -> Any:
        return np.frombuffer(value, kind)[0]

    def array(value: Any, kind: Any, shape: tuple[int, ...], order: Any) -> np.ndarray:
        return np.frombuffer(value, kind).reshape(shape, order=order).copy()

    names: Allowed = {_NETWORK: Record, ("numpy", "dtype"): data_type, ("numpy", "ndarray"): empty_array}
    # numpy 2 renamed the module that its pickles name.
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = empty_array
        names[f"{core}.multiarray", "scalar"] = scalar
        names[f"{core}.numeric", "_frombuffer"] = array
    return names


def _network(record: Any, kind: Any, path: Path, is_part: bool = False) -> Network:
    """The record's state, every item of it checked, since the file may say anything."""
    state = getattr(record, "state", None)
    if not isinstance(state, dict):
        raise StyleBlendError(f"{path} holds a network of dnnlib without its state: fetch it again")
    version = state.get("version")
    if not isinstance(version, int) or version not in (2, 3):
        shown = version if isinstance(version, int | str) else type(version).__name__
        raise StyleBlendError(f"{path} holds a network of dnnlib's version {shown}: only 2 and 3 are known")
    arguments, parts = state.get("static_kwargs", {}), state.get("components", {})
    if not isinstance(arguments, dict) or not isinstance(parts, dict) or (is_part and parts):
        raise StyleBlendError(f"{path} holds a network of dnnlib whose arguments or parts are damaged: fetch it again")
    if not all(isinstance(name, str) and type(part) is kind for name, part in parts.items()):
        raise StyleBlendError(f"{path} holds a network of dnnlib with a part that is no network: fetch it again")
    arrays = _arrays(state.get("variables"), path)
    return Network(arguments, arrays, {name: _network(part, kind, path, True) for name, part in parts.items()})


def _arrays(variables: Any, path: Path) -> dict[str, np.ndarray]:
    if not isinstance(variables, list):
        raise StyleBlendError(f"{path} holds a network of dnnlib without variables: fetch it again")
    arrays = {}
    for pair in variables:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise StyleBlendError(f"{path} holds a variable without name: fetch it again")
        name, value = pair
        if not isinstance(value, np.ndarray | np.generic):
            raise StyleBlendError(f"{path} holds '{name}' as {type(value).__name__} and no array: fetch it again")
        arrays[name] = np.asarray(value)
    return arrays
