"""The operators of TensorFlow Lite that face networks need, as torch functions of batches.

Maps are [N, H, W, C], as in the files. Seen as [N, C, H, W] they are torch's channels-last, so convolutions copy
nothing. Rules: the kernels' reference implementations in TensorFlow Lite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tflite
import torch
import torch.nn.functional as F
from torch import Tensor

from styleblend.weights.formats.tflite_graph import Operator


class Call(NamedTuple):
    """A function, and the places of the operator's inputs that it takes; what else it needs it knows."""

    function: Callable[..., Tensor]
    takes: tuple[int, ...] = (0,)


_ACTIVATIONS: dict[int, Callable[[Tensor], Tensor]] = {
    tflite.ActivationFunctionType.NONE: lambda x: x,
    tflite.ActivationFunctionType.RELU: torch.relu,
    tflite.ActivationFunctionType.RELU6: F.relu6,
}


def _activation(operator: Operator) -> Callable[[Tensor], Tensor]:
    code = operator.setting("FusedActivationFunction")
    if code not in _ACTIVATIONS:
        raise operator.differs(f"its activation has the code {code}, known are {sorted(_ACTIVATIONS)}")
    return _ACTIVATIONS[code]


def _same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Before and after, so that ceil(side / stride) places are left; the odd one comes after."""
    missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return missing // 2, missing - missing // 2


def _padding(operator: Operator, kernel: tuple[int, int], stride: tuple[int, int]) -> Callable[[Tensor], list[int]]:
    """Padding of maps [N, C, H, W] in the order of F.pad."""
    code = operator.setting("Padding")
    if code not in (tflite.Padding.SAME, tflite.Padding.VALID):
        raise operator.differs(f"its padding has the code {code}, wanted SAME or VALID")

    def amounts(x: Tensor) -> list[int]:
        if code == tflite.Padding.VALID:
            return [0, 0, 0, 0]
        rows, columns = (_same_padding(*each) for each in zip(x.shape[2:], kernel, stride, strict=True))
        return [*columns, *rows]

    return amounts


def _stride(operator: Operator) -> tuple[int, int]:
    return operator.setting("StrideH"), operator.setting("StrideW")


def _convolution(operator: Operator) -> Call:
    depthwise = operator.kind == "DEPTHWISE_CONV_2D"
    if (operator.setting("DilationHFactor"), operator.setting("DilationWFactor")) != (1, 1):
        raise operator.differs("it is dilated")
    filters, stride, activation = operator.values(1), _stride(operator), _activation(operator)
    if filters.ndim != 4 or (depthwise and filters.shape[0] != 1):
        raise operator.differs(f"its filters have the shape {list(filters.shape)}")
    padding = _padding(operator, filters.shape[1:3], stride)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        weight = weight.permute(3, 0, 1, 2) if depthwise else weight.permute(0, 3, 1, 2)
        left, right, top, bottom = padding(x)
        even = left == right and top == bottom
        if not even:
            x = F.pad(x, [left, right, top, bottom])
        around = (top, left) if even else (0, 0)
        out = F.conv2d(x, weight, bias, stride, around, groups=x.shape[1] if depthwise else 1)
        return activation(out.permute(0, 2, 3, 1))

    return Call(convolve, _present(operator, 3))


def _present(operator: Operator, most: int) -> tuple[int, ...]:
    """Places of its inputs; a missing bias is left out, or has no slot."""
    if not 2 <= len(operator.reads) <= most:
        raise operator.differs(f"it has {len(operator.reads)} inputs")
    return tuple(place for place, slot in enumerate(operator.reads) if slot is not None)


def _fully_connected(operator: Operator) -> Call:
    activation = _activation(operator)
    if operator.setting("WeightsFormat") != 0:
        raise operator.differs("its weights are shuffled")
    keep, width = operator.setting("KeepNumDims"), operator.values(1).shape[-1]

    def connect(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        flat = x if keep else x.reshape(len(x), width)
        return activation(F.linear(flat, weight, bias))

    return Call(connect, _present(operator, 3))


def _prelu(operator: Operator) -> Call:
    shape = operator.values(1).shape
    if shape[:-1] != (1,) * (len(shape) - 1):
        raise operator.differs(f"its slopes have the shape {list(shape)}, wanted one for each channel")
    return Call(lambda x, slope: F.prelu(x.transpose(1, -1), slope.flatten()).transpose(1, -1), (0, 1))


def _max_pool(operator: Operator) -> Call:
    kernel = (operator.setting("FilterHeight"), operator.setting("FilterWidth"))
    stride, activation = _stride(operator), _activation(operator)
    padding = _padding(operator, kernel, stride)

    def pool(x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        if any(around := padding(x)):
            x = F.pad(x, around, value=-torch.inf)
        return activation(F.max_pool2d(x, kernel, stride).permute(0, 2, 3, 1))

    return Call(pool)


def _pad(operator: Operator) -> Call:
    amounts = operator.values(1).tolist()
    if amounts[0] != [0, 0]:
        raise operator.differs(f"it pads the batch by {amounts[0]}")
    around = [amount for pair in reversed(amounts) for amount in pair]
    return Call(lambda x: F.pad(x, around))


def _arithmetic(operator: Operator) -> Call:
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "ADD": torch.add, "SUB": torch.sub, "MUL": torch.mul, "DIV": torch.div,
        "SQUARED_DIFFERENCE": lambda a, b: (a - b).square(),
    }  # fmt: skip
    function = functions[operator.kind]
    activation = _ACTIVATIONS[0] if operator.kind == "SQUARED_DIFFERENCE" else _activation(operator)
    return Call(lambda a, b: activation(function(a, b)), (0, 1))


def _pointwise(operator: Operator) -> Call:
    functions = {
        "LOGISTIC": torch.sigmoid, "NEG": torch.neg, "RELU": torch.relu, "RSQRT": torch.rsqrt, "SQRT": torch.sqrt,
    }  # fmt: skip
    return Call(functions[operator.kind])


def _reduction(operator: Operator) -> Call:
    source, keep = operator.reads[0], operator.setting("KeepDims")
    rank = len(source.shape) if source else 0
    axes = sorted({int(axis) % rank for axis in operator.values(1).flatten()})
    if 0 in axes or not axes:
        raise operator.differs(f"it joins the axes {axes}, of which 0 is the batch")
    function = torch.mean if operator.kind == "MEAN" else torch.sum
    return Call(lambda x: function(x, dim=axes, keepdim=keep))


def _reshape(operator: Operator) -> Call:
    shape = operator.writes.shape
    if not shape or shape[0] != 1:
        raise operator.differs(f"it gives {list(shape)}, which has no batch of one")
    return Call(lambda x: x.reshape(len(x), *shape[1:]))


def _transpose(operator: Operator) -> Call:
    order = operator.values(1).tolist()
    if order[0] != 0:
        raise operator.differs(f"its order of axes is {order}, which moves the batch")
    return Call(lambda x: x.permute(order))


def _concatenation(operator: Operator) -> Call:
    activation, axis = _activation(operator), operator.setting("Axis") % max(len(operator.writes.shape), 1)
    if axis == 0:
        raise operator.differs("it joins the pictures of a batch")

    def join(*parts: Tensor) -> Tensor:
        count = max(len(part) for part in parts)  # what the file stores is there once
        return activation(torch.cat([part.expand(count, *part.shape[1:]) for part in parts], dim=axis))

    return Call(join, tuple(range(len(operator.reads))))


def _strided_slice(operator: Operator) -> Call:
    """Its masks have a bit for each axis: begin and end that do not count, and axes of one that go away."""
    if operator.setting("EllipsisMask") or operator.setting("NewAxisMask"):
        raise operator.differs("it has an ellipsis or a new axis")
    source = operator.reads[0]
    sizes = source.shape if source else ()
    begins, ends, steps = (operator.values(place).tolist() for place in (1, 2, 3))
    masks = [operator.setting(f"{name}Mask") for name in ("Begin", "End", "ShrinkAxis")]
    places: list[slice | int] = []
    for axis, (size, begin, end, step) in enumerate(zip(sizes, begins, ends, steps, strict=True)):
        open_begin, open_end, gone = (bool(mask >> axis & 1) for mask in masks)
        part = slice(None if open_begin else begin, None if open_end else end, step)
        if step < 1:
            raise operator.differs(f"it goes along axis {axis} by {step}")
        places.append(begin if gone else part)
        if axis == 0 and (len(range(size)[part]) != 1 or (gone and begin not in (0, -1))):
            raise operator.differs("it takes a part of the batch")
    # The batch stays, also where the file lets the axis of its one picture go.
    return Call(lambda x: x[:, *places[1:]])


OPERATORS: dict[str, Callable[[Operator], Call]] = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _convolution),
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "SQUARED_DIFFERENCE"), _arithmetic),
    **dict.fromkeys(("LOGISTIC", "NEG", "RELU", "RSQRT", "SQRT"), _pointwise),
    **dict.fromkeys(("MEAN", "SUM"), _reduction),
    "CONCATENATION": _concatenation,
    "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _max_pool,
    "PAD": _pad,
    "PRELU": _prelu,
    "RESHAPE": _reshape,
    "STRIDED_SLICE": _strided_slice,
    "TRANSPOSE": _transpose,
}
