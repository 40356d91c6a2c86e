"""ArcFace recognition networks from insightface's ONNX files (w600k_r50, glintr100, w600k_mbf) as torch modules.

The files hold the graph of an evaluated network: batch norms that follow a convolution are folded into it, so
those convolutions have biases; the batch norms that stay are the ones before a convolution or at the end. The
module is built from the graph's nodes in their order, so widths and depths are the file's own.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from styleblend.weights.formats.onnx_graph import Flow, GraphWalk

SIDE_PX = 112
_FORM = "ArcFace network"
_STAGES = 4


class ArcFaceBody(nn.Module):
    """Faces in ArcFace's crop, [N, 3, 112, 112] RGB in [-1, 1], to embeddings [N, embedding] of any length.

    Frozen, and always in eval mode: its batch norms have no use for the statistics of a training batch.
    """

    def __init__(self, architecture: str, trunk: nn.Sequential, head: nn.Sequential, embedding: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.trunk, self.head = trunk, head
        self.embedding = embedding
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ArcFaceBody:
        """Stays in eval mode, whatever the module around it does."""
        return super().train(False)

    def maps(self, faces: Tensor) -> Tensor:
        """The last maps before they are flattened, [N, channels, 7, 7]."""
        out: Tensor = self.trunk(faces)
        return out

    def forward(self, faces: Tensor) -> Tensor:
        out: Tensor = self.head(self.maps(faces))
        return out


class ResidualBlock(nn.Module):
    """IResNet's block: norm, convolution, PReLU, strided convolution; added to the (projected) input."""

    def __init__(self, norm: nn.Module, conv1: nn.Module, act: nn.Module, conv2: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.norm, self.conv1, self.act, self.conv2, self.shortcut = norm, conv1, act, conv2, shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(self.act(self.conv1(self.norm(x)))) + self.shortcut(x)
        return out


class BottleneckBlock(nn.Module):
    """MobileFaceNet's block: widen, filter each channel, narrow; added to the input."""

    def __init__(self, path: nn.Sequential) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.path(x)
        return out


def load(path: Path) -> ArcFaceBody:
    """The network of an insightface recognition file: an IResNet of any depth, or a MobileFaceNet.

    Raises:
        GraphError: the graph is another one; names the first node that differs and how.
        StyleBlendError: the file is missing, damaged or no ONNX file.
    """
    walk = GraphWalk(path, _FORM)
    faces = walk.start(3, SIDE_PX)
    # The two differ in their first node: MobileFaceNet halves the picture there.
    mobile = walk.peek() == "Conv" and list(walk.peek_attribute("strides", [])) == [2, 2]
    return _mobilefacenet(walk, faces) if mobile else _iresnet(walk, faces)


def _iresnet(walk: GraphWalk, x: Flow) -> ArcFaceBody:
    walk.form = f"{_FORM} (IResNet)"
    stem, x = _conv(walk, x, 3)
    act, x = _prelu(walk, x)
    layers: list[nn.Module] = [stem, act]
    blocks: list[int] = []
    while len(blocks) < _STAGES or walk.peek(1) == "Conv":
        block, x, first = _residual_block(walk, x, len(blocks))
        layers.append(block)
        if first:
            blocks.append(1)
        else:
            blocks[-1] += 1
    norm, x = _norm(walk, x, nn.BatchNorm2d(x.channels))
    return _with_head(walk, x, "IResNet", blocks, [*layers, norm], [])


def _residual_block(walk: GraphWalk, x: Flow, stage: int) -> tuple[ResidualBlock, Flow, bool]:
    """The next block, what it gives, and whether it begins a stage (`stage` of them are there already).

    A block that halves the side begins a stage, and it alone projects its input.
    """
    norm, y = _norm(walk, x, nn.BatchNorm2d(x.channels))
    conv1, y = _conv(walk, y, 3)
    act, y = _prelu(walk, y)
    first = stage == 0 or (stage < _STAGES and list(walk.peek_attribute("strides", [])) == [2, 2])
    conv2, y = _conv(walk, y, 3, stride=2 if first else 1, outputs=None if first else x.channels)
    shortcut, kept = _conv(walk, x, 1, stride=2, outputs=y.channels) if first else (nn.Identity(), x)
    return ResidualBlock(norm, conv1, act, conv2, shortcut), _add(walk, y, kept), first


def _mobilefacenet(walk: GraphWalk, x: Flow) -> ArcFaceBody:
    walk.form = f"{_FORM} (MobileFaceNet)"
    layers, x = _conv_prelu(walk, x, 3, stride=2)
    blocks = [1]
    if list(walk.peek_attribute("kernel_shape", [])) == [3, 3]:
        more, x = _conv_prelu(walk, x, 3, groups=None, outputs=x.channels)
        layers += more
    else:
        found, x = _bottlenecks(walk, x)
        layers, blocks = layers + found, [len(found)]
    for _ in range(_STAGES - 1):
        narrowing, x = _depthwise(walk, x, stride=2)
        found, x = _bottlenecks(walk, x)
        layers += [*narrowing, *found]
        blocks.append(len(found))
    last, x = _conv_prelu(walk, x, 1)
    gathered, x = _conv(walk, x, x.side, groups=x.channels, outputs=x.channels)
    return _with_head(walk, x, "MobileFaceNet", blocks, [*layers, *last], [gathered])


def _bottlenecks(walk: GraphWalk, x: Flow) -> tuple[list[nn.Module], Flow]:
    """As many residual bottlenecks as follow; each ends in the graph's next Add."""
    blocks: list[nn.Module] = []
    while walk.peek(5) == "Add" or not blocks:
        path, y = _depthwise(walk, x, stride=1, outputs=x.channels)
        blocks.append(BottleneckBlock(nn.Sequential(*path)))
        x = _add(walk, y, x)
    return blocks, x


def _depthwise(walk: GraphWalk, x: Flow, stride: int, outputs: int | None = None) -> tuple[list[nn.Module], Flow]:
    widen, x = _conv_prelu(walk, x, 1)
    each, x = _conv_prelu(walk, x, 3, stride=stride, groups=x.channels, outputs=x.channels)
    narrow, x = _conv(walk, x, 1, outputs=outputs)
    return [*widen, *each, narrow], x


def _conv_prelu(
    walk: GraphWalk, x: Flow, kernel: int, stride: int = 1, groups: int | None = 1, outputs: int | None = None
) -> tuple[list[nn.Module], Flow]:
    conv, x = _conv(walk, x, kernel, stride, groups=groups, outputs=outputs)
    act, x = _prelu(walk, x)
    return [conv, act], x


def _conv(
    walk: GraphWalk, x: Flow, kernel: int, stride: int = 1, groups: int | None = 1, outputs: int | None = None
) -> tuple[nn.Conv2d, Flow]:
    """The next node as a convolution with a bias. None: any groups, any outputs.

    It is padded by half its kernel, but not where the kernel covers the whole map.
    """
    padding = 0 if kernel == x.side else kernel // 2
    groups = int(walk.peek_attribute("group", 1)) if groups is None else groups
    node = walk.take(
        "Conv",
        [x.name],
        kernel_shape=([kernel, kernel], [kernel, kernel]),
        strides=([stride, stride], [1, 1]),
        pads=([padding] * 4, [0] * 4),
        dilations=([1, 1], [1, 1]),
        group=(groups, 1),
        auto_pad=(b"NOTSET", b"NOTSET"),
    )
    if groups < 1 or x.channels % groups:
        raise node.differs(f"its group is {groups}, which does not divide {x.channels} channels")
    weight = node.weights(1, outputs, x.channels // groups, kernel, kernel)
    if len(weight) % groups:
        raise node.differs(f"its group is {groups}, which does not divide {len(weight)} channels")
    bias = node.weights(2, len(weight))
    conv = nn.Conv2d(x.channels, len(weight), kernel, stride, padding, groups=groups)
    conv.weight.data, conv.bias.data = weight, bias  # type: ignore[union-attr]
    return conv, Flow(node.output, len(weight), (x.side + 2 * padding - kernel) // stride + 1)


def _norm(walk: GraphWalk, x: Flow, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[nn.Module, Flow]:
    """The next node as the batch norm `norm`, with its statistics."""
    node = walk.take(
        "BatchNormalization", [x.name], epsilon=(None, 1e-5), momentum=(None, 0.9), training_mode=(0, 0), spatial=(1, 1)
    )
    norm.eps = float(node.attributes.get("epsilon", 1e-5))
    names = ("weight", "bias", "running_mean", "running_var")
    state = {name: node.weights(place, x.channels) for place, name in enumerate(names, 1)}
    norm.load_state_dict(state | {"num_batches_tracked": torch.tensor(0)})
    if (node.weights(4, x.channels) < 0).any():
        raise node.differs("its variances are negative")
    return norm, Flow(node.output, x.channels, x.side)


def _prelu(walk: GraphWalk, x: Flow) -> tuple[nn.PReLU, Flow]:
    node = walk.take("PRelu", [x.name])
    act = nn.PReLU(x.channels)
    act.weight.data = node.weights(1, x.channels, 1, 1).flatten()
    return act, Flow(node.output, x.channels, x.side)


def _add(walk: GraphWalk, a: Flow, b: Flow) -> Flow:
    # Which summand comes first is the exporter's choice.
    names = [b.name, a.name] if walk.peek_input() == b.name else [a.name, b.name]
    node = walk.take("Add", names)
    return Flow(node.output, a.channels, a.side)


def _with_head(
    walk: GraphWalk, x: Flow, form: str, blocks: list[int], trunk: list[nn.Module], head: list[nn.Module]
) -> ArcFaceBody:
    """The whole network; its graph ends in a flatten, a linear layer and a batch norm."""
    x = _flatten(walk, x)
    linear, x = _linear(walk, x)
    norm, x = _norm(walk, x, nn.BatchNorm1d(x.channels))
    walk.finish(x)
    name = "-".join((form, *map(str, blocks)))
    return ArcFaceBody(name, nn.Sequential(*trunk), nn.Sequential(*head, nn.Flatten(), linear, norm), x.channels)


def _flatten(walk: GraphWalk, x: Flow) -> Flow:
    """[N, C, S, S] to [N, C S S]: a Flatten, or what exporters write for `x.view(len(x), -1)`."""
    size = x.channels * x.side**2
    if walk.peek() == "Shape":
        shape = walk.take("Shape", [x.name])
        batch = walk.take("Gather", [shape.output], axis=(0, 0))
        if batch.constant(1).tolist() != 0:
            raise batch.differs("it takes another size than the batch's")
        listed = walk.take("Unsqueeze", [batch.output], axes=(None, None))
        wanted = walk.take("Concat", [listed.output], axis=(0, None))
        if wanted.constant(1).tolist() != [-1]:
            raise wanted.differs("it does not put all the rest into one axis")
        node = walk.take("Reshape", [x.name, wanted.output], allowzero=(0, 0))
    elif walk.peek() == "Reshape":
        node = walk.take("Reshape", [x.name], allowzero=(0, 0))
        # The exporter's batch may stand in the shape as 1; the module takes any.
        if node.constant(1).tolist() not in ([batch, rest] for batch in (-1, 0, 1) for rest in (-1, size)):
            raise node.differs(f"it gives the shape {node.constant(1).tolist()}, expected [1, -1]")
    else:
        node = walk.take("Flatten", [x.name], axis=(1, 1))
    return Flow(node.output, size)


def _linear(walk: GraphWalk, x: Flow) -> tuple[nn.Linear, Flow]:
    """A Gemm, or the MatMul that a linear layer without bias becomes."""
    if walk.peek() == "MatMul":
        node = walk.take("MatMul", [x.name])
        weight, bias = node.weights(1, x.channels, None).T, None
    else:
        transposed = int(walk.peek_attribute("transB", 0))
        node = walk.take("Gemm", [x.name], alpha=(1.0, 1.0), beta=(1.0, 1.0), transA=(0, 0), transB=(transposed, 0))
        weight = node.weights(1, None, x.channels) if transposed else node.weights(1, x.channels, None).T
        bias = node.weights(2, len(weight)) if node.has(2) else None
    linear = nn.Linear(x.channels, len(weight), bias=bias is not None)
    linear.weight.data = weight.contiguous()
    if bias is not None:
        linear.bias.data = bias
    return linear, Flow(node.output, len(weight))
