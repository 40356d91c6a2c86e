"""Reading a TensorFlow Lite file: its operators in their order, their options, and the arrays that it stores.

Nothing of the file is run. The flatbuffer's schema comes from the package tflite, generated from TensorFlow's own.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from numpy.typing import NDArray

from styleblend.errors import StyleBlendError

_TYPES: dict[int, type[np.generic]] = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
}
_NAMES = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
_OPTIONS = {code: name for name, code in vars(tflite.BuiltinOptions).items() if isinstance(code, int)}

# What reading a flatbuffer whose offsets lead astray ends in.
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, AttributeError, OverflowError)


class TfliteError(StyleBlendError):
    """The file cannot be used. The message names the file and the first thing that differs."""


@dataclass(frozen=True)
class Slot:
    """A tensor of the graph: its number, its shape for a batch of one, and its values where the file stores them."""

    number: int
    shape: tuple[int, ...]
    values: NDArray[Any] | None = None


@dataclass(frozen=True)
class Operator:
    """A step of the graph, number counted from 1; `place` names it in messages."""

    number: int
    kind: str
    reads: tuple[Slot | None, ...]
    writes: Slot
    options: Any
    file: str

    def differs(self, reason: str) -> TfliteError:
        """The error that names this operator."""
        return TfliteError(f"{self.file}: operator {self.number} ({self.kind}) cannot be used: {reason}")

    def values(self, position: int) -> NDArray[Any]:
        """The stored array that is its input at this place.

        Raises:
            TfliteError: there is none.
        """
        slot = self.reads[position] if position < len(self.reads) else None
        if slot is None or slot.values is None:
            raise self.differs(f"its input {position + 1} is not stored in the file")
        return slot.values

    def setting(self, name: str) -> Any:
        """One of its options, as the schema names it.

        Raises:
            TfliteError: the file stores no such option.
        """
        if not hasattr(self.options, name):
            raise self.differs(f"its option {name} is not stored in the file")
        return getattr(self.options, name)()


@dataclass(frozen=True)
class Graph:
    """The operators of a file, with half-precision constants as float32, and what goes in and out."""

    file: str
    operators: tuple[Operator, ...]
    reads: Slot
    writes: tuple[Slot, ...]


def read(content: bytes, file: str) -> Graph:
    """The graph of a .tflite file with one float32 input of a batch of one.

    Args:
        file: what the content is called in messages.
    Raises:
        TfliteError: it is no TensorFlow Lite file, is damaged, quantised or sparse, or has more than one input.
    """
    if len(content) < 8 or content[4:8] != b"TFL3":
        begins = "empty" if not content else f"{len(content)} bytes that begin with {content[:8]!r}"
        raise TfliteError(f"{file} is no TensorFlow Lite file but {begins}: get it again")
    try:
        return _Reader(content, file).graph()
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise TfliteError(f"{file} is a damaged TensorFlow Lite file ({reason}): get it again") from None


def read_file(path: Path) -> Graph:
    """As `read`, of a file on disk.

    Raises:
        TfliteError: it cannot be read, or as of `read`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TfliteError(f"{path} cannot be read ({error.strerror}): give a TensorFlow Lite file") from None
    return read(content, str(path))


MESH, BLENDSHAPES = "face_landmarks_detector.tflite", "face_blendshapes.tflite"
"""Members of MediaPipe's face_landmarker.task that are used here."""


def read_bundle(path: Path, members: Sequence[str] = (MESH, BLENDSHAPES)) -> list[Graph]:
    """The graphs of some members of a zip file, as MediaPipe's .task files are, in this order.

    Raises:
        TfliteError: it cannot be read, is no whole zip file or lacks a member, or as of `read`.
    """
    try:
        with zipfile.ZipFile(path) as bundle:
            contents = [bundle.read(member) for member in members]
    except KeyError:
        raise TfliteError(f"{path} does not hold {' and '.join(members)}: it is another bundle of networks") from None
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise TfliteError(f"{path} is no whole bundle of networks ({error}): get it again") from None
    return [read(content, f"{path}!{member}") for member, content in zip(members, contents, strict=True)]


class _Reader:
    def __init__(self, content: bytes, file: str) -> None:
        self.content, self.file = content, file
        self.model = tflite.Model.GetRootAsModel(content, 0)
        if self.model.SubgraphsLength() != 1:
            raise TfliteError(f"{file} holds {self.model.SubgraphsLength()} graphs, wanted one: it is another network")
        self.scheme = self.model.Subgraphs(0)
        # A length that damage made up would be counted for minutes.
        if max(self.scheme.TensorsLength(), self.scheme.OperatorsLength()) > len(content):
            raise ValueError("its lists are longer than the file")

    @cached_property
    def slots(self) -> list[Slot]:
        return [self._slot(number) for number in range(self.scheme.TensorsLength())]

    def _slot(self, number: int) -> Slot:
        tensor = self.scheme.Tensors(number)
        shape = tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength()))
        kind, scales = tensor.Type(), tensor.Quantization()
        if kind not in _TYPES or (scales is not None and scales.ScaleLength()):
            raise TfliteError(f"{self.file} is quantised at tensor {number}: give the file with float weights")
        if tensor.Sparsity() is not None:
            raise TfliteError(f"{self.file} stores tensor {number} sparsely: give the file with dense weights")
        buffer = self.model.Buffers(tensor.Buffer())
        if not buffer.DataLength():
            return Slot(number, shape)
        values = np.frombuffer(buffer.DataAsNumpy().tobytes(), _TYPES[kind]).reshape(shape)
        if not np.isfinite(values).all():
            raise TfliteError(f"{self.file} has values in tensor {number} that are not finite: get it again")
        return Slot(number, shape, values.astype(np.float32) if values.dtype == np.float16 else values)

    def graph(self) -> Graph:
        inputs = [int(self.scheme.Inputs(place)) for place in range(self.scheme.InputsLength())]
        if len(inputs) != 1:
            raise TfliteError(f"{self.file} has {len(inputs)} inputs, wanted one: it is another network")
        reads = self.slots[inputs[0]]
        operators = []
        for number in range(self.scheme.OperatorsLength()):
            operator = self._operator(number)
            if operator.kind == "DEQUANTIZE" and (stored := operator.reads[0]) and stored.values is not None:
                # Weights are stored in half precision; `_slot` made float32 of them.
                self.slots[operator.writes.number] = Slot(operator.writes.number, stored.shape, stored.values)
            else:
                operators.append(operator)
        outputs = tuple(self.slots[int(self.scheme.Outputs(place))] for place in range(self.scheme.OutputsLength()))
        return Graph(self.file, tuple(operators), reads, outputs)

    def _operator(self, place: int) -> Operator:
        operator = self.scheme.Operators(place)
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        # Files from before code 127 store it in the older, narrower field alone.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        kind = _NAMES.get(number, f"operator code {number}")
        if kind == "CUSTOM":
            kind = f"custom {(code.CustomCode() or b'?').decode(errors='replace')}"
        numbers = [int(operator.Inputs(each)) for each in range(operator.InputsLength())]
        if operator.OutputsLength() != 1:
            outputs = operator.OutputsLength()
            raise TfliteError(f"{self.file}: operator {place + 1} ({kind}) has {outputs} outputs, wanted one")
        reads = tuple(None if each < 0 else self.slots[each] for each in numbers)
        writes = self.slots[int(operator.Outputs(0))]
        return Operator(place + 1, kind, reads, writes, _options(operator), self.file)


def _options(operator: Any) -> Any:
    name, table = _OPTIONS.get(operator.BuiltinOptionsType(), "NONE"), operator.BuiltinOptions()
    if name == "NONE" or table is None:
        return None
    options = getattr(tflite, name)()
    options.Init(table.Bytes, table.Pos)
    return options
