"""Blocks: how far each block of a cut model is from the dense model's, as a loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from excise.axes import leaves
from excise.budget import kept_indices, read_plan
from excise.calibration import Follower
from excise.errors import CalibrationError, ExampleError
from excise.graph import AxisGraph, traced
from excise.plan import Plan
from excise.recover.boundary import Boundary, boundaries
from excise.refit.pair import pair
from excise.trace import Op
from excise.trace.run import run
from excise.trace.skeleton import copied, named_tensors

_Cuts = list[tuple[int, Tensor]]
"""Dimensions of a tensor, with the indices that the cut model still has."""


_DROPOUTS = frozenset({
    functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d,
    functional.alpha_dropout, functional.feature_alpha_dropout, torch.dropout,
})  # fmt: skip


class _Catcher(Follower):
    """Keeps the tensors at the ends of blocks.

    What train mode adds to the path in eval mode is run and not counted: dropout, and the batches
    that a batch norm counts.
    """

    aside = _DROPOUTS

    def __init__(self, ops: Sequence[Op], ends: Mapping[int, Sequence[Boundary]]) -> None:
        super().__init__(ops)
        self.ends = ends
        self.found: dict[Boundary, Tensor] = {}

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation, if it is the one that the trace has here or counts batches."""
        expected = self.ops[self.count].name if self.count < len(self.ops) else ""
        if name == "add_" != expected and not args[0].dim() and not args[0].is_floating_point():
            return func(*args, **kwargs)
        return super().step(name, func, args, kwargs)

    def visit(self, number: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation, and keep what it gives if a block ends there."""
        out = func(*args, **kwargs)
        for end in self.ends.get(number, ()):
            tensors = [t for t in (out if isinstance(out, (tuple, list)) else (out,))
                       if isinstance(t, Tensor)]  # fmt: skip
            self.found[end] = tensors[end.out]
        return out


class _Side(NamedTuple):
    """Operations of one of two models, and the ends of blocks by their numbers in it."""

    ops: Sequence[Op]
    ends: Mapping[int, Sequence[Boundary]]


def _by_op(ends: Iterable[tuple[int, Boundary]]) -> dict[int, list[Boundary]]:
    found: dict[int, list[Boundary]] = {}
    for number, end in ends:
        found.setdefault(number, []).append(end)
    return found


class Blocks:
    """The blocks of a dense and a cut model, side by side, for a loop of one's own.

        blocks = Blocks(dense, small, plan, example)
        for images, _ in loader:
            optimizer.zero_grad()
            blocks.loss(images).backward()
            optimizer.step()

    A block is what lies between two places where the computation passes through one tensor: a
    residual block, an attention or an MLP with its stream.

    Both models are read in eval mode and run in the mode that they are in. Let the dense one be in
    eval mode. In train mode the cut one's batch norms use and gather the statistics of batches,
    which suits long training, and its dropout drops; modules that do something else again (a depth
    that is drawn at random) are to stay in eval mode.
    """

    def __init__(
        self, dense: nn.Module, small: nn.Module, plan: Plan, *inputs: Any, **kwargs: Any
    ) -> None:
        """Find the blocks.

        Args:
            dense: the model before the cut. Not touched.
            small: the model after it. Its weights are trained by whoever calls `loss`.
            plan: the cut between them.
            inputs: an example input.
            kwargs: keyword inputs.

        Raises:
            CalibrationError: the cut model does not run as the dense one does.
        """
        modes = [(m, m.training) for model in (dense, small) for m in model.modules()]
        try:
            dense.eval()
            small.eval()
            before = traced(dense, inputs, kwargs, real=True)
            after = traced(small, inputs, kwargs, real=True)
        finally:
            for module, training in modes:
                module.training = training
        both = pair(before, after, plan)
        kept, problem = read_plan(both.between, plan)
        if problem:
            raise CalibrationError(problem)
        self.dense, self.small = dense, small
        ops = both.between.trace.ops
        ends = [end for end in boundaries(both.between) if both.numbers[end.op] >= 0]
        self._narrow = _Side(ops, _by_op((end.op, end) for end in ends))
        wide = _by_op((both.numbers[end.op], end) for end in ends)
        self._wide = _Side(before.trace.ops, wide)
        self.cuts = {e: _cuts(both.between, e, kept) for e in ends}
        self.names = tuple(ops[e.op].module for e in ends)

    def loss(self, *inputs: Any, local: bool = True, **kwargs: Any) -> Tensor:
        """Sum over blocks of the squared difference, as a share of the dense output's variance.

        Args:
            inputs: one batch.
            local: each block learns from its own difference alone, with the inputs that the cut
                model gives it; otherwise from all that comes after it, too.
            kwargs: keyword inputs.

        Returns:
            A scalar whose gradient trains the cut model.

        Raises:
            ExampleError: a model takes another path than with the example, or in train mode another
                one than in eval mode.

        Source:
            Block by block: ALGORITHMS 3.6; Li et al., "BRECQ", ICLR 2021, sec. 3.2 (for rounding).
            Differs: all blocks at once, each on the others' present outputs.
        """
        return torch.stack(self.losses(*inputs, local=local, **kwargs)).sum()

    def losses(self, *inputs: Any, local: bool = True, **kwargs: Any) -> list[Tensor]:
        """The same for each block, in order of execution."""
        wanted = self._run(self.dense, self._wide, inputs, kwargs, grad=False)
        found = self._run(self.small, self._narrow, inputs, kwargs, grad=torch.is_grad_enabled())
        out = []
        for end, cuts in self.cuts.items():
            target, have = wanted[end], found[end]
            for dim, kept in cuts:
                target = target.index_select(dim, kept.to(target.device))
            spread = (target - target.mean()).square().mean()
            scale = 1 / spread.clamp_min(torch.finfo(target.dtype).tiny)
            seen = _alone(have) if local and have.requires_grad else have
            out.append((seen - target).square().mean() * scale)
        return out

    def _run(
        self, model: nn.Module, side: _Side, inputs: Any, kwargs: Any, *, grad: bool
    ) -> dict[Boundary, Tensor]:
        tape = _Catcher(*side)
        shell = copied(model, {id(t): t for _, t in named_tensors(model)})
        try:
            run(shell, tape, inputs, kwargs, grad=grad)
        except ExampleError as error:
            if not any(module.training for module in model.modules()):
                raise
            reason = f"{error.reason}, in train mode; put what runs there into eval mode"
            raise ExampleError(error.module, error.where, reason) from error
        return tape.found


def _alone(tensor: Tensor) -> Tensor:
    """The same tensor, so that of all the gradients that reach it only this one's goes on.

    What reads the tensor itself sends its gradients back as well; they are dropped.
    """
    seen, own = tensor.view_as(tensor), list[Tensor]()
    seen.register_hook(own.append)  # runs first: the tensor waits for all that read it
    tensor.register_hook(lambda _: own.pop())
    return seen


def _cuts(graph: AxisGraph, end: Boundary, kept: Mapping[Any, Any]) -> _Cuts:
    terms = enumerate(graph.scope.get(end.ref))
    return [
        (dim, torch.from_numpy(kept_indices(term, kept)).nonzero().flatten())
        for dim, term in terms
        if any(leaf in kept for leaf in leaves(term))
    ]
