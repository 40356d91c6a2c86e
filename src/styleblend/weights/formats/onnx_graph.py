"""Reading an ONNX graph node by node, so that a network can be built from it without running it.

Names in such files are the exporter's and mean nothing: only operators, attributes, shapes and the wiring count.
onnx2torch cannot replace this: it converts any graph that it can, where this refuses all but the expected one, and it
imports torchvision, whose wheels on PyPI do not load beside a CPU build of torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from styleblend.errors import StyleBlendError
from styleblend.system.download import is_web_page


class GraphError(StyleBlendError):
    """The file holds another graph than the expected one. The message names the first node that differs."""


@dataclass(frozen=True)
class Flow:
    """What a node hands on: its name in the graph, its channels and the side of its maps (0 for a vector)."""

    name: str
    channels: int
    side: int = 0


class GraphWalk:
    """The compute nodes of a file in their order, each taken once and checked as it is taken.

    Constants, and copies of constants, are no compute nodes: exporters store equal initialisers once and copy them.

    Args:
        path: an ONNX file with all its weights inside, of one input and one output.
        form: what the graph should be, for messages.

    Raises:
        StyleBlendError: the file is missing or is no such ONNX file.
    """

    def __init__(self, path: Path, form: str) -> None:
        self.path, self.form = path, form
        graph = parsed(path).graph
        self.constants = {each.name: _array(each, path) for each in graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = _constant(node, path)
            elif node.op_type == "Identity" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
            else:
                self._nodes.append(node)
        inputs = [each for each in graph.input if each.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise GraphError(
                f"{path} has {len(inputs)} inputs and {len(graph.output)} outputs, {form} has one of each: "
                "choose the recognition file of the pack"
            )
        self._input, self._output = inputs[0], graph.output[0].name
        self._place = 0

    def start(self, channels: int, side: int) -> Flow:
        """The graph's input, which must be [any, channels, side, side].

        Raises:
            GraphError: it has another shape.
        """
        sizes = [dim.dim_value for dim in self._input.type.tensor_type.shape.dim]
        if sizes[1:] != [channels, side, side]:
            raise GraphError(f"{self.path} reads pictures {sizes}, {self.form} reads [any, {channels}, {side}, {side}]")
        return Flow(self._input.name, channels, side)

    def peek(self, ahead: int = 0) -> str:
        """Operator of the node that comes next, or of one behind it; empty at the end of the graph."""
        place = self._place + ahead
        return self._nodes[place].op_type if place < len(self._nodes) else ""

    def peek_attribute(self, name: str, default: Any) -> Any:
        """Attribute of the node that comes next."""
        return _attributes(self._nodes[self._place]).get(name, default) if self.peek() else default

    def peek_input(self) -> str:
        """Name of what the node that comes next reads first."""
        return next(iter(self._nodes[self._place].input), "") if self.peek() else ""

    def take(self, operator: str, reads: list[str], **attributes: tuple[Any, Any]) -> Node:
        """The next node, if it is what it should be.

        Args:
            reads: names of its first inputs, in this order.
            attributes: all that it may have, as `name=(expected, default)`: the value, None for any, and the
                one that ONNX defines for a file that leaves it out.

        Raises:
            GraphError: the graph ends here, or the node differs; says in what.
        """
        if not self.peek():
            raise GraphError(f"{self.path} ends after {len(self._nodes)} nodes, {self.form} goes on with {operator}")
        node = Node(self, self._nodes[self._place], self._place + 1)
        self._place += 1
        if node.proto.op_type != operator or node.proto.domain not in ("", "ai.onnx"):
            raise node.differs(f"expected {operator}")
        if list(node.proto.input)[: len(reads)] != reads:
            raise node.differs(f"it reads ({', '.join(node.proto.input)}), expected ({', '.join(reads)})")
        for name in node.attributes.keys() - attributes.keys():
            raise node.differs(f"it has the attribute {name} = {node.attributes[name]}, which {self.form} has not")
        for name, (expected, default) in attributes.items():
            found = node.attributes.get(name, default)
            if expected is not None and found != expected:
                raise node.differs(f"its {name} is {found}, expected {expected}")
        if len(node.proto.output) != 1:
            raise node.differs(f"it has {len(node.proto.output)} outputs, expected one")
        return node

    def finish(self, flow: Flow) -> None:
        """Check that the graph ends here and gives `flow`.

        Raises:
            GraphError: more nodes follow, or something else is the output.
        """
        if self.peek():
            raise Node(self, self._nodes[self._place], self._place + 1).differs("expected the end of the graph")
        if flow.name != self._output:
            raise GraphError(f"{self.path} gives '{self._output}', {self.form} gives its last node's '{flow.name}'")

    def __len__(self) -> int:
        return len(self._nodes)


@dataclass(frozen=True)
class Node:
    """A node that was taken: `number` counts compute nodes from 1."""

    walk: GraphWalk
    proto: onnx.NodeProto
    number: int

    @property
    def attributes(self) -> dict[str, Any]:
        return _attributes(self.proto)

    @property
    def output(self) -> str:
        return self.proto.output[0]

    def has(self, position: int) -> bool:
        """Whether the node has an input at this place; an empty name stands for none."""
        return len(self.proto.input) > position and bool(self.proto.input[position])

    def constant(self, position: int) -> NDArray[Any]:
        """The stored array that is its input at this place.

        Raises:
            GraphError: there is none.
        """
        array = self.walk.constants.get(self.proto.input[position]) if self.has(position) else None
        if array is None:
            raise self.differs(f"its input {position + 1} is not stored in the file")
        return array

    def weights(self, position: int, *shape: int | None) -> Tensor:
        """The float32 weights that are its input at this place, of a shape in which None stands for any size.

        Raises:
            GraphError: there are none, or they have another type or shape or values that are not finite.
        """
        array = self.constant(position)
        sizes = zip(array.shape, shape, strict=False)
        fits = array.ndim == len(shape) and all(want in (None, got) for got, want in sizes)
        name = f"its input {position + 1}"
        if not fits or array.dtype != np.float32:
            want = ", ".join("any" if size is None else str(size) for size in shape)
            raise self.differs(f"{name} is {array.dtype} {list(array.shape)}, expected float32 [{want}]")
        if not np.isfinite(array).all():
            raise self.differs(f"{name} holds values that are not finite")
        return torch.from_numpy(array.copy())

    def differs(self, reason: str) -> GraphError:
        """The error that names this node."""
        return GraphError(
            f"{self.walk.path} is no {self.walk.form}: node {self.number} of {len(self.walk)} "
            f"({self.proto.op_type} '{self.proto.name}') differs: {reason}"
        )


def parsed(path: Path) -> onnx.ModelProto:
    """The content of an ONNX file; nothing of it is run.

    Raises:
        StyleBlendError: it is missing, damaged, of another format or empty; one line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StyleBlendError(f"{path} cannot be read ({error.strerror}): give an ONNX file") from None
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError:
        what = "a web page" if is_web_page(path) else f"{len(content)} bytes that are truncated or of another format"
        raise StyleBlendError(f"{path} is no ONNX file but {what}: get it again") from None
    if not model.graph.node:
        raise StyleBlendError(f"{path} holds no ONNX graph ({len(content)} bytes): get it again")
    return model


def _array(tensor: onnx.TensorProto, path: Path) -> NDArray[Any]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise StyleBlendError(f"{path} keeps its weights in another file: give an ONNX file that holds them itself")
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise StyleBlendError(f"{path} is damaged at '{tensor.name}' ({reason}): get it again") from None


def _constant(node: onnx.NodeProto, path: Path) -> NDArray[Any]:
    value = _attributes(node).get("value")
    if not isinstance(value, onnx.TensorProto):
        raise GraphError(f"{path} has a constant '{node.name}' that is no array")
    return _array(value, path)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
