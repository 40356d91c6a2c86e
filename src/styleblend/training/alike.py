"""Workers that begin alike: all get the state of rank 0, and what each has read by itself is compared.

So only rank 0 has to reach a checkpoint, and a machine with another file or another version ends the run in one line
before it has taught anything wrong.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from styleblend.config.training import Training
from styleblend.errors import StyleBlendError
from styleblend.system.files import fingerprint
from styleblend.training.batches import Faces
from styleblend.training.checkpoint import Stateful
from styleblend.training.generated import Perception

if TYPE_CHECKING:
    from styleblend.training.loop import Worker

_COMPUTES = ("faces", "model", "perception", "training")


def share(parts: Mapping[str, Stateful], facts: Mapping[str, Any], worker: Worker) -> dict[str, Any]:
    """Give rank 0's `parts` and plain `facts` to all workers; returns the facts. All must call it together.

    Raises:
        StyleBlendError: a worker does not have rank 0's state afterwards.
    """
    if worker.world_size == 1:
        return dict(facts)
    if worker.rank == 0:
        states = {name: part.state_dict() for name, part in parts.items()}
        tensors = list(_tensors(states))
        saved = _saved({"states": _outlined(states), "here": _places(tensors), "facts": dict(facts)})
        size = torch.tensor([len(saved)], device=worker.device)
        worker.broadcast([size])
        worker.broadcast([torch.frombuffer(bytearray(saved), dtype=torch.uint8).to(worker.device)])
        worker.broadcast([tensor.detach().contiguous() for tensor in tensors])
    else:
        size = torch.zeros(1, dtype=torch.int64, device=worker.device)
        worker.broadcast([size])
        received = torch.empty(int(size), dtype=torch.uint8, device=worker.device)
        worker.broadcast([received])
        outline = torch.load(io.BytesIO(received.cpu().numpy().tobytes()), weights_only=True)
        facts, states = outline["facts"], _empty(outline["states"], outline["here"], worker.device)
        worker.broadcast(list(_tensors(states)))
        for name, part in parts.items():
            part.load_state_dict(states[name])
    compare({name: part.state_dict() for name, part in parts.items()}, worker)
    return dict(facts)


def compare(things: Mapping[str, Any], worker: Worker) -> None:
    """See that all workers have equal things: texts, networks, tensors, or mappings and sequences of such.

    Raises:
        StyleBlendError: on all workers alike, where one has another than rank 0; names it and the thing.
    """
    # A row of each worker, two numbers a thing; below 2^32, so that no mean of them loses a digit.
    table = torch.zeros(worker.world_size, len(things), 2, dtype=torch.float64)
    for column, thing in enumerate(things.values()):
        digest = hashlib.sha256()
        _feed(digest, thing)
        start = digest.digest()
        for half in range(2):
            table[worker.rank, column, half] = int.from_bytes(start[4 * half : 4 * half + 4], "big")
    table = table.to(worker.device)
    worker.average([table])
    rows = (table * worker.world_size).round().cpu()
    for rank in range(1, worker.world_size):
        others = [name for column, name in enumerate(things) if not rows[rank, column].equal(rows[0, column])]
        if others:
            raise StyleBlendError(
                f"worker {rank} of {worker.world_size} begins with another {' and another '.join(others)} than worker"
                " 0: see that all machines have the same files and the same versions of this project and of torch"
            )


def read_by_each(cfg: Training, perception: Perception, faces: Faces) -> dict[str, Any]:
    """What every worker has read by itself, by its name for people, to be compared."""
    package = Path(__file__).parents[1]
    swaps = None if faces.true_swaps is None else faces.true_swaps.identity
    drawn = [None if each is None else torch.from_numpy(each) for each in (faces.persons, faces.chances, swaps)]
    known = (faces.face_ids, faces.identity, faces.landmarks, faces.size_px, drawn)
    return {
        "version of this project": fingerprint(*(package / name for name in _COMPUTES)),
        "version of torch": torch.__version__,
        "section of params.yaml": cfg.model_dump_json(),
        "set of frozen networks": [each for each in perception if each is not None],
        "table of faces": known,
    }


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same nest of mappings and sequences with its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(each, change) for each in value]
    return value


def _outlined(states: Any) -> Any:
    """Tensors without their values: one element, shown in the whole shape, is all that is saved of each."""
    return _mapped(states, lambda each: torch.zeros((), dtype=each.dtype).expand(each.shape))


def _places(tensors: Sequence[Tensor]) -> list[bool]:
    """Which tensors stay on the CPU: an Adam may keep its count of steps there."""
    return [tensor.device.type == "cpu" for tensor in tensors]


def _empty(outline: Any, on_cpu: Sequence[bool], device: torch.device) -> Any:
    places = iter(on_cpu)

    def made(each: Tensor) -> Tensor:
        return torch.empty(each.shape, dtype=each.dtype, device="cpu" if next(places) else device)

    return _mapped(outline, made)


def _saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


class _Digest(Protocol):
    def update(self, data: Any, /) -> None: ...


def _feed(digest: _Digest, value: Any) -> None:
    """Names and values in their order, to the last bit."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        plain = value.detach().cpu().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        for key, each in value.items():
            digest.update(f"{key}:".encode())
            _feed(digest, each)
    elif isinstance(value, list | tuple):
        for each in value:
            _feed(digest, each)
    else:
        digest.update(f"{value!r};".encode())
