"""Block reconstruction: a few hundred steps toward the dense model's blocks, without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from excise.calibration import Batch, share, told
from excise.errors import CalibrationError
from excise.plan import Plan
from excise.ranks import jointly, present
from excise.recover.block import Blocks
from excise.refit.statistic import Norm

DEFAULT_RATE = 1e-3
_LEAST = 16
"""Samples that a batch has at least for its statistics to stand for the data's."""


@dataclass(frozen=True)
class Reconstruction:
    """What a reconstruction did.

    Attributes:
        before: squared difference of each block from the dense one's, as a share of its variance,
            on batches that were held out.
        after: the same afterwards; equal to `before` if the weights were put back.
        steps: taken.
    """

    before: tuple[float, ...] = field(repr=False)
    after: tuple[float, ...] = field(repr=False)
    steps: int

    @property
    def kept(self) -> bool:
        """Whether the new weights were better, at the outputs, than the old ones."""
        return self.after != self.before

    def __str__(self) -> str:
        what = f"{self.steps} steps" if self.kept else f"{self.steps} steps, weights put back"
        return f"{what}: error of the outputs {self.before[-1]:.3g} -> {self.after[-1]:.3g}"


@jointly
def reconstruct(
    dense: nn.Module,
    small: nn.Module,
    plan: Plan,
    batches: Sequence[Batch],
    *,
    steps: int = 200,
    rate: float = DEFAULT_RATE,
    local: bool = True,
    augment: Callable[[Batch], Batch] | None = None,
    seed: int = 0,
) -> Reconstruction:
    """Train the blocks of a cut model to give what the dense model's give; changed in place.

    Changed: every floating parameter of `small` that requires a gradient, and if not `local` what
    its batch norms gather: they are in train mode for batches of 16 samples or more, unless their
    weight requires no gradient. Not changed: any shape, `dense`, `.grad`. All else runs in eval
    mode, and every module gets its mode back. If the outputs on held-out batches did not come
    nearer, all is put back.

    Args:
        dense: the model before the cut.
        small: the model after it, best after a refit.
        plan: the cut between them.
        batches: calibration inputs, from `excise.calibration.batches`; labels are not needed. One
            batch makes one step; every fifth is held out. Where several ranks work together one
            of each makes a step, with the mean of their gradients.
        steps: of Adam; the rate falls to zero along a cosine.
        rate: learning rate of the first step.
        local: each block learns from its own difference alone; else from all that come after it,
            which networks with batch norms and a few hundred steps gain more from.
        augment: makes another batch of a batch, for both models, before each step.
        seed: of the order of batches.

    Raises:
        CalibrationError: there are too few batches to hold one out, or no weight can be trained.

    Source:
        ALGORITHMS 3.6. Adam: Kingma and Ba, ICLR 2015.
    """
    mine = share(batches)
    if mine.batches < 2:  # noqa: PLR2004 - one to train on and one to judge by
        raise CalibrationError("it holds fewer than two batches; one has to be held out")
    weights = [p for p in small.parameters() if p.requires_grad and p.is_floating_point()]
    if not weights:
        raise CalibrationError("no parameter requires a gradient")
    train, held = mine.parts(batches)
    norms = [] if local else _gathering(small)
    changing = [*weights, *(t for norm in norms for t in norm.buffers(recurse=False))]
    modes = [(m, m.training) for model in (dense, small) for m in model.modules()]
    grads = [p.grad for p in weights]
    try:
        dense.eval()
        small.eval()
        blocks = Blocks(dense, small, plan, *batches[0].args, **batches[0].kwargs)
        before = _judged(blocks, held)
        old = [t.detach().clone() for t in changing]
        _train(blocks, weights, norms, train, steps=steps, rate=rate, local=local,
               augment=augment, seed=seed)  # fmt: skip
        small.eval()
        after = _judged(blocks, held)
        if not present().first(lambda: after[-1] < before[-1]):
            with torch.no_grad():
                for t, value in zip(changing, old, strict=True):
                    t.copy_(value)
            after = before
    finally:
        for p, grad in zip(weights, grads, strict=True):
            p.grad = grad
        for module, training in modes:
            module.training = training
    return Reconstruction(before, after, steps)


def _train(
    blocks: Blocks,
    weights: list[nn.Parameter],
    norms: Sequence[nn.Module],
    train: Sequence[Batch],
    *,
    steps: int,
    rate: float,
    local: bool,
    augment: Callable[[Batch], Batch] | None,
    seed: int,
) -> None:
    source = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(weights, lr=rate)
    order: list[int] = []
    for step in told(range(steps), "training blocks", steps):
        optimizer.zero_grad()
        if train:
            order = order or torch.randperm(len(train), generator=source).tolist()
            batch = train[order.pop()]
            batch = batch if augment is None else augment(batch)
            for norm in norms:
                norm.train(batch.samples >= _LEAST)
            with torch.enable_grad():
                blocks.loss(*batch.args, local=local, **batch.kwargs).backward()
        _average(weights, bool(train))
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
    _agree(weights, norms)


def _gathering(model: nn.Module) -> list[nn.Module]:
    """Batch norms that keep statistics and are to be trained."""
    every = [m for m in model.modules() if isinstance(m, Norm) and m.running_mean is not None]
    return [m for m in every if m.weight is None or m.weight.requires_grad]


def _agree(weights: Sequence[Tensor], norms: Sequence[nn.Module]) -> None:
    """The mean of all ranks' statistics, and the first one's bits of everything."""
    ranks = present()
    if ranks.size == 1:
        return
    statistics = [t for norm in norms for t in norm.buffers(recurse=False)]
    for t in statistics:
        if t.is_floating_point():
            ranks.sum(t)
            t.div_(ranks.size)
    for tensor in (*weights, *statistics):
        tensor.detach().copy_(ranks.first(tensor.detach))


def _average(weights: Sequence[nn.Parameter], seen: bool) -> None:  # noqa: FBT001
    """The mean of all ranks' gradients, of those that have seen a batch."""
    ranks = present()
    if ranks.size == 1:
        return
    (count,) = ranks.add(float(seen))
    for p in weights:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    ranks.sum(*(p.grad for p in weights if p.grad is not None))
    for p in weights:
        if p.grad is not None:
            p.grad /= count


@torch.no_grad()
def _judged(blocks: Blocks, held: Sequence[Batch]) -> tuple[float, ...]:
    total: list[Tensor] = []
    for batch in held:
        found = blocks.losses(*batch.args, **batch.kwargs)
        total = [a + b for a, b in zip(total, found, strict=True)] if total else found
    ranks = present()
    (count,) = ranks.add(len(held))
    sums = torch.stack(total).double() if total else torch.zeros(len(blocks.cuts)).double()
    ranks.sum(sums)
    return tuple((sums / count).tolist())
