"""Batch norm statistics, estimated again on calibration data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from excise.calibration import Batch
from excise.graph import traced
from excise.measure.latency import evaluated
from excise.scores.probe import distance, outputs, results

_HELD = 5
_Norm = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - the one name for all of them


def recalibrate(model: nn.Module, batches: Sequence[Batch]) -> int:
    """Estimate every batch norm's running mean and variance again; changed in place.

    Not changed: any parameter, `num_batches_tracked`, modes. Everything but the norms runs in eval
    mode, so that dropout does not bias the statistics. A batch norm that keeps no statistics, or is
    not run, keeps what it has.

    Args:
        model: with its parameters as they are to be used.
        batches: calibration inputs, from `excise.calibration.batches`. Each counts alike.

    Returns:
        How many norms there are.

    Source:
        ALGORITHMS 3.5: cumulative average, without augmentation; as in Li et al., "EagleEye", ECCV
        2020, sec. 3.3.
    """
    norms = [m for m in model.modules() if isinstance(m, _Norm) and m.running_mean is not None]
    if not norms or not batches:
        return len(norms)
    modes = [(module, module.training) for module in model.modules()]
    old = {m: (m.momentum, m.num_batches_tracked) for m in norms}
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum, norm.num_batches_tracked = None, torch.tensor(0)
        with torch.no_grad():
            for batch in batches:
                model(*batch.args, **batch.kwargs)
    finally:
        for norm, (momentum, count) in old.items():
            norm.momentum, norm.num_batches_tracked = momentum, count
        for module, training in modes:
            module.training = training
    return len(norms)


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every batch norm's running mean and variance, by name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, _Norm):
            for key in ("running_mean", "running_var"):
                tensor = getattr(module, key)
                if tensor is not None:
                    found[f"{name}.{key}" if name else key] = tensor.detach().clone()
    return found


def recalibrate_if_better(dense: nn.Module, small: nn.Module, batches: Sequence[Batch]) -> bool:
    """`recalibrate`, kept only if the results on held-out batches come nearer to the dense model's.

    Args:
        dense: the model before the cut. Not touched.
        small: the model after it; its batch norm statistics may change, nothing else.
        batches: calibration inputs; every fifth, or the last, judges and is not averaged.

    Returns:
        Whether there are new statistics; False too without batch norms or with a single batch.
    """
    old = statistics(small)
    if not old or len(batches) < 2:  # noqa: PLR2004 - one to average, one to judge by
        return False
    judge = list(batches[_HELD - 1 :: _HELD]) or [batches[-1]]
    with evaluated(dense), evaluated(small):
        ends = results(traced(dense, judge[0].args, judge[0].kwargs, real=True))
        wanted = [outputs(dense, batch, ends) for batch in judge]
        before = distance(wanted, (outputs(small, batch, ends) for batch in judge))
        recalibrate(small, [b for b in batches if not any(b is other for other in judge)])
        after = distance(wanted, (outputs(small, batch, ends) for batch in judge))
    if after < before:
        return True
    tensors = dict(small.named_buffers(remove_duplicate=False))
    for name, value in old.items():
        tensors[name].copy_(value)
    return False
