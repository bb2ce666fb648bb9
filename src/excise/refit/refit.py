"""Refit the consumers of a cut model, one after the other, on calibration data.

The dense and the cut model run side by side on the whole calibration set. Before a consumer of the
cut model runs, it is solved: its inputs are those of the cut model with every earlier consumer
already refitted, its targets the dense model's own outputs. Then both go on, with the new weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from excise.calibration import Batch
from excise.errors import CalibrationError
from excise.graph import traced
from excise.plan import Plan
from excise.ranks import jointly
from excise.refit.limit import DEFAULT_HELD_BYTES, DEFAULT_ROWS, check_bytes
from excise.refit.pair import pair
from excise.refit.repair import Refit
from excise.refit.settle import settle
from excise.refit.statistic import recalibrate_if_better
from excise.refit.work import Work


@jointly
def refit(
    dense: nn.Module,
    small: nn.Module,
    plan: Plan,
    batches: Sequence[Batch],
    *,
    rows: int = DEFAULT_ROWS,
    weights: bool = True,
    held_bytes: int = DEFAULT_HELD_BYTES,
) -> Refit:
    """Let the consumers of a cut model make up for what was removed; `small` is changed in place.

    Changed: weights of linear layers, convolutions and recurrent layers that read a cut model's
    activations, their biases, and the running mean of a batch norm behind a layer without bias
    (which takes the bias). At the end, running means and variances, if that brings the results on
    held-out batches nearer; then batch norms are written anew, with the statistics of what they now
    read and the same function, so that training goes on from it (`settle`).
    Not changed: anything else, any shape, `dense`. A consumer whose error on held-out rows does not
    improve keeps its weights. Both models run in eval mode and get their mode back.

    Of a recurrent layer, what reads its input is fitted to the inputs that it now gets, and what
    reads its own state to the states of the dense model, less the units that are gone. All of it
    is kept only if what the layer then gives, on states of its own, comes nearer to the dense one.

    Args:
        dense: the model before the cut.
        small: the model after it.
        plan: the cut between them.
        batches: calibration inputs, from `excise.calibration.batches`; labels are not needed.
        rows: most positions (pixels, tokens) of each batch that are fitted.
        weights: fit weights too; False leaves it at biases and means, as FLAP does.
        held_bytes: most bytes of activations that both models hold of all batches that are under
            way, the inputs themselves not counted. Where that is not enough for all, some join
            behind the widest layers; 16 rows for each feature of a layer are there in any case.

    Where whole branches are gone, what follows them in their stream makes up for them.

    Raises:
        CalibrationError: there is no batch, or the cut model does not run as the dense one does.
        InvalidTargetError: `held_bytes` is no number of bytes.
        ExampleError: a batch does not run.

    Source:
        Sequential, with the dense model's outputs as targets: He et al., "Channel Pruning", ICCV
        2017, sec. 3.2; residual-corrected targets for branches. Differs: im2col features for
        every convolution, centred, ridge from held-out rows.
    """
    check_bytes("held_bytes", held_bytes)
    if not batches:
        raise CalibrationError("it holds no batch")
    first = batches[0]
    modes = [(module, module.training) for model in (dense, small) for module in model.modules()]
    try:
        dense.eval()
        small.eval()
        before = traced(dense, first.args, first.kwargs, real=True)
        after = traced(small, first.args, first.kwargs, real=True)
        work = Work(pair(before, after, plan), dense, small, plan, rows=rows, weights=weights)
        found = work.run(batches, held_bytes)
        better = weights and recalibrate_if_better(dense, small, batches)
        if weights:
            settle(small, batches)
        return replace(found, recalibrated=better)
    finally:
        for module, training in modes:
            module.training = training
