"""The axis graph: rules applied to a trace, every dimension as an expression, pins with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from excise.axes import Axis, Clash, Term, Why, flat, leaves, notation, pin
from excise.equality import Solution, Solver, Tie, value
from excise.rules import POINTWISE, RULES, Scope, compared, demands
from excise.rules.pointwise import pointwise
from excise.rules.table import follow
from excise.trace import Op, Trace, uncollected
from excise.trace import record as record_trace
from excise.trace.provenance import Attribute, atoms
from excise.trace.rehearsal import Stage
from excise.trace.skeleton import read


class Slot(NamedTuple):
    """One dimension of one named tensor: `Slot("conv1.weight", 0)`."""

    tensor: str
    dim: int

    def __str__(self) -> str:
        return f"{self.tensor}[{self.dim}]"


class Group(NamedTuple):
    """One axis that may be cut, and every dimension that carries it.

    `tied` names the groups that lose units in proportion, because the model's code demands that
    their lengths stay equal (or stay multiples).
    """

    name: str
    size: int
    slots: tuple[Slot, ...]
    tied: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.size} units on {', '.join(map(str, self.slots))}"


class Pin(NamedTuple):
    """An axis of a parameter that must stay, and why."""

    axis: str
    size: int
    reason: str
    where: str
    slots: tuple[Slot, ...]

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.axis}: {self.reason}{place}"


@dataclass(frozen=True)
class AxisGraph:
    """What a trace says about every dimension of every named tensor.

    Nothing in it refers to weights; `stage` holds the model and the shapes of the example input,
    for rehearsals.
    """

    trace: Trace
    scope: Scope = field(repr=False)
    stage: Stage = field(repr=False)
    solution: Solution = field(repr=False)
    axes: Mapping[str, Axis] = field(repr=False)
    groups: tuple[Group, ...] = field(repr=False)
    pins: tuple[Pin, ...] = field(repr=False)

    def group(self, name: str) -> Group:
        """The group of that name; KeyError if there is none."""
        return next(g for g in self.groups if g.name == name)

    def dims(self, tensor: str) -> list[Term]:
        """The dimensions of a named tensor, as terms."""
        return self.scope.get(self.trace.names[tensor])

    def macs(self, kept: Mapping[Axis, int] | None = None) -> int:
        """Multiply-adds of one forward pass on the example input, in MACs."""
        lengths = Lengths(kept or {})
        total = 0
        for product in self.scope.products:
            count = 1
            for axis in product.term:
                count *= lengths[axis]
            total += count
        return total

    def params(self, kept: Mapping[Axis, int] | None = None) -> int:
        """Number of distinct parameters."""
        lengths = Lengths(kept or {})
        total = 0
        for ref in {ref for name, ref in self.trace.names.items()}:
            if self.scope.info(ref).role == "parameter":
                count = 1
                for term in self.scope.get(ref):
                    for axis in term:
                        count *= lengths[axis]
                total += count
        return total

    def tie(self, group: Group) -> tuple[tuple[Axis, int], ...]:
        """The axes cut in step with a group, with the units each loses per step."""
        axis = self.axes[group.name]
        for tie in self.solution.ties:
            if any(member is axis for member, _ in tie.members):
                return tie.members
        return ((axis, 1),)

    def attributes(self, kept: Mapping[Axis, int]) -> Iterator[tuple[Attribute, int]]:
        """Every attribute that repeats a length, with its value after a cut."""
        sizes = dict(kept)
        for attribute, poly in self.solution.attributes.items():
            if all(isinstance(axis, Axis) for m in poly for axis in m):
                yield attribute, value(poly, sizes)

    def cuttable_share(self) -> float:
        """Share of all parameters that lie on at least one axis that may be cut, 0 to 1."""
        free = total = 0
        for ref in set(self.trace.names.values()):
            info = self.scope.info(ref)
            if info.role == "parameter":
                count = 1
                for n in info.shape:
                    count *= n
                total += count
                if any(leaf.pin is None for term in self.scope.get(ref) for leaf in leaves(term)):
                    free += count
        return free / total if total else 0.0

    def __str__(self) -> str:
        names = list(self.trace.names)
        width = max(map(len, names), default=0)
        return "\n".join(
            f"{name:<{width}}  {' '.join(notation(d) for d in self.dims(name))}".rstrip()
            for name in names
        )


class Lengths(dict[Axis, int]):
    """Axis -> length after a cut; sums and products are computed once."""

    def __init__(self, kept: Mapping[Axis, int]) -> None:
        super().__init__()
        self.kept = kept

    def __missing__(self, axis: Axis) -> int:
        total = 1
        for root in flat([axis]):
            if root.parts is not None:
                total *= sum(self[part] for part in root.parts)
            else:
                total *= self.kept.get(root, root.size)
        self[axis] = total
        return total


def trace(model: nn.Module, *inputs: Any, **kwargs: Any) -> AxisGraph:
    """Read the axes of any module that runs.

    The model runs once, on a copy without weights (fake tensors); only where its control flow needs
    data does a full copy run on the real inputs. Not touched: weights, buffers, batch statistics,
    mode, hooks, gradients, attributes, torch's random state, the inputs.

    Args:
        model: any `nn.Module`.
        inputs: an example input, as the model takes it. Dimensions that belong to the input
            (batch, positions, tokens) are never cut.
        kwargs: keyword inputs.

    Raises:
        UnsupportedModelError: compiled, scripted, lazy or wrapped models, and what is no module.
        ExampleError: the model does not run on these inputs.
    """
    return traced(model, inputs, kwargs)


def traced(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], **how: Any
) -> AxisGraph:
    """`trace` with the options of `excise.trace.record`: in float64, on real tensors, by a script.

    Raises:
        UnsupportedModelError, ExampleError: as in `trace`.
    """
    with uncollected():
        found, example = record_trace(model, args, kwargs, **how)
        return infer(found, Stage(model, *example))


def infer(found: Trace, stage: Stage, extra: Iterable[tuple[int, Why]] = ()) -> AxisGraph:
    """Apply the rules to a trace.

    Args:
        found: the trace.
        stage: what rehearsals need.
        extra: operations (by number) whose axes are pinned as well, each with its reason.
    """
    scope = Scope(found)
    for number, op in enumerate(found.ops):
        scope.here = number
        _apply(scope, op)
    for path, ref in found.outputs:
        for term in (*scope.get(ref), scope.numbered(ref) or []):
            pin(term, Why("a model output", path))
    for record in found.calls:
        if record.name in {"tolist", "numpy", "__array__"}:
            read_ = (*scope.get(record.args[0]), scope.numbered(record.args[0]) or [])
            for term in read_:
                pin(term, Why("its values are read by the code, one by one", record.where))
    wanted = [d for record in found.calls for d in demands(scope, record)]
    wanted += [d for guard in found.guards for d in compared(scope, guard)]
    for number, why in extra:
        op = found.ops[number]
        for ref in [*op.inputs(), *op.outs]:
            for term in scope.get(ref):
                pin(term, why)
    _pin_unused(scope)
    scope.settle()
    _pin_without_parameter(scope)
    return _finish(found, stage, scope, wanted)


def _finish(found: Trace, stage: Stage, scope: Scope, wanted: list[Any]) -> AxisGraph:
    solver = Solver(scope)
    known: dict[Attribute, int] = {}
    for expr in (*(d.given for d in wanted), *(b.expr for b in found.bounds)):
        for atom in atoms(expr):
            if isinstance(atom, Attribute) and atom not in known:
                known[atom] = int(read(stage.model.get_submodule(atom.module), atom.path))
    solution = solver.solve(wanted, known)
    for expr, least in found.bounds:
        bound = solver.bound(expr, least, known)
        if bound is not None:
            axis, count = bound
            scope.least[axis] = max(count, scope.least.get(axis, 1))
    axes, slots = _name(found, scope)
    groups, pins = [], []
    ties = {id(axis): tie for tie in solution.ties for axis, _ in tie.members}
    for name, axis in axes.items():
        carried = tuple(slots[id(axis)])
        if axis.pin is not None:
            pins.append(Pin(name, axis.size, axis.pin.reason, axis.pin.where, carried))
        else:
            groups.append(Group(name, axis.size, carried, _tied(ties.get(id(axis)), axis)))
    return AxisGraph(found, scope, stage, solution, axes, tuple(groups), tuple(pins))


def _tied(tie: Tie | None, axis: Axis) -> tuple[str, ...]:
    return tuple(other.name for other, _ in tie.members if other is not axis) if tie else ()


def _apply(scope: Scope, op: Op) -> None:
    """One rule; what it cannot express pins the axes of this operation, never more."""
    plain = op.name[:-1] if op.name.endswith("_") and not op.name.endswith("__") else op.name
    scope.note(op, plain)
    follow(scope, op, plain)
    rule = RULES.get(plain) or RULES.get(op.name)
    if rule is None and (op.pointwise or plain in POINTWISE):
        rule = pointwise
    if rule is None:
        if op.outs:
            _opaque(scope, op, f"no rule for {op.name}")
        return
    try:
        rule(scope, op)
    except Clash as clash:
        _opaque(scope, op, f"{op.name}: {clash}")
    except Exception as error:  # noqa: BLE001 - an unforeseen form of a call pins, and says so
        _opaque(scope, op, f"{op.name} in a form without a rule ({type(error).__name__})")


def _opaque(scope: Scope, op: Op, reason: str) -> None:
    why = scope.why(reason)
    for ref in op.inputs():
        for term in scope.get(ref):
            pin(term, why)
    for out in op.outs:
        if scope.dims[out.number] is None:
            scope.dims[out.number] = [[] if n == 1 else [Axis(n, why)] for n in scope.shape(out)]
        else:
            for term in scope.get(out):
                pin(term, why)


def _pin_unused(scope: Scope) -> None:
    """Nothing is known of a tensor that no operation read: its dimensions stay."""
    read = {ref.number for op in scope.trace.ops for ref in op.inputs()}
    read |= {ref.number for _, ref in scope.trace.outputs}
    for name, ref in scope.trace.names.items():
        if ref.number not in read:
            for term in scope.get(ref):
                pin(term, Why("no operation on this example's path reads it", name))


def _pin_without_parameter(scope: Scope) -> None:
    """Axes that only activations carry are not ours to cut."""
    parameters = [r for r in scope.trace.names.values() if scope.info(r).role == "parameter"]
    carried = set(_leaves(scope.dims[ref.number] for ref in parameters))
    for leaf in _leaves(scope.dims):
        if leaf.pin is None and leaf not in carried:
            leaf.pin = Why("no parameter carries it", "")


def _leaves(tensors: Iterable[list[Term] | None]) -> Iterator[Axis]:
    """Every leaf of these dimensions; a long sum is opened once, however many tensors carry it."""
    seen: set[Axis] = set()
    for dims in tensors:
        for term in dims or ():
            for axis in flat(term):
                if axis not in seen:
                    seen.add(axis)
                    yield from leaves([axis])


def _name(found: Trace, scope: Scope) -> tuple[dict[str, Axis], dict[int, list[Slot]]]:
    """Name every axis of the named tensors after the first one that carries it."""
    axes: dict[str, Axis] = {}
    slots: dict[int, list[Slot]] = {}
    for name, ref in found.names.items():
        for dim, term in enumerate(scope.get(ref)):
            for leaf in leaves(term):
                if not leaf.name:
                    leaf.name = _fresh(name, dim, axes)
                    axes[leaf.name] = leaf
                carried = slots.setdefault(id(leaf), [])
                slot = Slot(name, dim)
                if not carried or carried[-1] != slot:  # a dimension comes once, so only the last
                    carried.append(slot)
    return axes, slots


def _fresh(tensor: str, dim: int, taken: Mapping[str, Axis]) -> str:
    owner, _, leaf = tensor.rpartition(".")
    base = owner if dim == 0 and owner and leaf in {"weight", "bias"} else f"{tensor}:{dim}"
    base = "".join("_" if c in "() +" else c for c in base)
    if base.isdigit():
        base = f"{base}.{leaf}"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}/{count}"
    return name
