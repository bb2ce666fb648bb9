"""One comparison: the cut model against the original, whose removed units are silenced."""

from __future__ import annotations

from typing import Any

from torch import nn

from excise.budget import read_plan
from excise.errors import TraceError
from excise.graph import traced
from excise.plan import Plan
from excise.trace.choice import chooses
from excise.verify.double import eval64, silence
from excise.verify.path import mixing_ops, same_path
from excise.verify.silenced import Silenced
from excise.verify.tape import Chosen, Wide, seeded
from excise.verify.tree import differences, flat_outputs
from excise.verify.verdict import TOLERANCE, Verdict, largest, unproved


def compare(
    original: nn.Module, small: nn.Module, plan: Plan, args: Any, named: Any
) -> tuple[Verdict, bool]:
    """The verdict, and whether the outputs are the same for any input and so prove nothing."""
    try:
        for real in (False, True):  # on real tensors only where fake ones take another path
            verdict, same = _compare_on(original, small, plan, args, named, real=real)
            if not verdict.reason:
                break
    except TraceError as error:
        return unproved(str(error).split("\n")[0]), False
    return verdict, same


def _compare_on(
    original: nn.Module, small: nn.Module, plan: Plan, args: Any, named: Any, *, real: bool
) -> tuple[Verdict, bool]:
    """As `compare`, on copies in float64, the only ones."""
    wide, narrow = eval64(original), eval64(small)
    after = traced(narrow, args, named, wide=True, real=real)
    before = traced(wide, args, named, wide=True, real=real, script=after.stage.script)
    mismatch = same_path(before, after)
    if mismatch:
        return unproved(mismatch), False
    removed, problem = read_plan(before, plan)
    if problem:
        return unproved(problem), False
    mixing = mixing_ops(before, after, removed)
    silence(wide, plan)
    reference = Silenced(before, after, removed, set(mixing))
    wanted = seeded(wide, reference, args, named)
    found = seeded(narrow, Wide(), args, named)
    outputs = () if reference.lost else tuple(differences(wanted, found))
    if (reference.lost or largest(outputs) > TOLERANCE) and any(
        chooses(after.trace, op) for op in after.trace.ops
    ):
        wide, narrow = silence(eval64(original), plan), eval64(small)
        chosen = Chosen(after)
        found = seeded(narrow, chosen, args, named)
        reference = Silenced(before, after, removed, set(mixing), chosen.choices)
        wanted = seeded(wide, reference, args, named)
        outputs = () if reference.lost else tuple(differences(wanted, found))
    if reference.lost:
        return unproved(reference.lost), False
    if not outputs:
        return unproved("the model returns no tensor"), False
    mixing |= reference.undefined
    names = tuple(dict.fromkeys(mixing.values()))
    ties = tuple(dict.fromkeys(reference.ties.values()))
    kind = "exact-with-mixing" if mixing else "exact"
    return Verdict(kind, largest(outputs), outputs, names, ties=ties), flat_outputs(wanted)
