"""Layers of a graph with what follows them: one step each, where the kernels can do it at once."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from excise.sparse.engine.record import Facts
from excise.sparse.kernels import Blocks, Geometry

aten = torch.ops.aten
_VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)  # noqa: SLF001
_NORM = aten._native_batch_norm_legit_no_training.default  # noqa: SLF001
_ACTIVATIONS: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.silu.default: "silu",
    aten.hardswish.default: "hardswish",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
}


@dataclass
class Layer:
    """A layer and its ending: `activation(norm(layer(x)) + residual)`, or the sum last if `late`.

    Attributes:
        kind: "conv", "depthwise", "linear", "largest", "mean"; "pair" of a 1x1 convolution and the
            depthwise one that reads it.
        source: what it reads.
        tail: the last node that it replaces; the step stands in its place.
        geometry: of a convolution or a window.
        weight: dense, float32, with the norm folded in: (rows, columns) of a linear layer.
        bias: one for each row, or None.
        residual: a node of the same shape.
        activation: a name that the kernels know.
        late: the residual is added after the activation.
        nodes: all that it replaces, in order.
        blocks: the weight as products read it, by the columns of a block; made when asked for.
        parts: both of a pair. Its weight is that of the first, all else that of the second.
    """

    kind: str
    source: fx.Node
    tail: fx.Node
    geometry: Geometry | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    residual: fx.Node | None = None
    activation: str = "none"
    late: bool = False
    nodes: list[fx.Node] = field(default_factory=list)
    blocks: dict[int, Blocks] = field(default_factory=dict)
    parts: tuple[Layer, Layer] | None = None


def layers_of(graph: fx.Graph, facts: Facts) -> Iterator[Layer]:
    """Every layer that the kernels can run, each node in one at most."""
    taken: set[fx.Node] = set()
    for node in graph.nodes:
        if node in taken or node not in facts.shape or node in facts.constant:
            continue
        layer = _started(node, facts, taken)
        if layer is None:
            continue
        if layer.weight is not None:
            _extended(layer, facts, taken)
        taken.update(layer.nodes)
        yield layer


def _started(node: Any, facts: Facts, taken: set[fx.Node]) -> Layer | None:
    if node.target is aten.convolution.default:
        return _convolution(node, facts)
    if node.target in {aten.addmm.default, aten.mm.default}:
        return _linear(node, facts, taken)
    if node.target is operator.getitem:
        return _largest(node, facts)
    if node.target is aten.mean.dim:
        return _mean(node, facts)
    return None


def _convolution(node: Any, facts: Facts) -> Layer | None:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = _numbers(node, facts)
    kernel: Any = facts.constant.get(weight)
    shift = None if bias is None else facts.constant.get(bias)
    four = x in facts.native and len(facts.shape[x]) == 4 and isinstance(kernel, Tensor)  # noqa: PLR2004
    if not four or transposed or kernel.dtype is not torch.float32 or 0 in facts.shape[node]:
        return None
    if bias is not None and shift is None:
        return None
    pairs = [_pair(p) for p in (stride, padding, dilation)]
    geometry = Geometry(_pair(kernel.shape[2:]), *pairs)
    if groups == 1:
        return Layer("conv", x, node, geometry, kernel, shift, nodes=[node])
    if groups == kernel.shape[0] == facts.shape[x][1]:
        return Layer("depthwise", x, node, geometry, kernel, shift, nodes=[node])
    return None


def _linear(node: Any, facts: Facts, taken: set[fx.Node]) -> Layer | None:
    plain = node.target is aten.mm.default
    if node.kwargs or len(node.args) != (2 if plain else 3):
        return None
    bias, x, weight = (None, *node.args) if plain else node.args
    known = facts.constant.get(weight)
    shift = None if bias is None else facts.constant.get(bias)
    if not isinstance(known, Tensor) or known.dtype is not torch.float32 or x not in facts.native:
        return None
    if bias is not None and (shift is None or shift.shape != known.shape[1:]):
        return None
    if 0 in facts.shape[node]:
        return None
    source = x
    while source not in taken and source.target in _VIEWS and _keeps_rows(source, facts):
        source = source.args[0]
    return Layer("linear", source, node, None, known.t(), shift, nodes=[node])


def _is_copy(node: Any, facts: Facts) -> bool:
    """Whether it copies what it reads as it lies, as dropout in eval mode does."""
    if node.target is not aten.clone.default or node.kwargs:
        return False
    return facts.stride.get(node.args[0]) == facts.stride[node]


def _keeps_rows(view: Any, facts: Facts) -> bool:
    """Whether a view only regroups the rows of something that lies in one piece."""
    read = view.args[0]
    return (
        isinstance(read, fx.Node)
        and read in facts.native
        and bool(facts.shape[read])
        and facts.shape[read][-1] == facts.shape[view][-1]
    )


def _largest(node: Any, facts: Facts) -> Layer | None:
    pool = node.args[0]
    if node.args[1] != 0 or pool.target is not aten.max_pool2d_with_indices.default:
        return None
    if any(user is not node and user.users for user in pool.users):
        return None
    given = _numbers(pool, facts)
    given = [*given, *[[], 0, 1, False][len(given) - 2 :]]
    x, size, stride, padding, dilation = given[:5]
    if x not in facts.native or len(facts.shape[x]) != 4 or 0 in facts.shape[node]:  # noqa: PLR2004
        return None
    pairs = [_pair(p) for p in (size, stride or size, padding, dilation)]
    return Layer("largest", x, node, Geometry(*pairs), nodes=[pool, node])


def _mean(node: Any, facts: Facts) -> Layer | None:
    x, dims = node.args[0], node.args[1]
    if x not in facts.native or len(facts.shape[x]) != 4 or node.kwargs:  # noqa: PLR2004
        return None
    if sorted(d % 4 for d in dims or ()) != [2, 3] or 0 in facts.shape[x]:
        return None
    return Layer("mean", x, node, nodes=[node])


def _pair(p: Any) -> tuple[int, int]:
    numbers = [p] if isinstance(p, int) else list(p)
    return (int(numbers[0]), int(numbers[-1]))


def _numbers(node: Any, facts: Facts) -> list[Any]:
    """A node's arguments, with numbers in the place of nodes that are numbers."""
    return list(fx.map_arg(node.args, lambda n: facts.number.get(n, n)))


def _extended(layer: Layer, facts: Facts, taken: set[fx.Node]) -> None:
    """Take in what alone reads the tail, as long as the kernels can do it."""
    while len(layer.tail.users) == 1:
        (after,) = layer.tail.users
        if after in taken or after.op != "call_function":
            return
        grown = (
            _with_norm(layer, after, facts)
            or _with_view(layer, after, facts)
            or _with_activation(layer, after)
            or _is_copy(after, facts)
            or _with_sum(layer, after, facts)
        )
        if not grown:
            return
        layer.nodes.append(after)
        layer.tail = after


def _with_norm(layer: Layer, after: Any, facts: Facts) -> bool:
    if after.target is operator.getitem and after.args[0].target is _NORM:
        return bool(after.args[1] == 0)
    if after.target is not _NORM or after.args[0] is not layer.tail or layer.kind == "linear":
        return False
    if layer.activation != "none" or layer.residual is not None:
        return False
    users = list(after.users)
    if len(users) != 1 or users[0].target is not operator.getitem or users[0].args[1] != 0:
        return False
    given = [None if a is None else facts.constant.get(a) for a in after.args[1:5]]
    if any(a is not None and g is None for a, g in zip(after.args[1:5], given, strict=True)):
        return False
    scale, shift, mean, variance = given
    layer.weight, layer.bias = _folded(
        layer.weight, layer.bias, scale, shift, mean, variance, after.args[6]
    )
    return True


def _folded(  # noqa: PLR0917 - as the operator has them
    weight: Any, bias: Any, scale: Any, shift: Any, mean: Any, variance: Any, eps: Any
) -> tuple[Tensor, Tensor]:
    factor = torch.rsqrt(variance.double() + eps)
    if scale is not None:
        factor = factor * scale.double()
    moved = -mean.double() if bias is None else bias.double() - mean.double()
    moved = moved * factor
    if shift is not None:
        moved = moved + shift.double()
    whole = weight.double() * factor.reshape(-1, *[1] * (weight.dim() - 1))
    return whole.float(), moved.float()


def _with_view(layer: Layer, after: Any, facts: Facts) -> bool:
    return layer.kind == "linear" and after.target in _VIEWS and _keeps_rows(after, facts)


def _with_activation(layer: Layer, after: Any) -> bool:
    name = activation_of(after)
    if name is None or layer.activation != "none" or after.args[0] is not layer.tail:
        return False
    layer.activation = name
    return True


def activation_of(node: Any) -> str | None:
    """The name of an activation that the kernels know."""
    if node.target in {aten.hardtanh.default, aten.clamp.default}:
        return "relu6" if list(node.args[1:]) == [0, 6] and not node.kwargs else None
    if node.target is aten.gelu.default:
        return "gelu" if node.kwargs.get("approximate", "none") == "none" else "gelu_tanh"
    return _ACTIVATIONS.get(node.target)


def _with_sum(layer: Layer, after: Any, facts: Facts) -> bool:
    if after.target is not aten.add.Tensor or after.kwargs or layer.residual is not None:
        return False
    one, two = after.args
    other = two if one is layer.tail else one
    if one is two or not isinstance(other, fx.Node) or other not in facts.native:
        return False
    if facts.shape[other] != facts.shape[layer.tail] or facts.shape[after] != facts.shape[other]:
        return False
    layer.residual = other
    layer.late = layer.activation != "none"
    return True
