"""The oracle: what a rule claims of an operation, held against what the operation does.

A `Case` is a function of real tensors and a *claim* in einops notation. The function is traced, the
rules are applied, and three things must hold:

    stated     the axes that the rules found are the ones that the case spells out
    local      a unit only moves outputs that carry the same unit
    removable  without a unit, the function computes what it computes when the unit is silent

In a claim, `n c, o c -> n o` are axes that may be cut; an axis that starts with a capital is
pinned, a star marks one whose units the operation mixes (`n c* -> n c*`), `1` is a dimension of
length 1 and `()` a tensor without dimensions. Units of a mixed axis may move each other, and
removing them is only asked to give the predicted shapes.
"""

from __future__ import annotations

import inspect
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from excise.axes import Axis, Term, flat, leaves
from excise.graph import _apply
from excise.rules import Scope
from excise.trace import Op, Ref, TensorInfo, Trace, record, refs

Cut: TypeAlias = "Mapping[Axis, set[int]]"
Shapes: TypeAlias = "tuple[tuple[int, ...], ...]"
_CLOSE = 1e-9  # float64; a wrong claim is off by about one


class Given(NamedTuple):
    """One input: how to draw it, and whether it is a parameter, a buffer or an activation."""

    draw: Callable[[], Tensor]
    role: str = "parameter"


def real(*shape: int) -> Given:
    """A parameter of normal numbers."""
    return Given(lambda: torch.randn(shape, dtype=torch.float64))


def active(*shape: int) -> Given:
    """An activation: silencing parameters does not make its units zero."""
    return real(*shape)._replace(role="activation")


def buffer(*shape: int) -> Given:
    """A buffer; nobody silences it."""
    return real(*shape)._replace(role="buffer")


def positive(*shape: int) -> Given:
    """A buffer of numbers above 0.5, as variances are."""
    return Given(lambda: torch.rand(shape, dtype=torch.float64) + 0.5, "buffer")


def imaginary(*shape: int) -> Given:
    """A complex parameter."""
    return Given(lambda: torch.randn(shape, dtype=torch.complex128))


def index(high: int, *shape: int) -> Given:
    """A buffer of whole numbers from 0 to `high` - 1."""
    return Given(lambda: torch.randint(high, shape), "buffer")


def flags(*shape: int) -> Given:
    """A buffer of booleans."""
    return Given(lambda: torch.rand(shape) < 0.5, "buffer")


@dataclass(frozen=True)
class Case:
    """One function, its inputs, and the axes that the rules are expected to find.

    Attributes:
        name: what pytest calls it.
        claim: the axes of all inputs and outputs.
        function: of real tensors. If it has a parameter `to`, it is given the shapes of its
            outputs there, for operations whose code spells out sizes.
        given: its inputs.
        to: the shapes of the outputs before anything is removed, for such a function.
        smaller: stands in for the function once units are removed, where its sizes are fixed.
        looped: units feed back into one another, so that only removing them is compared.
        noisy: the result is random, so that only shapes can be compared.
        written: how the operation is written in a trace, for one that never runs here.
    """

    name: str
    claim: str
    function: Callable[..., Any]
    given: tuple[Given, ...]
    to: Shapes = ()
    smaller: Callable[..., Any] | None = None
    noisy: bool = False
    looped: bool = False
    written: Callable[..., tuple[str, tuple[Any, ...], dict[str, Any]]] | None = None

    def draw(self) -> list[Tensor]:
        """The inputs; the same ones every time."""
        torch.manual_seed(zlib.crc32(self.name.encode()))
        return [given.draw() for given in self.given]

    def run(self, tensors: list[Tensor], to: Shapes | None = None) -> list[Tensor]:
        """The outputs; `to` holds their expected shapes once units are removed."""
        function = self.function if to is None or self.smaller is None else self.smaller
        with torch.no_grad():
            copies = [tensor.clone() for tensor in tensors]
            if _takes_to(function):
                return _tensors(function(*copies, to=self.to if to is None else to))
            return _tensors(function(*copies))


def _takes_to(function: Callable[..., Any]) -> bool:
    """Whether a function has a parameter `to`; torch's own have no signature, and no `to`."""
    try:
        return "to" in inspect.signature(function).parameters
    except ValueError:
        return False


class Wrapped(nn.Module):
    """A module whose tensors are the inputs of a case, so that no axis is an input's."""

    case: Callable[[], Case]

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = lambda: case
        for i, (given, tensor) in enumerate(zip(case.given, case.draw(), strict=True)):
            if given.role == "buffer":
                self.register_buffer(f"given_{i}", tensor)
            else:
                self.register_parameter(f"given_{i}", nn.Parameter(tensor, requires_grad=False))

    def forward(self) -> list[Tensor]:
        case = self.case()
        tensors = [getattr(self, f"given_{i}") for i in range(len(case.given))]
        tensors = [  # a copy that the tape does not take for the parameter itself
            t * 1 if given.role == "activation" else t
            for t, given in zip(tensors, case.given, strict=True)
        ]
        named = {"to": case.to} if _takes_to(case.function) else {}
        function: Callable[..., Any] = case.function
        return _tensors(function(*tensors, **named))


@dataclass(frozen=True)
class Found:
    """What the rules say about a case."""

    case: Case
    inputs: tuple[tuple[Term, ...], ...]
    outputs: tuple[tuple[Term, ...], ...]
    mixed: frozenset[Axis]
    names: tuple[str, ...] = field(repr=False)

    def axes(self) -> list[Axis]:
        """Every axis that may be cut, in order of appearance."""
        terms = [term for dims in (*self.inputs, *self.outputs) for term in dims]
        every = dict.fromkeys(leaf for term in terms for leaf in leaves(term))
        return [leaf for leaf in every if leaf.pin is None and leaf.size]

    def claim(self) -> str:
        """All axes in the notation of claims."""
        names: dict[Axis, str] = {}
        sides = [", ".join(self._tensor(dims, names) for dims in side) for side in self._sides()]
        return canonical(" -> ".join(sides))

    def _sides(self) -> tuple[tuple[tuple[Term, ...], ...], ...]:
        return self.inputs, self.outputs

    def _tensor(self, dims: tuple[Term, ...], names: dict[Axis, str]) -> str:
        return " ".join(self._term(term, names) for term in dims) or "()"

    def _term(self, term: Term, names: dict[Axis, str]) -> str:
        words = []
        for axis in flat(term):
            if axis.size == 0:
                words.append("0")
            elif axis.parts is not None:
                parts = " + ".join(self._term([part], names) for part in axis.parts)
                words.append(f"({parts})")
            else:
                known = names.setdefault(axis, f"x{len(names)}")
                pinned = known.upper() if axis.pin is not None else known
                words.append(f"{pinned}*" if axis in self.mixed else pinned)
        if len(words) == 1:
            return words[0]
        return f"({' '.join(words)})" if words else "1"


def canonical(claim: str) -> str:
    """A claim with its axes renamed in order of appearance: equal for equal claims."""
    seen: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        word = match[0]
        letter = "X" if word[0].isupper() else "x"
        return seen.setdefault(word, f"{letter}{len(seen)}")

    return re.sub(r"[A-Za-z]\w*", name, " ".join(claim.split()))


def read(case: Case) -> Found:
    """Trace a case and apply the rules to it."""
    if case.written is None:
        trace, _ = record(Wrapped(case), (), {})
        outputs = [ref for _, ref in trace.outputs]
    else:
        trace, outputs = _by_hand(case)
    return apply(case, trace, outputs)


def apply(case: Case, trace: Trace, outputs: list[Ref]) -> Found:
    """Apply the rules to a trace of a case."""
    scope = Scope(trace)
    for number, op in enumerate(trace.ops):
        scope.here = number
        _apply(scope, op)
    inputs = [trace.names[f"given_{i}"] for i in range(len(case.given))]
    return Found(
        case,
        tuple(tuple(scope.get(ref)) for ref in inputs),
        tuple(tuple(scope.get(ref)) for ref in outputs),
        frozenset(leaf for mixing in scope.mixings for leaf in leaves(mixing.term)),
        tuple(op.name for op in trace.ops),
    )


def _by_hand(case: Case) -> tuple[Trace, list[Ref]]:
    """A trace of one operation that this machine never runs; the function is its stand-in."""
    tensors, inputs = list[TensorInfo](), list[Ref]()
    for i, (given, tensor) in enumerate(zip(case.given, case.draw(), strict=True)):
        inputs.append(Ref(len(tensors)))
        role = "attribute" if given.role == "activation" else given.role  # nothing else makes it
        tensors.append(TensorInfo(tuple(tensor.shape), role, f"given_{i}"))
    outs = []
    for tensor in case.run(case.draw()):
        outs.append(Ref(len(tensors)))
        tensors.append(TensorInfo(tuple(tensor.shape), "activation"))
    assert case.written is not None
    name, args, kwargs = case.written(*inputs)
    op = Op(name, args, kwargs, tuple(outs), "", "")
    names = {f"given_{i}": ref for i, ref in enumerate(inputs)}
    return Trace(tensors, [op], [], [], names, []), outs


def renamed(case: Case, old: str, new: str) -> Found:
    """The same case with one operation under another name of the same signature."""
    trace, _ = record(Wrapped(case), (), {})
    ops = [replace(op, name=new) if op.name == old else op for op in trace.ops]
    assert any(op.name == new for op in ops), f"{case.name} records no {old}"
    return apply(case, replace(trace, ops=ops), [ref for _, ref in trace.outputs])


def complaints(found: Found) -> Iterator[str]:
    """Everything that is wrong with what the rules say."""
    if found.claim() != canonical(found.case.claim):
        yield f"stated {canonical(found.case.claim)}, found {found.claim()}"
    whole = found.case.run(found.case.draw())
    for axis in found.axes():
        if axis not in found.mixed and not found.case.noisy and not found.case.looped:
            yield from _moves(found, axis, whole)
        for units in _choices(axis):
            yield from _differs(found, {axis: units})
    yield from _differs(
        found, {a: {1} for a in found.axes() if a.size > 1 and a not in found.mixed}
    )
    yield from _differs(found, {a: {0} for a in found.axes() if a.size > 1})


def _choices(axis: Axis) -> Iterator[set[int]]:
    """The first unit, the last, and all but one in the middle."""
    yield {0}
    yield {axis.size - 1}
    if axis.size > 3:
        yield set(range(axis.size)) - {1}


def gone(term: Term, cut: Cut) -> Tensor:
    """Which indices of a dimension belong to cut units."""
    out = torch.zeros(1, dtype=torch.bool)
    for axis in flat(term):
        if axis.parts is not None:
            factor = torch.cat([gone([part], cut) for part in axis.parts])
        else:
            factor = torch.zeros(axis.size, dtype=torch.bool)
            factor[sorted(cut.get(axis, ()))] = True
        out = (out[:, None] | factor[None, :]).reshape(-1)
    return out


def _touched(dims: tuple[Term, ...], cut: Cut) -> Tensor:
    """Which elements of a tensor belong to cut units, by any of its dimensions."""
    out = torch.zeros([1] * len(dims), dtype=torch.bool)
    for i, term in enumerate(dims):
        shape = [1] * len(dims)
        shape[i] = -1
        out = out | gone(term, cut).reshape(shape)
    return out


def _sliced(tensor: Tensor, dims: tuple[Term, ...], cut: Cut) -> Tensor:
    for i, term in enumerate(dims):
        tensor = tensor.index_select(i, (~gone(term, cut)).nonzero().flatten())
    return tensor


def _moves(found: Found, axis: Axis, whole: list[Tensor]) -> Iterator[str]:
    """Redraw one unit of every input that carries it; what moves must carry the same unit."""
    for unit in sorted({0, axis.size // 2, axis.size - 1}):
        tensors = found.case.draw()
        for i, dims in enumerate(found.inputs):
            touched = _touched(dims, {axis: {unit}}).expand(tensors[i].shape)
            tensors[i] = torch.where(touched, found.case.given[i].draw(), tensors[i])
        for i, (before, after) in enumerate(zip(whole, found.case.run(tensors), strict=True)):
            carried = any(leaf is axis for term in found.outputs[i] for leaf in leaves(term))
            touched = _touched(found.outputs[i], {axis: {unit}}).expand(before.shape)
            if carried and not _close(before[~touched], after[~touched]):
                yield f"unit {unit} of {_spot(found, axis)} moves other units of output {i}"


def _differs(found: Found, cut: Cut) -> Iterator[str]:
    """Remove units from the inputs; the outputs must be those with silent units, without them."""
    silent, small = found.case.draw(), list[Tensor]()
    for i, dims in enumerate(found.inputs):
        small.append(_sliced(silent[i], dims, cut))
        if found.case.given[i].role == "parameter":
            silent[i][_touched(dims, cut).expand(silent[i].shape)] = 0
    what = " and ".join(f"{sorted(units)} of {_spot(found, a)}" for a, units in cut.items())
    to = tuple(tuple(int((~gone(term, cut)).sum()) for term in dims) for dims in found.outputs)
    try:
        outs = found.case.run(small, to)
    except (RuntimeError, IndexError, ValueError) as error:
        yield f"without {what} it does not run: {str(error).splitlines()[0]}"
        return
    if tuple(tuple(out.shape) for out in outs) != to:
        yield f"without {what} the shapes are {[tuple(o.shape) for o in outs]}, predicted {to}"
    elif not found.case.noisy and not any(axis in found.mixed for axis in cut):
        for i, (wide, out) in enumerate(zip(found.case.run(silent), outs, strict=True)):
            if not _close(_sliced(wide, found.outputs[i], cut), out):
                yield f"without {what} output {i} is not what silent units give"


def _spot(found: Found, axis: Axis) -> str:
    for side, tensors in (("input", found.inputs), ("output", found.outputs)):
        for i, dims in enumerate(tensors):
            for j, term in enumerate(dims):
                if any(leaf is axis for leaf in leaves(term)):
                    return f"the axis of {side} {i}, dimension {j} ({axis.size} units)"
    raise AssertionError("an axis without a place")


def _close(a: Tensor, b: Tensor) -> bool:
    if a.is_floating_point() or a.is_complex():
        return torch.allclose(a, b, rtol=_CLOSE, atol=_CLOSE, equal_nan=True)
    return torch.equal(a, b)


def _tensors(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    return [t for item in out for t in _tensors(item)] if isinstance(out, (tuple, list)) else []


__all__ = [
    "Case", "Found", "active", "apply", "buffer", "canonical", "complaints", "flags", "imaginary",
    "index", "positive", "read", "real", "refs", "renamed",
]  # fmt: skip
