"""Batch norm statistics, estimated again on calibration data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from excise.calibration import Batch, share
from excise.graph import traced
from excise.measure.latency import evaluated
from excise.ranks import jointly, present
from excise.scores.probe import distance, outputs, results

Norm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - the one name for all of them


@jointly
def recalibrate(model: nn.Module, batches: Sequence[Batch]) -> int:
    """Estimate every batch norm's running mean and variance again; changed in place.

    Not changed: any parameter, `num_batches_tracked`, modes. Everything but the norms runs in eval
    mode, so that dropout does not bias the statistics. A batch norm that keeps no statistics, or is
    not run, keeps what it has.

    Args:
        model: with its parameters as they are to be used.
        batches: calibration inputs, from `excise.calibration.batches`. Each counts alike, those of
            all ranks.

    Returns:
        How many norms there are.

    Source:
        ALGORITHMS 3.5: cumulative average, without augmentation; as in Li et al., "EagleEye", ECCV
        2020, sec. 3.3.
    """
    norms = [m for m in model.modules() if isinstance(m, Norm) and m.running_mean is not None]
    if not norms or (not batches and present().size == 1):
        return len(norms)
    modes = [(module, module.training) for module in model.modules()]
    old = {m: (m.momentum, m.num_batches_tracked) for m in norms}
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum, norm.num_batches_tracked = None, torch.tensor(0)
        with torch.no_grad():
            before = {m: _copies(m) for m in norms}
            for batch in batches:
                model(*batch.args, **batch.kwargs)
            _join(before)
    finally:
        for norm, (momentum, count) in old.items():
            norm.momentum, norm.num_batches_tracked = momentum, count
        for module, training in modes:
            module.training = training
    return len(norms)


def _copies(norm: Any) -> tuple[Tensor, Tensor]:
    return norm.running_mean.clone(), norm.running_var.clone()


def _join(norms: Mapping[Any, tuple[Tensor, Tensor]]) -> None:
    """Average each norm's statistics over all ranks, by the batches that it has seen on each."""
    ranks = present()
    if ranks.size == 1:
        return
    for norm, old in norms.items():
        count = int(norm.num_batches_tracked)
        sums = [t.double() * count for t in (norm.running_mean, norm.running_var)]
        seen = torch.tensor(float(count), dtype=torch.float64)
        ranks.sum(*sums, seen)
        total = float(seen)
        made = [t / total for t in sums] if total else list(old)
        for tensor, value in zip((norm.running_mean, norm.running_var), made, strict=True):
            tensor.copy_(value)


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every batch norm's running mean and variance, by name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Norm):
            for key in ("running_mean", "running_var"):
                tensor = getattr(module, key)
                if tensor is not None:
                    found[f"{name}.{key}" if name else key] = tensor.detach().clone()
    return found


@jointly
def recalibrate_if_better(dense: nn.Module, small: nn.Module, batches: Sequence[Batch]) -> bool:
    """`recalibrate`, kept only if the results on held-out batches come nearer to the dense model's.

    Args:
        dense: the model before the cut. Not touched.
        small: the model after it; its batch norm statistics may change, nothing else.
        batches: calibration inputs; every fifth of those of all ranks, or the last, judges and is
            not averaged.

    Returns:
        Whether there are new statistics; False too without batch norms or with a single batch.
    """
    old, mine, ranks = statistics(small), share(batches), present()
    if not old or mine.batches < 2:  # noqa: PLR2004 - one to average, one to judge by
        return False
    rest, judge = mine.parts(batches)
    first = (judge or rest)[0]
    with evaluated(dense), evaluated(small):
        ends = results(traced(dense, first.args, first.kwargs, real=True))
        wanted = [outputs(dense, batch, ends) for batch in judge]
        before = distance(wanted, (outputs(small, batch, ends) for batch in judge))
        recalibrate(small, rest)
        after = distance(wanted, (outputs(small, batch, ends) for batch in judge))
    if ranks.first(lambda: after < before):
        return True
    tensors = dict(small.named_buffers(remove_duplicate=False))
    for name, value in old.items():
        tensors[name].copy_(value)
    return False
