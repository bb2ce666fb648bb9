"""Proof: the cut model computes what the original computes with the same units silenced."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_map, tree_map_only

from excise.axes import Axis, leaves
from excise.branch import Branch
from excise.branch import named as of_modules
from excise.budget import kept_indices, read_plan
from excise.errors import TraceError, VerificationError
from excise.graph import AxisGraph, traced
from excise.plan import Plan, checked, mask
from excise.surgery import check, remove, shortened
from excise.trace import Op, Ref
from excise.trace.choice import Choice, alike, chooses, followed
from excise.trace.output import output_leaves
from excise.trace.run import run
from excise.trace.skeleton import check as check_model
from excise.trace.skeleton import copied, named_tensors
from excise.trace.tape import Tape, widened
from excise.trace.wide import wider

TOLERANCE = 1e-9
Removed: TypeAlias = "Mapping[Axis, npt.NDArray[np.bool_]]"


@dataclass(frozen=True)
class Verdict:
    """What was proved, and how.

    Attributes:
        kind: `exact` (removed equals silenced), `exact-with-mixing` (equal to a reference in which
            the operations in `mixing` are told which units exist) or `unproved`.
        worst: largest difference, relative to the largest value of that output, in float64.
        outputs: the same for each output tensor, by path.
        mixing: the operations that mix units of a cut axis, by name and module.
        tolerance: what `worst` had to stay below.
        reason: why nothing could be proved; empty otherwise.
        ties: operations that chose between numbers which are equal up to rounding (the order of
            two equal scores), by name and module; there the original was made to choose as the cut
            model did, and nowhere else.
    """

    kind: str
    worst: float
    outputs: tuple[tuple[str, float], ...]
    mixing: tuple[str, ...]
    tolerance: float = TOLERANCE
    reason: str = ""
    ties: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the cut is proved. NaN never passes."""
        return self.kind != "unproved" and self.worst <= self.tolerance

    def check(self) -> None:
        """Raise unless the cut is proved.

        Raises:
            VerificationError: the outputs differ, or nothing could be proved.
        """
        if not self.passed:
            output = (
                max(self.outputs, key=lambda o: o[1] if o[1] == o[1] else float("inf"))[0]
                if (self.outputs)
                else (self.reason or "none")
            )
            raise VerificationError(self.worst, self.tolerance, output, reason=self.reason)

    def __str__(self) -> str:
        if self.kind == "unproved":
            return f"not proved: {self.reason}"
        said = "proved" if self.passed else "WRONG"
        against = "the silenced original"
        if self.mixing:
            kinds = sorted({name.split(" ")[0] for name in self.mixing})
            against += f", told which units exist at {len(self.mixing)} ops ({', '.join(kinds)})"
        if self.ties:
            kinds = sorted({name.split(" ")[0] for name in self.ties})
            against += f", equal numbers put in one order at {len(self.ties)} ops"
            against += f" ({', '.join(kinds)})"
        return (
            f"{said}: equals {against}; worst relative difference {self.worst:.2g} in float64 "
            f"(allowed {self.tolerance:.0e})"
        )


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
    args, named = _double((inputs, kwargs))
    if plan.branches:
        return _in_two_steps(original, small, plan, args, named)
    return _verified(original, small, plan, args, named)


def _verified(original: nn.Module, small: nn.Module, plan: Plan, args: Any, named: Any) -> Verdict:
    """As `verify`, of a cut that leaves every branch."""
    verdict, silent = _compare(original, small, plan, args, named)
    if not silent:
        return verdict
    noisy = _noisy(original)
    verdict, _ = _compare(noisy, remove(noisy, plan), plan, args, named)
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
        for real in (False, True):  # as in `_compare`
            first, flat = _bypass(original, plan, args, named, real=real)
            if not first.reason:
                break
        if flat:
            first, _ = _bypass(_noisy(original), plan, args, named, real=real)
    except TraceError as error:
        return _unproved(str(error).split("\n")[0])
    if first.reason:
        return first
    second = _verified(shortened(original, plan), small, plan.widths, args, named)
    if second.reason:
        return second
    worst = dict(first.outputs)
    outputs = tuple(
        (path, max(worst.get(path, 0.0), d, key=_nan_last)) for path, d in second.outputs
    )
    return replace(second, worst=_worst((*first.outputs, *second.outputs)), outputs=outputs)


def _bypass(
    original: nn.Module, plan: Plan, args: Any, named: Any, *, real: bool
) -> tuple[Verdict, bool]:
    """The original with zeros in place of branches, against the one whose modules are replaced.

    Returns:
        The verdict, and whether all outputs are zero and so prove nothing.
    """
    wide = _eval64(original)
    before = traced(wide, args, named, wide=True, real=real)
    try:
        chosen = of_modules(before, (cut.modules for cut in plan.branches), wide=True)
    except KeyError as error:
        name = error.args[0][-1].module
        reason = f"{name} is no residual branch of the original with this input"
        return _unproved(reason), False
    tape = Unbranched(before, chosen)
    wanted = _seeded(wide, tape, args, named)
    if tape.lost:
        return _unproved(tape.lost), False
    found = _seeded(_eval64(shortened(original, plan)), Wide(), args, named)
    outputs = tuple(_differences(wanted, found))
    return Verdict("exact", _worst(outputs), outputs, ()), _flat_outputs(wanted)


def _compare(
    original: nn.Module, small: nn.Module, plan: Plan, args: Any, named: Any
) -> tuple[Verdict, bool]:
    """The verdict, and whether the outputs are the same for any input and so prove nothing."""
    try:
        for real in (False, True):  # on real tensors only where fake ones take another path
            verdict, same = _compare_on(original, small, plan, args, named, real=real)
            if not verdict.reason:
                break
    except TraceError as error:
        return _unproved(str(error).split("\n")[0]), False
    return verdict, same


def _compare_on(
    original: nn.Module, small: nn.Module, plan: Plan, args: Any, named: Any, *, real: bool
) -> tuple[Verdict, bool]:
    """As `_compare`, on copies in float64, the only ones."""
    wide, narrow = _eval64(original), _eval64(small)
    after = traced(narrow, args, named, wide=True, real=real)
    before = traced(wide, args, named, wide=True, real=real, script=after.stage.script)
    mismatch = _same_path(before, after)
    if mismatch:
        return _unproved(mismatch), False
    removed, problem = read_plan(before, plan)
    if problem:
        return _unproved(problem), False
    mixing = _mixing(before, after, removed)
    _silence(wide, plan)
    reference = Silenced(before, after, removed, set(mixing))
    wanted = _seeded(wide, reference, args, named)
    found = _seeded(narrow, Wide(), args, named)
    outputs = () if reference.lost else tuple(_differences(wanted, found))
    if (reference.lost or _worst(outputs) > TOLERANCE) and any(
        chooses(after.trace, op) for op in after.trace.ops
    ):
        wide, narrow = _silence(_eval64(original), plan), _eval64(small)
        chosen = Chosen(after)
        found = _seeded(narrow, chosen, args, named)
        reference = Silenced(before, after, removed, set(mixing), chosen.choices)
        wanted = _seeded(wide, reference, args, named)
        outputs = () if reference.lost else tuple(_differences(wanted, found))
    if reference.lost:
        return _unproved(reference.lost), False
    if not outputs:
        return _unproved("the model returns no tensor"), False
    mixing |= reference.undefined
    names = tuple(dict.fromkeys(mixing.values()))
    ties = tuple(dict.fromkeys(reference.ties.values()))
    kind = "exact-with-mixing" if mixing else "exact"
    return Verdict(kind, _worst(outputs), outputs, names, ties=ties), _flat_outputs(wanted)


def _seeded(model: nn.Module, tape: Tape, args: Any, named: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return run(model, tape, args, named)


def _worst(outputs: tuple[tuple[str, float], ...]) -> float:
    return max((d for _, d in outputs), key=_nan_last, default=0.0)


def _nan_last(difference: float) -> float:
    return float("inf") if math.isnan(difference) else difference


def _unproved(reason: str) -> Verdict:
    return Verdict("unproved", float("nan"), (), (), reason=reason)


def _flat_outputs(outputs: Any) -> bool:
    """Whether every output is zero everywhere, as from a zero-initialised head."""
    return all(not bool(t.any()) for _, t in output_leaves(outputs))


def _noisy(model: nn.Module) -> nn.Module:
    """A copy whose parameters all carry a little noise, so that outputs depend on every unit."""
    copy = _eval64(model)
    source = torch.Generator().manual_seed(0)
    for parameter in copy.parameters():
        noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
        parameter.data += 0.02 * noise.to(parameter.device) if parameter.is_floating_point() else 0
    return copy


def _same_cut(original: nn.Module, small: nn.Module, plan: Plan) -> bool:
    """Whether the small model's tensors are the original's, cut by the plan, bit for bit."""
    wanted, found = dict(named_tensors(remove(original, plan))), dict(named_tensors(small))
    return wanted.keys() == found.keys() and all(torch.equal(wanted[n], found[n]) for n in wanted)


def _double(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda t: wider(t.detach()), tree)


def _eval64(model: nn.Module) -> nn.Module:
    """A copy in float64 and eval mode, made tensor by tensor."""
    memo: dict[int, Any] = {}
    for _, t in named_tensors(model):
        if id(t) not in memo:
            data = t.detach()
            wide = data.clone() if wider(data) is data else wider(data)
            memo[id(t)] = (
                nn.Parameter(wide, requires_grad=False) if isinstance(t, nn.Parameter) else wide
            )
    return copied(model, memo).eval()


def _silence(model: nn.Module, plan: Plan) -> nn.Module:
    """Set every removed slice of every parameter to zero, in place."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for cut in plan.tensors:
            tensor = tensors.get(cut.name)
            if tensor is None:
                continue
            for dim, written in enumerate(cut.dims):
                gone = torch.from_numpy((~mask(written, plan)).nonzero()[0])
                if len(gone):
                    tensor.index_fill_(dim, gone, 0.0)
    return model


def _same_path(before: AxisGraph, after: AxisGraph) -> str:
    """Why the two models cannot be compared step by step; empty if they can."""
    ours, theirs = before.trace.ops, after.trace.ops
    for a, b in zip(ours, theirs, strict=False):
        if a.name != b.name:
            return f"the cut model takes another path at {a.where}: {b.name} instead of {a.name}"
    if len(ours) != len(theirs):
        return f"the cut model runs {len(theirs)} operations, the original {len(ours)}"
    return ""


def _mixing(before: AxisGraph, after: AxisGraph, removed: Removed) -> dict[int, str]:
    """Operations whose result depends on which units exist: number -> name and module."""
    ops = before.trace.ops
    found: dict[int, str] = {}
    for mixing in before.scope.mixings:
        if any(leaf in removed for leaf in leaves(mixing.term)):
            found[mixing.op] = f"{mixing.name} in {ops[mixing.op].module}"
    for number, (a, b) in enumerate(zip(ops, after.trace.ops, strict=True)):
        if _floats(a) != _floats(b) or _constants(before, a) != _constants(after, b):
            found[number] = f"{a.name} (a constant computed from a length) in {a.module}"
    return found


def _constants(graph: AxisGraph, op: Op) -> list[float | None]:
    """The values of constants that an operation takes as tensors, None for other tensors."""
    return [graph.trace.tensors[ref.number].value for ref in op.inputs()]


def _floats(op: Op) -> list[float]:
    return [v for v in _scalars((op.args, tuple(op.kwargs.values()))) if isinstance(v, float)]


def _scalars(tree: Any) -> list[Any]:
    if type(tree) is Ref:
        return []
    if isinstance(tree, (tuple, list)):
        return [v for item in tree for v in _scalars(item)]
    return [tree]


class Wide(Tape):
    """Runs every operation in float64, even where the model asks for less."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = True

    def inside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Widen the dtypes that an operation is asked for, and those that it makes unasked."""
        wide, more, named = widened(self, func, args, kwargs)
        out = wide(*more, **named)
        written = getattr(getattr(func, "overloadpacket", None), "__name__", "").endswith("_")
        if written and more[0] is not args[0]:  # a constant of less, which is written to
            return args[0].copy_(out)
        return wider(out)

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Count an operation and run it wide."""
        del name
        self.count += 1
        return self.inside(func, args, kwargs)


class Unbranched(Wide):
    """Runs the original with branches set to zero where they are added to their streams."""

    def __init__(self, before: AxisGraph, chosen: Sequence[Branch]) -> None:
        super().__init__()
        self.ops = before.trace.ops
        self.places = {branch.add: branch.place for branch in chosen}
        self.lost = ""

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation; an addition of a branch without the branch."""
        if not self.lost and (self.count >= len(self.ops) or self.ops[self.count].name != name):
            self.lost = f"with real data the original takes another path at operation {self.count}"
        place = self.places.get(self.count)
        if place is not None and not self.lost:
            with self.pause():
                args[place].zero_()  # nothing else reads it
        return super().step(name, func, args, kwargs)


class Chosen(Wide):
    """Runs the cut model, and keeps what each choice was made from and what was chosen."""

    def __init__(self, after: AxisGraph) -> None:
        super().__init__()
        self.trace = after.trace
        self.choices: dict[int, Choice] = {}

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation; copy the tensors of a choice, which may be written to later."""
        number, ops = self.count, self.trace.ops
        if number >= len(ops) or ops[number].name != name or not chooses(self.trace, ops[number]):
            return super().step(name, func, args, kwargs)
        with self.pause():
            given = [t.clone() for t in _flatten((args, kwargs))]
        out = super().step(name, func, args, kwargs)
        with self.pause():
            self.choices[number] = Choice(given, [t.clone() for t in _flatten(out)])
        return out


class Silenced(Wide):
    """Runs the silenced original; mixing operations see only the units that exist.

    With `choices`, those of the cut model are made where both had the same numbers.
    """

    def __init__(
        self,
        before: AxisGraph,
        after: AxisGraph,
        removed: Removed,
        mixing: set[int],
        choices: Mapping[int, Choice] | None = None,
    ) -> None:
        super().__init__()
        self.before, self.after, self.removed, self.mixing = before, after, removed, mixing
        self.choices = choices or {}
        self.ties: dict[int, str] = {}
        self.lost = ""
        self.undefined: dict[int, str] = {}

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation; a mixing one on the units that exist."""
        number, ops = self.count, self.before.trace.ops
        if not self.lost and (number >= len(ops) or ops[number].name != name):
            self.lost = f"with real data the original takes another path at operation {number}"
        if self.lost:
            return super().step(name, func, args, kwargs)
        if number in self.choices:
            return self._follow(number, name, func, args, kwargs)
        return self._plain(number, name, func, args, kwargs)

    def _plain(self, number: int, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation as it is, or on the units that exist if it mixes them."""
        if number not in self.mixing:
            out = super().step(name, func, args, kwargs)
            with self.pause():
                self._define(number, out)
            return out
        old, new = self.before.trace.ops[number], self.after.trace.ops[number]
        given = _flatten((args, kwargs))
        with self.pause():
            small = [self._gather(t, ref) for t, ref in zip(given, old.inputs(), strict=True)]
            for i, value in enumerate(_constants(self.after, new)):
                if value is not None:  # computed from a length that the cut changes
                    small[i] = torch.full_like(small[i], value)
        there = iter(small)
        new_args = _refill(new.args, there)
        new_kwargs = _refill(new.kwargs, there)
        out = super().step(name, func, new_args, new_kwargs)
        with self.pause():
            wide = [self._scatter(t, ref) for t, ref in zip(_flatten(out), old.outs, strict=True)]
        if name.endswith("_") and not name.endswith("__") and isinstance(args[0], Tensor):
            with self.pause():
                return args[0].copy_(wide[0])
        spread = iter(wide)
        return tree_map(lambda v: next(spread) if isinstance(v, Tensor) else v, out)

    def _follow(self, number: int, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation; of numbers that agree, choose what the cut model chose."""
        op, choice = self.before.trace.ops[number], self.choices[number]
        with self.pause():
            tensors = zip(_flatten((args, kwargs)), op.inputs(), strict=True)
            same = alike([self._gather(t, r) for t, r in tensors], choice.given, TOLERANCE)
        out = self._plain(number, name, func, args, kwargs)
        if not same or not isinstance(out, (Tensor, tuple, list)):
            return out
        with self.pause():
            own = _flatten(out)
            mine = [self._gather(t, r) for t, r in zip(own, op.outs, strict=True)]
            made = followed(name, mine, choice.made)
            if all(a is b or torch.equal(a, b) for a, b in zip(mine, made, strict=True)):
                return out
            self.ties[number] = f"{name} in {op.module}"
            there = zip(own, mine, made, op.outs, strict=True)
            taken = [t if a is b else self._overlaid(t, b, r) for t, a, b, r in there]
            if name.endswith("_") and isinstance(args[0], Tensor):
                return args[0].copy_(taken[0])
        spread = iter(taken)
        return tree_map(lambda v: next(spread) if isinstance(v, Tensor) else v, out)

    def _overlaid(self, own: Tensor, made: Tensor, ref: Ref) -> Tensor:
        """What the cut model has, at the units that it has; the rest stays as it is."""
        wide = self._scatter(made, ref)
        if wide.shape != own.shape:
            return wide
        shape = [n if kept is None else len(kept) for n, kept in zip(own.shape, self._kept(ref))]  # noqa: B905
        there = own.new_ones(shape, dtype=torch.bool)
        return torch.where(self._spread(there, ref), wide, own)

    def _define(self, number: int, out: Any) -> None:
        """A silent unit may have no value (0 / 0 of a normalised weight); nobody reads it: zero."""
        op = self.before.trace.ops[number]
        for tensor, ref in zip(_flatten(out), op.outs, strict=True):
            if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
                continue
            gone = torch.zeros([1] * tensor.dim(), dtype=torch.bool, device=tensor.device)
            for dim, kept in enumerate(self._kept(ref)):
                if kept is not None:
                    here = torch.ones(tensor.shape[dim], dtype=torch.bool, device=tensor.device)
                    here[kept.to(tensor.device)] = False
                    gone = gone | here.reshape([-1 if d == dim else 1 for d in range(tensor.dim())])
            lost = gone & ~torch.isfinite(tensor)
            if bool(lost.any()):
                tensor.masked_fill_(lost, 0.0)
                self.undefined[number] = f"{op.name} (a silent unit has no value) in {op.module}"

    def _kept(self, ref: Ref) -> list[Tensor | None]:
        """Indices that stay of each dimension; None where all do."""
        found: list[Tensor | None] = []
        for term in self.before.scope.get(ref):
            cut = any(leaf in self.removed for leaf in leaves(term))
            found.append(self._indices(term) if cut else None)
        return found

    def _indices(self, term: list[Axis]) -> Tensor:
        return torch.from_numpy(kept_indices(term, self.removed)).nonzero().flatten()

    def _numbers(self, ref: Ref) -> Tensor | None:
        """The units that stay, if the values of a tensor number the units of a cut axis."""
        term = self.before.scope.numbered(ref)
        cut = term is not None and any(leaf in self.removed for leaf in leaves(term))
        return self._indices(term) if cut and term is not None else None

    def _gather(self, tensor: Tensor, ref: Ref) -> Tensor:
        kept = self._numbers(ref)
        if kept is not None:
            tensor = torch.searchsorted(kept.to(tensor.device), tensor).to(tensor.dtype)
        for dim, index in enumerate(self._kept(ref)):
            if index is not None:
                tensor = tensor.index_select(dim, index.to(tensor.device))
        return tensor

    def _scatter(self, tensor: Tensor, ref: Ref) -> Tensor:
        kept = self._numbers(ref)
        if kept is not None:
            tensor = kept.to(tensor.device)[tensor.long()].to(tensor.dtype)
        return self._spread(tensor, ref)

    def _spread(self, tensor: Tensor, ref: Ref) -> Tensor:
        for dim, index in enumerate(self._kept(ref)):
            if index is not None:
                shape = list(tensor.shape)
                shape[dim] = self.before.scope.shape(ref)[dim]
                wide = tensor.new_zeros(shape)
                tensor = wide.index_copy_(dim, index.to(tensor.device), tensor)
        return tensor


def _flatten(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, (tuple, list)):
        return [t for item in tree for t in _flatten(item)]
    if isinstance(tree, dict):
        return [t for item in tree.values() for t in _flatten(item)]
    return []


def _refill(tree: Any, tensors: Any) -> Any:
    """Put tensors back where the trace has references, in order."""
    if type(tree) is Ref:
        return next(tensors)
    if isinstance(tree, (tuple, list)):
        return type(tree)(_refill(v, tensors) for v in tree)
    if isinstance(tree, dict):
        return {k: _refill(v, tensors) for k, v in tree.items()}
    return tree


def _differences(wanted: Any, found: Any) -> list[tuple[str, float]]:
    out = []
    for (path, a), (_, b) in zip(output_leaves(wanted), output_leaves(found), strict=True):
        name = keystr(path) or "output"
        if a.shape != b.shape:
            out.append((name, float("inf")))
        elif not a.is_floating_point() and not a.is_complex():
            out.append((name, 0.0 if torch.equal(a, b) else float("inf")))
        elif a.numel():
            scale = float(a.abs().max())
            out.append((name, float((a - b).abs().max()) / (scale or 1.0)))
    return out
