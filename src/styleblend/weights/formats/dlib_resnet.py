"""dlib's face recognition network (ResNet-29, D. King 2017), read from dlib's own serialisation into torch.

The file holds records in the order of the computation. An integer is a byte with its length (and its sign) and the
bytes, lowest first; a real number a mantissa and an exponent of two; a tensor its four sizes and little-endian floats.
Nothing else is accepted, and nothing may be left. A convolution is followed by one affine map of its channels, which
is folded into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.errors import StyleBlendError

_AGAIN = "get dlib_face_recognition_resnet_model_v1.dat again"


class _Wrong(Exception):
    """What the reader met in place of what it expects."""


@dataclass
class Record:
    """One layer: `numbers` are its sizes, strides and borders as they are stored; tensors are flat."""

    kind: str
    numbers: list[int] = field(default_factory=list)
    values: Tensor = field(default_factory=lambda: torch.zeros(0))


class _Stream:
    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.place + count > len(self.content):
            raise _Wrong(f"it ends at byte {len(self.content)}, within a record")
        self.place += count
        return self.content[self.place - count : self.place]

    def integer(self) -> int:
        (head,) = self.take(1)
        if not 1 <= head & 0x7F <= 8:
            raise _Wrong(f"byte {self.place - 1} begins no integer")
        value = int.from_bytes(self.take(head & 0x7F), "little")
        return -value if head & 0x80 else value

    def integers(self, count: int) -> list[int]:
        return [self.integer() for _ in range(count)]

    def text(self) -> str:
        length = self.integer()
        if not 0 < length < 40:
            raise _Wrong(f"byte {self.place} begins no name")
        return self.take(length).decode("ascii", "replace")

    def real(self) -> float:
        mantissa, exponent = self.integers(2)
        return float(mantissa) * 2.0 ** max(min(exponent, 999), -999)

    def flag(self) -> None:
        if (letter := self.take(1)) not in (b"0", b"1"):
            raise _Wrong(f"byte {self.place - 1} is {letter!r}, no truth value")

    def tensor(self) -> Tensor:
        version, *sizes = self.integers(5)
        if version != 2 or min(sizes) < 0:
            raise _Wrong(f"a tensor of version {version} and sizes {sizes} ends at byte {self.place}")
        values = torch.from_numpy(np.frombuffer(self.take(4 * prod(sizes)), "<f4").astype(np.float32))
        if not values.isfinite().all():
            raise _Wrong(f"the tensor that ends at byte {self.place} has values that are not finite")
        return values


def _convolution(stream: _Stream) -> Record:
    values, numbers = stream.tensor(), stream.integers(7)
    stream.integers(10)  # where kernels and biases lie
    for _ in range(4):  # rates of learning
        stream.real()
    return Record("convolution", numbers, values)


def _affine(stream: _Stream) -> Record:
    values = stream.tensor()
    stream.integers(11)
    return Record("affine", [], values)


def _linear(stream: _Stream) -> Record:
    numbers, values = stream.integers(2), stream.tensor()
    stream.integers(10)
    if stream.integer() != 1:
        raise _Wrong(f"the linear layer that ends at byte {stream.place} has a bias")
    for _ in range(4):
        stream.real()
    return Record("linear", numbers, values)


_LAYERS: dict[str, Callable[[_Stream], Record]] = {
    "con_4": _convolution,
    "affine_": _affine,
    "relu_": lambda stream: Record("relu"),
    "add_prev_": lambda stream: Record("sum"),
    "max_pool_2": lambda stream: Record("largest", stream.integers(6)),
    "avg_pool_2": lambda stream: Record("mean", stream.integers(6)),
    "fc_2": _linear,
}


@dataclass(frozen=True)
class Stored:
    """What the file holds: means of red, green and blue, side of the chip in pixels, and the layers in order."""

    means: tuple[float, float, float]
    side_px: int
    layers: tuple[Record, ...]


def read(path: Path) -> Stored:
    """All records of the file.

    Raises:
        StyleBlendError: it is missing, damaged, or of another form; says where.
    """
    try:
        stream = _Stream(path.read_bytes())
    except OSError as error:
        raise StyleBlendError(f"{path} cannot be read ({error.strerror}): {_AGAIN}") from None
    try:
        return _stored(stream)
    except _Wrong as wrong:
        raise StyleBlendError(f"{path} is not dlib's face recognition network: {wrong}; {_AGAIN}") from None


def _stored(stream: _Stream) -> Stored:
    stream.integer()
    if (loss := stream.text()) != "loss_metric_2":
        raise _Wrong(f"it begins with '{loss}', wanted 'loss_metric_2'")
    stream.real(), stream.real()  # margin and threshold of the training
    # Each layer that encloses the input writes its version first; the innermost one's is 3.
    while stream.integer() != 3:
        pass
    if (first := stream.text()) != "input_rgb_image_sized":
        raise _Wrong(f"its input is '{first}', wanted 'input_rgb_image_sized'")
    red, green, blue = (stream.real() for _ in range(3))
    rows, columns = stream.integers(2)
    if rows != columns or not 1 <= rows <= 1024:
        raise _Wrong(f"it reads pictures of {columns}x{rows} px")
    layers: list[Record] = []
    while stream.place < len(stream.content):
        if (name := stream.text()) not in _LAYERS:
            raise _Wrong(f"layer {len(layers)} is a '{name}', known are {', '.join(_LAYERS)}")
        layers.append(_LAYERS[name](stream))
        for _ in range(3):  # states of the training
            stream.flag()
        for _ in range(3):
            if len(stream.tensor()):
                raise _Wrong(f"layer {len(layers) - 1} ({name}) keeps values of a training")
        if len(layers) == 1:
            stream.integer()  # how many chips a picture gives
    return Stored((red, green, blue), rows, tuple(layers))


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a mean over 2x2 where the block halves the side."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, halves: bool) -> None:
        super().__init__()
        self.first, self.second, self.halves = first, second, halves

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(F.relu(self.first(x)))
        shortcut = F.avg_pool2d(x, 2, 2) if self.halves else x
        # dlib adds maps of unlike sizes as if the smaller were continued by zeros.
        sizes = [max(a, b) for a, b in zip(out.shape, shortcut.shape, strict=True)]
        return F.relu(_continued(out, sizes) + _continued(shortcut, sizes))


def _continued(maps: Tensor, sizes: Sequence[int]) -> Tensor:
    lack = [wanted - size for wanted, size in zip(sizes, maps.shape, strict=True)]
    return F.pad(maps, (0, lack[3], 0, lack[2], 0, lack[1])) if any(lack) else maps


class DlibResNet(nn.Module):
    """Chips [N, 3, side_px, side_px] in [-1, 1] RGB to vectors [N, 128] that are compared by Euclidean distance."""

    means: Tensor

    def __init__(self, stored: Stored) -> None:
        super().__init__()
        self.side_px = stored.side_px
        self.register_buffer("means", torch.tensor(stored.means).reshape(1, 3, 1, 1))
        layers = list(stored.layers)
        self.stem = _folded(layers, 3)
        _expect(layers, "relu")
        pool = _expect(layers, "largest").numbers
        if pool != [3, 3, 2, 2, 0, 0]:
            raise _Wrong(f"its first pooling is {pool}, wanted 3x3 of stride 2 without a border")
        blocks, width = [], self.stem.out_channels
        while layers and layers[0].kind == "convolution":
            block = _block(layers, width)
            blocks.append(block)
            width = block.second.out_channels
        self.blocks = nn.Sequential(*blocks)
        if (mean := _expect(layers, "mean").numbers) != [0, 0, 1, 1, 0, 0]:
            raise _Wrong(f"its last mean is {mean}, wanted that of all places")
        last = _expect(layers, "linear")
        outputs, inputs = last.numbers
        if inputs != width or len(last.values) != inputs * outputs or layers:
            raise _Wrong(f"it ends with a linear layer of {inputs} to {outputs} after {width} channels")
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.linear.weight.data = last.values.reshape(inputs, outputs).T.contiguous()

    def maps(self, chips: Tensor) -> Tensor:
        """The last maps [N, C, h, w]."""
        out: Tensor = self.blocks(F.max_pool2d(self._first(chips), 3, 2))
        return out

    def _first(self, chips: Tensor) -> Tensor:
        return F.relu(self.stem((127.5 * (chips + 1) - self.means) / 256))

    def maps_by_side(self, chips: Tensor) -> list[Tensor]:
        """The last maps [N, C, h, w] of each side, from the largest; chips may be of any side from side_px on."""
        found = [self._first(chips)]
        x = F.max_pool2d(found[0], 3, 2)
        for block in self.blocks:
            x = block(x)
            if found[-1].shape[2:] == x.shape[2:]:
                found[-1] = x
            else:
                found.append(x)
        return found

    def embedded(self, maps: Tensor) -> Tensor:
        """The vectors [N, 128] of the last maps."""
        out: Tensor = self.linear(maps.mean((2, 3)))
        return out

    def forward(self, chips: Tensor) -> Tensor:
        """[N, 3, side_px, side_px] in [-1, 1] -> [N, 128], not of unit length."""
        return self.embedded(self.maps(chips))


def _expect(layers: list[Record], *kinds: str) -> Record:
    if not layers or layers[0].kind not in kinds:
        found = f"a {layers[0].kind}" if layers else "the end"
        raise _Wrong(f"{found} comes where a {' or '.join(kinds)} is wanted, {len(layers)} layers before the end")
    return layers.pop(0)


def _block(layers: list[Record], width: int) -> Block:
    first = _folded(layers, width)
    _expect(layers, "relu")
    second = _folded(layers, first.out_channels)
    halves = bool(layers) and layers[0].kind == "mean"
    if halves and (pool := layers.pop(0).numbers) != [2, 2, 2, 2, 0, 0]:
        raise _Wrong(f"the shortcut of a block is a mean {pool}, wanted 2x2 of stride 2")
    _expect(layers, "sum")
    _expect(layers, "relu")
    return Block(first, second, halves)


def _folded(layers: list[Record], width: int) -> nn.Conv2d:
    """The convolution that comes next, with the affine map after it in its weights."""
    stored, affine = _expect(layers, "convolution"), _expect(layers, "affine").values
    filters, rows, columns, down, across, top, left = stored.numbers
    shape = (filters, width, rows, columns)
    if len(stored.values) != prod(shape) + filters or len(affine) != 2 * filters:
        raise _Wrong(f"a convolution to {list(shape)} has {len(stored.values)} values and {len(affine)} of its affine")
    convolution = nn.Conv2d(width, filters, (rows, columns), (down, across), (top, left))
    scale, shift = affine.chunk(2)
    kernel, bias = stored.values[:-filters].reshape(shape), stored.values[-filters:]
    convolution.weight.data = kernel * scale.reshape(-1, 1, 1, 1)
    convolution.bias.data = bias * scale + shift  # type: ignore[union-attr]
    return convolution


def load(path: Path) -> DlibResNet:
    """The network of the file, frozen, in eval mode, float32.

    Raises:
        StyleBlendError: the file is missing or damaged, or its layers do not make this network; says which.
    """
    stored = read(path)
    try:
        return DlibResNet(stored).eval().requires_grad_(False)
    except _Wrong as wrong:
        raise StyleBlendError(f"{path} is not dlib's face recognition network: {wrong}; {_AGAIN}") from None
