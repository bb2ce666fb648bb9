"""The question's own script: `torch.nn.utils.prune` on every convolution, then `prune.remove`."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils import prune


def masked(model: nn.Module, *, permanent: bool = True) -> nn.Module:
    """A copy with half of every convolution masked: whole filters, then single weights.

    Args:
        model: not touched.
        permanent: also call `prune.remove`, which multiplies the mask in and drops it.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            prune.ln_structured(module, "weight", amount=0.3, n=2, dim=0)
            prune.l1_unstructured(module, "weight", amount=0.3)
            if permanent:
                prune.remove(module, "weight")
    return model


def zeros(model: nn.Module) -> float:
    """Share of convolution weights that are zero, in percent."""
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    count = sum(int((weight == 0).sum()) for weight in weights)
    return 100.0 * count / sum(weight.numel() for weight in weights)
