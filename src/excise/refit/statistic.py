"""Batch norm statistics, estimated again on calibration data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from excise.calibration import Batch

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
