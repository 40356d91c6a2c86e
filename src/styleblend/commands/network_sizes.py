"""Parameters, output shapes and products of a network and its modules, counted in one forward pass of a picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_ITSELF = "(itself)"


@dataclass(frozen=True)
class Row:
    """One module of a network, for one picture."""

    name: str
    """Path inside the network; "" is the whole network, an ending "(itself)" what is left beside its parts."""
    level: int
    parameters: int
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of its outputs without the batch; none for what is left beside the parts."""
    multiply_adds: int
    """Products of convolutions, linear layers and attention; norms, activations and resizing are left out."""


@contextmanager
def counted_products() -> Iterator[FlopCounterMode]:
    """A FlopCounterMode (it counts 2 for a multiply-add) that sees the products inside attention too."""
    # The counter does not know the CPU's fused attention; the plain one is made of products that it knows.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def modules(network: nn.Module, inputs: tuple[Any, ...], depth: int = 1) -> tuple[Row, ...]:
    """The network and its modules down to `depth`, from one forward pass of a batch of one.

    Parameters and multiply-adds of the rows of one level, with "(itself)", add up to those of the row above.
    """
    listed = [("", network, 0), *_below(network, "", 1, depth)]
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: Any, out: Any) -> None:
            shapes[name] = tuple(tuple(leaf.shape[1:]) for leaf in tree_leaves(out) if isinstance(leaf, Tensor))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module, _ in listed]
    try:
        with torch.no_grad(), counted_products() as counter, _without_gradients(network):
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    # The counter names modules from the class of the outermost one.
    root = type(network).__name__
    products = {name: sum(by_kind.values()) // 2 for name, by_kind in counter.get_flop_counts().items()}
    rows: list[Row] = []
    for place, (name, module, level) in enumerate(listed):
        own = sum(parameter.numel() for parameter in module.parameters())
        total = products.get(f"{root}.{name}" if name else root, 0)
        rows.append(Row(name, level, own, shapes.get(name, ()), total))
        below = []
        for entry in listed[place + 1 :]:
            if entry[2] <= level:
                break
            below += [entry] if entry[2] == level + 1 else []
        if below:
            left = own - sum(parameter.numel() for _, part, _ in below for parameter in part.parameters())
            rest = total - sum(products.get(f"{root}.{part}", 0) for part, _, _ in below)
            if left or rest:
                rows.append(Row(f"{name} {_ITSELF}".strip(), level + 1, left, (), rest))
    return tuple(rows)


@contextmanager
def _without_gradients(network: nn.Module) -> Iterator[None]:
    # Views of fake parameters claim to need gradients even under no_grad, and the counter stumbles over that.
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _below(module: nn.Module, prefix: str, level: int, depth: int) -> Iterator[tuple[str, nn.Module, int]]:
    if level > depth or is_parametrized(module):
        return
    for name, part in module.named_children():
        if isinstance(part, (nn.ModuleList, nn.ModuleDict)):
            # A mere container, which nobody calls.
            yield from _below(part, f"{prefix}{name}.", level, depth)
        else:
            yield f"{prefix}{name}", part, level
            yield from _below(part, f"{prefix}{name}.", level + 1, depth)
