"""Files in dlib's serialisation, with the face recognition network's form and fewer layers, and what they compute."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
MEANS = (122.5, 117.25, 104.125)
SIDE_PX = 43


def integer(value: int) -> bytes:
    """dlib's integer: a byte with the number of bytes and, as highest bit, the sign; the bytes, lowest first."""
    size = max(1, (abs(value).bit_length() + 7) // 8)
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, "little")


def real(value: float) -> bytes:
    """dlib's real number: mantissa and exponent of two."""
    mantissa, exponent = math.frexp(value)
    return integer(int(mantissa * 2**24)) + integer(exponent - 24)


def text(value: str) -> bytes:
    return integer(len(value)) + value.encode()


def tensor(values: Values) -> bytes:
    sizes = (values.size, 1, 1, 1) if values.size else (0, 0, 0, 0)
    return b"".join(integer(each) for each in (2, *sizes)) + values.astype("<f4").tobytes()


def alias(*sizes: int) -> bytes:
    return b"".join(integer(each) for each in (1, *sizes))


END = b"110" + 3 * tensor(np.zeros(0, np.float32))
"""What follows each layer: three truth values, and tensors that a training left empty."""


@dataclass
class Net:
    """A small network: the stem's width, widths of the blocks, which of these halve the side beside those where the
    width grows, and how many numbers it gives."""

    stem: int = 4
    blocks: tuple[int, ...] = (4, 6, 6, 9)
    outputs: int = 5
    seed: int = 0
    means: tuple[float, float, float] = MEANS
    side_px: int = SIDE_PX
    halving: tuple[int, ...] = ()
    convolutions: list[tuple[Values, Values, Values, Values]] = field(default_factory=list)
    """Kernel, bias, scale and shift of each, in order."""
    linear: Values = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        shapes, width = [(self.stem, 3, 7, 7)], self.stem
        for block in self.blocks:
            shapes += [(block, width, 3, 3), (block, block, 3, 3)]
            width = block
        for shape in shapes:
            kernel = random.normal(size=shape) / math.sqrt(math.prod(shape[1:]))
            rest = [random.normal(size=shape[0]) * 0.3, random.uniform(0.5, 2, shape[0]), random.normal(size=shape[0])]
            self.convolutions.append(tuple(np.float32(each) for each in (kernel, *rest)))  # type: ignore[arg-type]
        self.linear = np.float32(random.normal(size=(width, self.outputs)))

    def layers(self) -> list[bytes]:
        """The records of the layers in order, each with what follows it."""
        stored = [*self._convolution(0, 2, 0), text("relu_"), text("max_pool_2") + _six(3, 3, 2, 2, 0, 0)]
        width = self.stem
        for number, block in enumerate(self.blocks):
            down = self._halves(number, width)
            width = block
            one = self._convolution(1 + 2 * number, 2 if down else 1, 0 if down else 1)
            two = self._convolution(2 + 2 * number, 1, 1)
            pool = [text("avg_pool_2") + _six(2, 2, 2, 2, 0, 0)] if down else []
            stored += [*one, text("relu_"), *two, *pool, text("add_prev_"), text("relu_")]
        last = text("fc_2") + integer(self.outputs) + integer(width) + tensor(self.linear)
        last += alias(width, self.outputs, 1, 1) + alias(0, 0, 0, 0) + integer(1) + 4 * real(1.0)
        return [*stored, text("avg_pool_2") + _six(0, 0, 1, 1, 0, 0), last]

    def _halves(self, number: int, width: int) -> bool:
        return self.blocks[number] > width or number in self.halving

    def _convolution(self, number: int, stride: int, border: int) -> list[bytes]:
        kernel, bias, scale, shift = self.convolutions[number]
        filters, _, rows, columns = kernel.shape
        first = text("con_4") + tensor(np.concatenate([kernel.ravel(), bias]))
        first += b"".join(integer(each) for each in (filters, rows, columns, stride, stride, border, border))
        first += alias(*kernel.shape) + alias(1, filters, 1, 1) + 3 * real(1.0) + real(0.0)
        affine = text("affine_") + tensor(np.concatenate([scale, shift]))
        affine += 2 * alias(1, filters, 1, 1) + integer(0)
        return [first, affine]

    def content(self, layers: list[bytes] | None = None) -> bytes:
        """The file, with other layers in place of its own."""
        layers = self.layers() if layers is None else layers
        head = integer(1) + text("loss_metric_2") + real(0.04) + real(0.6)
        head += integer(2) * len(layers) + integer(3) + text("input_rgb_image_sized")
        head += b"".join(real(each) for each in self.means) + 2 * integer(self.side_px)
        first, *others = (each + END for each in layers)
        return head + first + integer(1) + b"".join(others)

    def reference(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """What the network gives for a chip [S, S, 3], by plain loops in float64, without folding anything."""
        maps = ((pixels.astype(np.float64) - self.means) / 256).transpose(2, 0, 1)
        maps = _pooled(np.maximum(self._at(0, maps, 2, 0), 0), 3, np.max)
        width = self.stem
        for number, block in enumerate(self.blocks):
            down = self._halves(number, width)
            width = block
            out = np.maximum(self._at(1 + 2 * number, maps, 2 if down else 1, 0 if down else 1), 0)
            out = self._at(2 + 2 * number, out, 1, 1)
            other = _pooled(maps, 2, np.mean) if down else maps
            total = np.zeros(np.maximum(out.shape, other.shape))
            for each in (out, other):
                total[: each.shape[0], : each.shape[1], : each.shape[2]] += each
            maps = np.maximum(total, 0)
        return maps.mean((1, 2)) @ self.linear.astype(np.float64)

    def _at(self, number: int, maps: NDArray[np.float64], stride: int, border: int) -> NDArray[np.float64]:
        kernel, bias, scale, shift = (each.astype(np.float64) for each in self.convolutions[number])
        maps = np.pad(maps, ((0, 0), (border, border), (border, border)))
        size = kernel.shape[2]
        rows = range(0, maps.shape[1] - size + 1, stride)
        out = [[(kernel * maps[:, y : y + size, x : x + size]).sum((1, 2, 3)) for x in rows] for y in rows]
        return (np.array(out).transpose(2, 0, 1) + bias[:, None, None]) * scale[:, None, None] + shift[:, None, None]


def _six(*numbers: int) -> bytes:
    return b"".join(integer(each) for each in numbers)


def _pooled(maps: NDArray[np.float64], size: int, reduce: object) -> NDArray[np.float64]:
    """Windows of stride 2 without a border."""
    places = range(0, maps.shape[1] - size + 1, 2)
    rows = [[reduce(maps[:, y : y + size, x : x + size], axis=(1, 2)) for x in places] for y in places]  # type: ignore[operator]
    return np.array(rows).transpose(2, 0, 1)


def write_full(path: Path) -> Path:
    """A network of random weights with the sizes of dlib's own; 22 MB."""
    blocks = (32,) * 3 + (64,) * 4 + (128,) * 3 + (256,) * 4
    means = (122.782, 117.001, 104.298)
    return write(Net(stem=32, blocks=blocks, outputs=128, means=means, side_px=150, halving=(13,)), path)


def write(net: Net, path: Path) -> Path:
    """The network in a file."""
    path.write_bytes(net.content())
    return path
