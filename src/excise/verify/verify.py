"""Prove that a cut model computes what the original computes with the same units silenced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from excise.branch import named as of_modules
from excise.errors import TraceError
from excise.graph import traced
from excise.plan import Plan, checked
from excise.surgery import check, remove, shortened
from excise.trace.skeleton import check as check_model
from excise.trace.skeleton import named_tensors
from excise.verify.comparison import compare
from excise.verify.double import double, eval64, with_noise
from excise.verify.tape import Unbranched, Wide, seeded
from excise.verify.tree import differences, flat_outputs
from excise.verify.verdict import Verdict, largest, nan_last, unproved


def verify(
    original: nn.Module, small: nn.Module, plan: Plan, *inputs: Any, **kwargs: Any
) -> Verdict:
    """Compare a cut model with the original whose removed units are silenced.

    Both run in float64 and eval mode, on copies. Silenced means: every slice of every parameter
    that the plan removes is set to zero, so no consumer reads the unit. Where an operation mixes
    units (LayerNorm over a cut width, attention over a cut head dimension), removing legitimately
    differs from silencing; there, and only there, the reference leaves the removed units out, and
    the verdict names the operation.

    Two runs round differently, and an operation that picks among equal numbers (`topk`, `sort`,
    `nms`, a comparison) may then pick others. Where outputs differ, both run once more: an
    operation whose inputs agree below the tolerance picks in the original what it picked in the
    cut model, and is named in `ties`.

    Where whole branches are gone, two comparisons make the proof. The original, in which each of
    these branches is set to zero where it is added to its stream, has to compute what it computes
    with the branches' modules replaced; and that model, silenced, what the cut one computes.

    Args:
        original: the model before the cut. Not touched.
        small: the model after it. Not touched.
        plan: the cut between them.
        inputs: an input batch for both.
        kwargs: keyword inputs.

    Returns:
        The verdict; look at `passed`, or call `check()`.

    Raises:
        UnsupportedModelError: one of the two is no plain module.
        PlanFormatError: no plan, or one that contradicts itself.
        StalePlanError: the plan was not made for `original`.
    """
    for model in (original, small):
        check_model(model)
    check(original, checked(plan), dict(named_tensors(original)))
    args, named = double((inputs, kwargs))
    if plan.branches:
        return _in_two_steps(original, small, plan, args, named)
    return _verified(original, small, plan, args, named)


def _verified(original: nn.Module, small: nn.Module, plan: Plan, args: Any, named: Any) -> Verdict:
    """As `verify`, of a cut that leaves every branch."""
    verdict, silent = compare(original, small, plan, args, named)
    if not silent:
        return verdict
    noisy = with_noise(original)
    verdict, _ = compare(noisy, remove(noisy, plan), plan, args, named)
    if not _same_cut(original, small, plan):
        return Verdict("exact", float("inf"), (("the weights", float("inf")),), ())
    return verdict


def _in_two_steps(
    original: nn.Module, small: nn.Module, plan: Plan, args: Any, named: Any
) -> Verdict:
    """The original with its branches silenced against the shorter model, and that against `small`.

    The verdict has the larger difference of the two, output by output.
    """
    try:
        for real in (False, True):  # as in `compare`
            first, flat = _bypass(original, plan, args, named, real=real)
            if not first.reason:
                break
        if flat:
            first, _ = _bypass(with_noise(original), plan, args, named, real=real)
    except TraceError as error:
        return unproved(str(error).split("\n")[0])
    if first.reason:
        return first
    second = _verified(shortened(original, plan), small, plan.widths, args, named)
    if second.reason:
        return second
    worst = dict(first.outputs)
    outputs = tuple(
        (path, max(worst.get(path, 0.0), d, key=nan_last)) for path, d in second.outputs
    )
    return replace(second, worst=largest((*first.outputs, *second.outputs)), outputs=outputs)


def _bypass(
    original: nn.Module, plan: Plan, args: Any, named: Any, *, real: bool
) -> tuple[Verdict, bool]:
    """The original with zeros in place of branches, against the one whose modules are replaced.

    Returns:
        The verdict, and whether all outputs are zero and so prove nothing.
    """
    wide = eval64(original)
    before = traced(wide, args, named, wide=True, real=real)
    try:
        chosen = of_modules(before, (cut.modules for cut in plan.branches), wide=True)
    except KeyError as error:
        name = error.args[0][-1].module
        reason = f"{name} is no residual branch of the original with this input"
        return unproved(reason), False
    tape = Unbranched(before, chosen)
    wanted = seeded(wide, tape, args, named)
    if tape.lost:
        return unproved(tape.lost), False
    found = seeded(eval64(shortened(original, plan)), Wide(), args, named)
    outputs = tuple(differences(wanted, found))
    return Verdict("exact", largest(outputs), outputs, ()), flat_outputs(wanted)


def _same_cut(original: nn.Module, small: nn.Module, plan: Plan) -> bool:
    """Whether the small model's tensors are the original's, cut by the plan, bit for bit."""
    wanted, found = dict(named_tensors(remove(original, plan))), dict(named_tensors(small))
    return wanted.keys() == found.keys() and all(torch.equal(wanted[n], found[n]) for n in wanted)
