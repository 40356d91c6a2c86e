"""A TensorFlow Lite graph as a torch module, with gradients to its input and with batches of any size.

The files are written for one picture at a time: shapes in them begin with 1, which is the batch. An operator that
would mix the pictures of a batch is refused, and so is everything else that is not known here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from styleblend.weights.formats.tflite_graph import Graph, Operator, Slot, TfliteError
from styleblend.weights.formats.tflite_operators import OPERATORS, Call


class _Step(NamedTuple):
    """An operator: the numbers of what it takes and gives, and of what nobody takes after it."""

    call: Call
    takes: tuple[int, ...]
    gives: int
    done: tuple[int, ...]


class TfliteNetwork(nn.Module):
    """What a file computes, frozen, in float32.

    Attributes:
        reads: shape of the input for a batch of one; a picture's is (1, height, width, 3).
        writes: shapes of the outputs for a batch of one.

    Raises:
        TfliteError: an operator is unknown, would mix a batch, or gives another shape than the file says.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.reads, self._input = graph.reads.shape, graph.reads.number
        self._outputs = tuple(slot.number for slot in graph.writes)
        if not self.reads or self.reads[0] != 1:
            raise TfliteError(f"{graph.file} reads {list(self.reads)}, wanted a batch of one: it is another network")
        known = {self._input}
        steps = []
        for operator in graph.operators:
            steps.append(self._step(operator, known))
            known.add(operator.writes.number)
        last = {number: place for place, step in enumerate(steps) for number in step.takes}
        kept = {self._input, *self._outputs}
        self._steps = [
            step._replace(done=tuple(n for n in set(step.takes) if last[n] == place and n in known - kept))
            for place, step in enumerate(steps)
        ]
        self.requires_grad_(False).eval()
        self.writes = self._tried(graph)

    def train(self, mode: bool = True) -> TfliteNetwork:
        """Stays in eval mode, whatever the module around it does."""
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, *reads[1:]] -> the outputs in the file's order, each [N, *its shape[1:]].

        Raises:
            TfliteError: the input has another shape.
        """
        if x.shape[1:] != self.reads[1:]:
            raise TfliteError(f"the network reads [N, {str(list(self.reads[1:]))[1:]}, got {list(x.shape)}")
        flows = {self._input: x}
        for step in self._steps:
            flows[step.gives] = self._run(step, flows)
        return [flows[number] for number in self._outputs]

    def _step(self, operator: Operator, known: set[int]) -> _Step:
        if operator.kind not in OPERATORS:
            raise operator.differs(f"only {', '.join(sorted(OPERATORS))} are known here")
        call = OPERATORS[operator.kind](operator)
        takes = []
        for place in call.takes:
            slot = operator.reads[place] if place < len(operator.reads) else None
            if slot is None:
                raise operator.differs(f"its input {place + 1} is missing")
            if slot.number not in known:
                self._keep(slot, operator)
            takes.append(slot.number)
        return _Step(call, tuple(takes), operator.writes.number, ())

    def _keep(self, slot: Slot, operator: Operator) -> None:
        """Hold a stored array, as float32."""
        if slot.values is None:
            raise operator.differs(f"tensor {slot.number} is neither stored nor computed before")
        if not hasattr(self, name := _name(slot.number)):
            self.register_buffer(name, torch.from_numpy(np.array(slot.values, np.float32)), persistent=False)

    def _run(self, step: _Step, flows: dict[int, Tensor]) -> Tensor:
        taken = [flows[number] if number in flows else getattr(self, _name(number)) for number in step.takes]
        out = step.call.function(*taken)
        for number in step.done:
            del flows[number]  # or the maps of the first layers would fill the memory
        return out

    def _tried(self, graph: Graph) -> tuple[tuple[int, ...], ...]:
        """Shapes of the outputs, after a trial, without arithmetic, of a batch against what the file says of each step.

        A reshape taken literally would give wrong numbers for a batch, and no error.
        """
        known = {self._input: torch.empty(2, *self.reads[1:], device="meta")}
        buffers = {name: values.to("meta") for name, values in self.named_buffers()}
        for operator, step in zip(graph.operators, self._steps, strict=True):
            taken = [known[each] if each in known else buffers[_name(each)] for each in step.takes]
            try:
                out = step.call.function(*taken)
            except (RuntimeError, IndexError, ValueError) as error:
                raise operator.differs(" ".join(str(error).split())[:200]) from None
            said = operator.writes.shape
            # The last step may let the axis of the batch of one go; here it stays.
            lost = operator is graph.operators[-1] and len(said) < out.ndim
            if tuple(out.shape) != (2, *(said if lost else said[1:])) or not (lost or said[:1] == (1,)):
                raise operator.differs(f"a batch of two gives {list(out.shape)}, the file says {list(said)} for one")
            known[step.gives] = out
        if missing := [number for number in self._outputs if number not in known]:
            raise TfliteError(f"{graph.file} does not compute its outputs {missing}: it is damaged")
        return tuple((1, *known[number].shape[1:]) for number in self._outputs)


def _name(number: int) -> str:
    return f"stored_{number}"
