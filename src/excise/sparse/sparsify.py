"""Swap each layer to the fastest of dense and sparse, as timed here, and never end slower."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from excise.errors import SparseError, TraceError
from excise.exact import plain
from excise.graph import trace
from excise.measure import Speedup, speedup
from excise.measure.latency import evaluated
from excise.sparse.candidate import (
    MIN_ZEROS,
    candidates,
    dense_again,
    share_of_zeros,
    sparse_of,
)
from excise.sparse.carry import compiled
from excise.sparse.fold import folded, norms_after
from excise.sparse.kernels import Borrowed, Missing, available
from excise.sparse.layer import KINDS, Sparse
from excise.sparse.tune import Timing, timed
from excise.units import milliseconds

_MARGIN = 1.03  # a layer that wins less than that is left alone: timing is not more exact
_WORTH_COMPILING = 1.05  # times as fast as the model with sparse layers: else that one is kept
_EXACT = 1e-5
_AS_TORCH = 2.0  # times as far from float64 as torch's own float32
_TOLERANCE = {torch.bfloat16: 0.1}  # eight bits, rounded after every layer, in another order


@dataclass(frozen=True)
class Sparsified:
    """A model with sparse layers where they are faster.

    Attributes:
        model: a copy of the one given, masks and parametrizations merged; its class is the same,
            some layers are others, or it is compiled.
        timings: of every layer that was timed.
        swapped: names of the layers that are sparse now.
        folded: names of the batch norms that went into a sparse layer before them.
        compiled: the model's layers are as they were, and it runs by `torch.compile` with the
            backend "excise"; a copy of it, or what a pickle of it gives, is compiled when it first
            runs.
        speedup: of the whole model, both timed in turn; None if it is as it was.
        worst: relative difference of the outputs on the example.
        why: if it is as it was, the reason; or layers run by torch's own product and not by ours.
    """

    model: nn.Module
    timings: tuple[Timing, ...] = ()
    swapped: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()
    speedup: Speedup | None = None
    worst: float = 0.0
    why: str = ""
    compiled: bool = False

    def __str__(self) -> str:
        lines = [f"{'layer':<40} zeros    dense      sparse"]
        lines += [
            f"{t.name:<40} {t.zeros:5.1%}  {milliseconds(t.dense_ms):>9}  "
            f"{milliseconds(t.sparse_ms):>9}  {'sparse' if t.name in self.swapped else 'dense'}"
            for t in self.timings
        ]
        if self.compiled:
            lines.append("compiled as a whole, which is faster than layer by layer")
        if self.speedup is None:
            return "\n".join([*lines, f"nothing swapped: {self.why}"])
        return "\n".join([*lines, str(self.speedup), *([self.why] if self.why else [])])


def sparsify(
    model: nn.Module, *inputs: Any, min_zeros: float = MIN_ZEROS, **kwargs: Any
) -> Sparsified:
    """Run the zeros of a model's weights fast.

    Every `nn.Linear` and `nn.Conv2d` with enough zeros is timed on the input that it gets from the
    example, dense and in each way of its sparse form; the fastest stays. Then the whole model is
    timed against the one given, and so is the model compiled by `torch.compile` with the backend
    "excise"; the fastest of the three is returned. Batch norms that alone read what a sparse layer
    gives are folded into it: the result is for inference.

    Args:
        model: in eval mode it is what runs; not touched. Layers that are sparse already, as
            `excise.load` makes them, are timed again.
        inputs: an example input; batch and resolution are what is tuned for, others run too.
        min_zeros: layers with a smaller share of zeros are not timed.
        kwargs: keyword inputs.

    Returns:
        The model with its table of timings. Its layers follow `state_dict`, `deepcopy` and `.to`;
        in training sparse ones run dense, and only their weights that are not zero move. A compiled
        model keeps its layers and the names of its state, and where gradients are wanted it runs as
        the model it was.

    Raises:
        SparseError: `model` is no module, `min_zeros` no share, the model does not run on the
            example, or an output differs by more than rounding: by more than 1e-5 of its largest
            element (a tenth in bfloat16), and twice as far from float64 as torch itself is.
    """
    if not isinstance(model, nn.Module):
        raise SparseError(f"a {type(model).__name__} is no module", "an nn.Module")
    if not isinstance(min_zeros, (int, float)) or not 0 <= min_zeros <= 1:
        raise SparseError(f"min_zeros={min_zeros!r}", "a share of zeros in [0, 1]")
    found = available()
    if isinstance(found, Missing):
        return Sparsified(plain(model), why=f"no kernels: {found.why}")
    small = dense_again(plain(model).eval())  # the example runs on it, and timing does
    norms = _norms(small, inputs, kwargs)
    timings, swaps = _timed(small, min_zeros, norms, (inputs, kwargs))
    if not timings:
        return Sparsified(plain(model), why="no layer has enough")
    table, example = tuple(timings), (inputs, kwargs)
    layers = _swapped(model, small, swaps, norms, table, example)
    whole = Sparsified(small) if isinstance(found, Borrowed) else _as_a_whole(model, table, example)
    best = layers
    if whole.speedup is not None and (
        layers.speedup is None or whole.speedup.ratio > layers.speedup.ratio * _WORTH_COMPILING
    ):
        best = whole
    if best.speedup is None:
        why = "no layer with enough zeros is faster sparse"
        return Sparsified(plain(model), table, why=why)
    if best.speedup.ratio < 1:
        why = f"the whole model is {1 / best.speedup.ratio:.2f} times slower with them"
        return Sparsified(plain(model), table, why=why)
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in best.model.named_modules():
        module.training = modes.get(name, model.training)
    return best


def _swapped(  # noqa: PLR0917 - private
    model: nn.Module,
    small: nn.Module,
    swaps: dict[str, Sparse],
    norms: dict[str, str],
    timings: tuple[Timing, ...],
    example: tuple[Any, Any],
) -> Sparsified:
    """The model with sparse layers, timed; without a speed if there are none."""
    if not swaps:
        return Sparsified(small, timings)
    for name, sparse in swaps.items():
        small.set_submodule(name, sparse.train(mode=False))
        if name in norms:
            small.set_submodule(norms[name], nn.Identity())
    worst = _difference(model, small, *example)
    gained = speedup(model, small, *example[0], **example[1])
    gone = tuple(norm for name, norm in norms.items() if name in swaps)
    found = available()
    why = f"by torch's own sparse product: {found.why}" if isinstance(found, Borrowed) else ""
    return Sparsified(small, timings, tuple(swaps), gone, gained, worst, why)


def _as_a_whole(
    model: nn.Module, timings: tuple[Timing, ...], example: tuple[Any, Any]
) -> Sparsified:
    """The model compiled, timed; without a speed if torch's compiler cannot read it."""
    made = compiled(dense_again(plain(model).eval()))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            made(*example[0], **example[1])
    except Exception:  # noqa: BLE001 - whatever a compiler may stumble over; the model itself runs
        return Sparsified(made, timings)
    worst = _difference(model, made, *example)
    gained = speedup(model, made, *example[0], **example[1])
    return Sparsified(made, timings, (), (), gained, worst, compiled=True)


def _norms(model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, str]:
    """Layers and the norms that can go into them; a model that cannot be read keeps its norms."""
    try:
        return norms_after(trace(model, *inputs, **kwargs), model)
    except TraceError:
        return {}


def _timed(
    model: nn.Module, min_zeros: float, norms: dict[str, str], example: tuple[Any, Any]
) -> tuple[list[Timing], dict[str, Sparse]]:
    """Time every layer with enough zeros; the sparse ones that win, by name, norms folded in."""
    wanted = {
        name: layer
        for name, layer in candidates(model)
        if share_of_zeros(layer.weight) >= min_zeros
    }
    reads = _inputs(model, wanted, *example)
    timings: list[Timing] = []
    swaps: dict[str, Sparse] = {}
    for name, layer in wanted.items():
        norm = model.get_submodule(norms[name]) if name in norms else None
        whole: Any = layer if norm is None else folded(layer, norm)
        sparse = sparse_of(whole)
        read = reads.get(name)
        if sparse is not None and read is not None and read.dtype in KINDS and read.is_cpu:
            timings.append(timed(name, layer, sparse, read))
            if timings[-1].gain >= _MARGIN:
                swaps[name] = sparse
    return timings, swaps


def _inputs(
    model: nn.Module, layers: dict[str, Any], inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Tensor]:
    """What each layer reads on the example; the largest, if it is called more than once."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor):
                known = seen.get(name)
                if known is None or known.numel() < args[0].numel():
                    seen[name] = args[0].detach().clone()

        return hook

    handles = [layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(*inputs, **kwargs)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        what = f"the example does not run ({type(error).__name__}: {first})"
        raise SparseError(what, "inputs with which `model(*inputs, **kwargs)` works") from error
    finally:
        for handle in handles:
            handle.remove()
    return seen


@torch.no_grad()
def _difference(
    model: nn.Module, small: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> float:
    """The worst difference of any output, as a share of its largest element.

    Raises:
        SparseError: it is more than rounding: more than 1e-5, and farther from the model in float64
            than twice what torch's own float32 is. A deep network's rounding can be more than that.
    """
    with evaluated(model), torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        wanted = model(*inputs, **kwargs)
        torch.set_rng_state(state)
        found = small(*inputs, **kwargs)
        pairs = list(_outputs(wanted, found))
        worst = max((_apart(one, two) for one, two in pairs), default=0.0)
        if all(_apart(one, two) <= _TOLERANCE.get(one.dtype, _EXACT) for one, two in pairs):
            return worst
        torch.set_rng_state(state)
        exact = _in_double(model, inputs, kwargs)
    own = [_apart(true, one) for true, one in _outputs(exact, wanted)]
    ours = [_apart(true, two) for true, two in _outputs(exact, found)]
    if not own or not all(two <= _AS_TORCH * one for one, two in zip(own, ours, strict=True)):
        raise SparseError(
            f"an output differs by {worst:.1e}", "report it: kernels and layers agree"
        )
    return worst


def _outputs(one: Any, two: Any) -> Iterator[tuple[Tensor, Tensor]]:
    for a, b in zip(tree_leaves(one), tree_leaves(two), strict=True):
        if isinstance(a, Tensor) and a.is_floating_point() and a.numel():
            yield a, b


def _apart(one: Tensor, two: Tensor) -> float:
    """The largest difference, as a share of the first one's largest element."""
    return float((one - two).abs().max()) / (float(one.abs().max()) or 1.0)


def _in_double(model: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the model gives in float64."""

    def wide(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    args, named = tree_map_only(Tensor, wide, (inputs, kwargs))
    return plain(model).eval().double()(*args, **named)
