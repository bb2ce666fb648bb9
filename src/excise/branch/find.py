"""Residual branches: what is added to a stream, is made of it, and is used for nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from excise.branch.call import Call, Value, calls
from excise.branch.flow import Flow
from excise.graph import AxisGraph
from excise.layers import Bypassed
from excise.rules.table import VIEWS
from excise.trace import Op

_ADD = frozenset({"add", "add_"})
_NULL = VIEWS | {"mul", "mul_", "div", "div_", "neg", "native_dropout", "clone", "constant_pad_nd"}
"""Operations that make zeros of zeros."""


class Branch(NamedTuple):
    """A residual branch that can go.

    Attributes:
        name: of the module that is replaced, or of the last one.
        modules: all that are replaced, in order of execution.
        calls: the call of each.
        add: the operation that adds the branch to its stream.
        place: which of its arguments is the branch.
        inside: operations of whose results nothing is made but the branch.
    """

    name: str
    modules: tuple[Bypassed, ...]
    calls: tuple[Call, ...]
    add: int
    place: int
    inside: frozenset[int]

    @property
    def gone(self) -> frozenset[int]:
        """The operations that do not run any more."""
        return frozenset(number for call in self.calls for number in call.ops)


class Refused(NamedTuple):
    """A residual branch that has to stay, and why."""

    name: str
    reason: str
    where: str

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.name}: {self.reason}{place}"


@dataclass(frozen=True)
class Branches:
    """The residual branches of a model.

    Attributes:
        found: those that can go, in order of execution.
        refused: those that have to stay.
    """

    found: tuple[Branch, ...]
    refused: tuple[Refused, ...]

    def __str__(self) -> str:
        lines = [f"{b.name}: {', '.join(m.module for m in b.modules)}" for b in self.found]
        return "\n".join([*lines, *(f"stays: {each}" for each in self.refused)])


class _No(Exception):  # noqa: N818 - a signal within this file
    """A branch has to stay; the message says why."""


def branches(graph: AxisGraph, *, wide: bool = False) -> Branches:
    """The residual branches of a traced model, and whether modules can be replaced to remove them.

    A branch is one of the two terms of an addition, made of the other one, with everything between
    used for nothing else. It can go if one module does all of that (it becomes the identity), or if
    the branch comes out of a module (which then returns zeros).

    Args:
        graph: from `excise.trace`. The model runs once more, on fake tensors if it was traced so.
        wide: it was traced in float64.

    Raises:
        ExampleError: the model takes another path each time it runs.
    """
    flow, known = Flow(graph.trace), calls(graph, wide=wide)
    counts = Counter(call.module for call in known)
    found: list[Branch] = []
    refused: list[Refused] = []
    for number, op in enumerate(graph.trace.ops):
        for place in _candidates(graph, flow, number, op):
            stream, branch = flow.reads[number][1 - place], flow.reads[number][place]
            maker = graph.trace.ops[branch.maker]
            try:
                found.append(_branch(graph, flow, known, (number, place, stream, branch), counts))
            except _No as no:
                refused.append(Refused(maker.module or "model", str(no), maker.where))
    outer = [b for b in found if any(o is not b and o.add in b.inside for o in found)]
    refused += [Refused(b.name, "it holds branches that can go by themselves", "") for b in outer]
    return Branches(tuple(b for b in found if b not in outer), tuple(refused))


def _candidates(graph: AxisGraph, flow: Flow, number: int, op: Op) -> Iterator[int]:
    """Which argument of an addition is made of the other one: 0, 1 or neither."""
    if op.name not in _ADD or op.kwargs or len(op.inputs()) != 2 or len(op.args) != 2:  # noqa: PLR2004
        return
    shapes = {graph.scope.shape(ref) for ref in (*op.inputs(), *op.outs)}
    if len(shapes) > 1 or not graph.scope.info(op.outs[0]).floating:
        return
    parameters = {r for r in graph.trace.names.values() if graph.scope.info(r).role == "parameter"}
    for place in (0, 1):
        stream, branch = flow.reads[number][1 - place], flow.reads[number][place]
        if stream == branch or branch.maker <= stream.maker:
            continue
        between = flow.between(stream, branch)
        if any(ref in parameters for n in between for ref in graph.trace.ops[n].inputs()):
            yield place


def _branch(
    graph: AxisGraph,
    flow: Flow,
    known: Sequence[Call],
    where: tuple[int, int, Value, Value],
    counts: Counter[str],
) -> Branch:
    number, place, stream, branch = where
    inside = flow.private(branch, number)
    shared = sorted(flow.between(stream, branch) - inside)
    if shared:
        op, who = graph.trace.ops[shared[-1]], flow.user(shared[-1], inside)
        raise _No(
            f"{op.name} inside it is used elsewhere: {who}" if who else "it is used elsewhere"
        )
    whole = _whole(flow, known, where, inside)
    if whole is not None:
        chosen, kinds = [whole], ["input"]
    else:
        chosen = list(_outermost(known, inside | flow.idle, inside))
        kinds = ["input"] * (len(chosen) - 1) + ["zeros"]
        _check_end(graph, flow, chosen, branch, inside)
    for call in chosen:
        if counts[call.module] > 1:
            raise _No(f"{call.module} is called {counts[call.module]} times")
        if _names(graph, call.module) > 1:
            raise _No(f"{call.module} has another name as well")
    if whole is None:
        modules = tuple(map(_bypassed, chosen, kinds))
    else:
        given = next(key for key, value in whole.given if value == stream)
        modules = (_bypassed(whole, "input", given),)
    name = modules[-1].module
    return Branch(name, modules, tuple(chosen), number, place, frozenset(inside))


def _names(graph: AxisGraph, module: str) -> int:
    """How often a module, or one that it lies in, is registered."""
    model = graph.stage.model
    mine = model.get_submodule(module)
    return sum(each is mine for _, each in model.named_modules(remove_duplicate=False))


def _whole(
    flow: Flow, known: Iterable[Call], where: tuple[int, int, Value, Value], inside: set[int]
) -> Call | None:
    """The module that takes the stream and returns the sum, after a ReLU that it had before."""
    number, _, stream, _ = where
    total = flow.made[number][0]
    ends, after = {total}, set[int]()
    readers = flow.readers.get(total, [])
    if len(readers) == 1 and total not in flow.results and flow.unchanged(readers[0], stream):
        after = {readers[0]}
        ends = set(flow.made[readers[0]])
    may = inside | {number} | after | flow.idle
    for call in known:  # inner ones end first
        fits = number in call.ops and may.issuperset(call.ops) and after.issubset(call.ops)
        alone = call.outs and len(call.outs) == 1 and call.outs[0] in ends
        if fits and alone and call.outputs >= 0 and stream in [v for _, v in call.given]:
            return call if call.module else None
    return None


def _outermost(
    known: Iterable[Call], may: set[int] | frozenset[int], must: set[int]
) -> Iterator[Call]:
    """The largest calls that run nothing but these operations, in order."""
    end = 0
    fits = [c for c in known if c.module and may.issuperset(c.ops) and must.intersection(c.ops)]
    for call in sorted(fits, key=lambda c: (c.first, -c.last, len(c.module))):
        if call.first >= end:
            end = call.last
            yield call


def _check_end(
    graph: AxisGraph, flow: Flow, chosen: Sequence[Call], branch: Value, inside: set[int]
) -> None:
    """The last module's zeros have to reach the addition as zeros."""
    if not chosen:
        raise _No("no module does only this: its code lies in the forward of a larger one")
    last = chosen[-1]
    value = branch
    while value.maker >= last.last:
        op = graph.trace.ops[value.maker]
        if op.name not in _NULL or value.maker not in inside:
            raise _No(f"{op.name} after {last.module} may make something of zeros")
        given = flow.reads[value.maker]
        factors = given if op.name.startswith("mul") else given[:1]
        value = max(factors, key=lambda one: one.maker)  # zero times anything is zero
    if value not in last.outs:
        raise _No(f"it does not come out of {last.module} alone")


def _bypassed(call: Call, makes: str, given: int | str | None = None) -> Bypassed:
    if not call.given:
        raise _No(f"{call.module} takes no tensor")
    if len(call.outs) != 1 or call.outputs < 0:
        raise _No(f"{call.module} returns {len(call.outs)} tensors, or more than a tuple")
    if makes == "input" and call.alone and not call.outputs:
        return Bypassed(call.module, "identity")
    given = call.given[0][0] if given is None else given
    return Bypassed(call.module, makes, given, call.outputs, call.place if call.outputs else 0)
