"""The table of rules, and the scope in which a rule speaks about axes.

A rule is a function of a `Scope` and an `Op` that gives every output its dimensions and relates the
inputs. To add an operation, register a function in its family's file and add its oracle test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from excise.axes import Axis, Clash, Term, Why, flat, pin, size, unify
from excise.trace import Op, Ref, TensorInfo, Trace, refs

Rule: TypeAlias = "Callable[[Scope, Op], None]"
RULES: dict[str, Rule] = {}
POINTWISE: set[str] = set()
"""Operations that act index by index although torch does not tag them as pointwise."""
RANDOM = frozenset(
    ["rand", "randn", "randint", "rand_like", "randn_like", "bernoulli", "normal", "uniform",
     "exponential", "log_normal", "random", "geometric", "cauchy", "native_dropout", "rrelu",
     "_fused_dropout", "rrelu_with_noise", "rrelu_with_noise_functional"]
)  # fmt: skip
"""Operations whose value at a unit depends on how many numbers were drawn before it."""
VIEWS = frozenset(
    ["view", "permute", "t", "transpose", "unsqueeze", "squeeze", "expand", "slice", "split",
     "split_with_sizes", "select", "unbind", "chunk", "unflatten", "flatten"]
)  # fmt: skip
"""Operations whose result is zero where their input is."""


class Mixing(NamedTuple):
    """An operation whose value depends on how many units an axis has, or on all of them at once."""

    op: int
    name: str
    term: tuple[Axis, ...]


class Product(NamedTuple):
    """The multiply-adds of one operation: the product of these lengths."""

    op: int
    term: tuple[Axis, ...]


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the named operations.

    Args:
        names: of aten operations, without overload and without the `_` of the in-place form; of
            others (`torch.library`) with their namespace, as in `"mylib::soft_cap"`.

    Example:
        >>> import excise
        >>> @excise.rules.rule("mylib::soft_cap")
        ... def soft_cap(s: excise.rules.Scope, op: excise.rules.Op) -> None:
        ...     s.put(op.outs[0], s.get(op.args[0]))  # the output has the axes of the input
        >>> _ = RULES.pop("mylib::soft_cap")
    """

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


class Scope:
    """What is known of every traced tensor's dimensions while rules are applied."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.dims: list[list[Term] | None] = [None] * len(trace.tensors)
        self.mixings: list[Mixing] = []
        self.products: list[Product] = []
        self.numbers: dict[int, Term] = {}
        self.spread: set[tuple[int, int]] = set()  # tensor, dimension: the same at every index
        self.counts: list[tuple[Term, int]] = []
        self.strides: list[tuple[Term, int]] = []
        self.least: dict[Axis, int] = {}
        self.multiple: dict[Axis, int] = {}
        self.here = 0
        self.views: set[int] = set()
        self.written: set[int] = set()

    def info(self, ref: Ref) -> TensorInfo:
        """Shape, role and name of a tensor."""
        return self.trace.tensors[ref.number]

    def note(self, op: Op, name: str) -> None:
        """Note whether the results of an operation are zero where a parameter is silenced."""
        if op.name != name:
            self.written.update(ref.number for ref in op.outs)
        elif name in VIEWS and all(map(self.silent, op.inputs())):
            self.views.update(ref.number for ref in op.outs)

    def silent(self, ref: Ref) -> bool:
        """Whether a tensor is a parameter, or a view of one: its removed units can be zeroed."""
        known = self.info(ref).role == "parameter" or ref.number in self.views
        return known and ref.number not in self.written

    def base(self, ref: Ref) -> Ref:
        """The tensor in whose memory a view lies; of what is no view, the tensor itself."""
        for op in reversed(self.trace.ops[: self.here]):
            if ref in op.outs:
                if op.name not in VIEWS:
                    break
                ref = op.inputs()[0]
        return ref

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.info(ref).shape

    def why(self, reason: str) -> Why:
        """A reason with the place of the operation at hand."""
        op = self.trace.ops[self.here]
        place = f"{op.where} in {op.module}" if op.module else op.where
        return Why(reason, place)

    def get(self, ref: Ref) -> list[Term]:
        """The dimensions of a tensor, as terms."""
        dims = self.dims[ref.number]
        if dims is None:
            info = self.info(ref)
            reason = Why(f"a {info.role} tensor", info.name)
            free = info.role in {"parameter", "buffer", "attribute"}
            dims = [[] if n == 1 else [Axis(n, None if free else reason)] for n in info.shape]
            self.dims[ref.number] = dims
        return [list(d) for d in dims]

    def put(self, ref: Ref, dims: Iterable[Term]) -> None:
        """Give an output its dimensions; one written in place keeps its own, made equal."""
        new = [flat(d) for d in dims]
        found = tuple(size(d) for d in new)
        if found != self.shape(ref):
            raise Clash(f"predicted {found}, got {self.shape(ref)}")
        old = self.dims[ref.number]
        if old is None:
            self.dims[ref.number] = new
            return
        for a, b in zip(old, new, strict=True):
            unify(a, b)

    def fresh(self, length: int, reason: str = "an activation axis") -> Term:
        """A new axis that no plan may cut."""
        return [] if length == 1 else [Axis(length, self.why(reason))]

    def free(self, length: int) -> Term:
        """A new axis with nothing known against cutting it."""
        return [] if length == 1 else [Axis(length)]

    def pin(self, term: Term, reason: str) -> None:
        """Forbid cutting a term."""
        pin(term, self.why(reason))

    def mix(self, name: str, *terms: Term) -> None:
        """Note that the operation at hand mixes the units of these terms."""
        for term in terms:
            if term:
                self.mixings.append(Mixing(self.here, name, tuple(term)))

    def number(self, ref: Ref, term: Term) -> None:
        """Note that the values of a tensor are numbers of this term's units, as `topk` gives."""
        if any(axis.pin is None for axis in term):
            self.numbers[ref.number] = list(term)

    def numbered(self, ref: Ref) -> Term | None:
        """The term whose units a tensor's values number; None if they do not."""
        return self.numbers.get(ref.number)

    def keep(self, term: Term, count: int) -> None:
        """Note that at least so many units of a term must stay."""
        self.counts.append((list(term), count))

    def align(self, term: Term, multiple: int) -> None:
        """Note that a kernel takes this dimension only in multiples of so many units."""
        self.strides.append((list(term), multiple))

    def settle(self) -> None:
        """Read `keep` and `align` as limits of axes, once no rule will split an axis any more."""
        for term, count in self.counts:
            axes = [axis for axis in flat(term) if axis.parts is None]
            longest = max(axes, key=lambda axis: axis.size, default=None)
            if longest is None or longest.size < count or len(axes) < len(flat(term)):
                pin(term, Why("so many of its units are needed", ""))
            else:
                self.least[longest] = max(count, self.least.get(longest, 1))
        for term, multiple in self.strides:
            self._stride(term, multiple)

    def _stride(self, term: Term, multiple: int) -> None:
        for axis in flat(term)[-1:]:  # if the innermost factor is a multiple, so is the product
            if axis.parts is not None:
                for part in axis.parts:
                    self._stride([part], multiple)
            elif axis.size % multiple == 0:
                self.multiple[axis] = math.lcm(multiple, self.multiple.get(axis, 1))

    def macs(self, *terms: Term) -> None:
        """Count multiply-adds: the product of the lengths of all terms."""
        self.products.append(Product(self.here, tuple(axis for term in terms for axis in term)))


CARRIED = frozenset(
    ["view", "permute", "t", "transpose", "unsqueeze", "squeeze", "expand", "slice", "split",
     "split_with_sizes", "select", "unbind", "chunk", "unflatten", "flatten", "repeat",
     "repeat_interleave", "reshape", "cat", "stack", "sort", "index", "index_select", "gather"]
)  # fmt: skip
"""Operations whose result holds the same numbers as their first input, in other places."""
READERS = frozenset(
    ["index", "index_select", "gather", "scatter", "scatter_add", "one_hot", "histc", "index_add",
     "embedding", "_unsafe_index"]
)  # fmt: skip
"""Operations whose rules understand an index tensor that numbers the units of an axis."""


def follow(s: Scope, op: Op, name: str) -> None:
    """Carry numbers of units on through an operation, or pin the axis that they number."""
    for ref in op.inputs():
        term = s.numbered(ref)
        if term is None:
            continue
        source = refs(op.args[0]) if op.args else []
        if name in CARRIED and ref in source:
            if all(_same_units(term, s.numbered(other)) for other in source):
                for out in op.outs[:1] if name == "sort" else op.outs:
                    s.number(out, term)
                continue
        elif name in READERS:
            continue
        s.pin(term, f"the numbers of its units are used by {name}")


def _same_units(term: Term, other: Term | None) -> bool:
    """Whether two terms number the same units, made equal if they can be."""
    if other is None:
        return False
    try:
        unify(term, other)
    except Clash:
        return False
    return True


def broadcast(s: Scope, tensors: list[Ref], shape: tuple[int, ...]) -> list[Term]:
    """Unify dimensions under broadcasting; dimensions of length 1 say nothing."""
    dims: list[Term] = []
    given = [(s.shape(ref), s.get(ref)) for ref in tensors]
    for i, length in enumerate(shape):
        known: Term | None = None
        for source, terms in given:
            j = i - (len(shape) - len(source))
            if j < 0 or source[j] != length or length == 1:
                continue
            if known is None:
                known = terms[j]
            else:
                unify(known, terms[j])
        dims.append(known if known is not None else s.free(length))
    return dims


def argument(op: Op, place: int, name: str, default: Any = None) -> Any:
    """An argument by place or name."""
    if len(op.args) > place:
        return op.args[place]
    return op.kwargs.get(name, default)


def places(op: Op, place: int, name: str, rank: int) -> list[int]:
    """A `dim` argument as non-negative places; absent means every dimension."""
    given = argument(op, place, name)
    if given is None or (isinstance(given, (list, tuple)) and not given):
        return list(range(rank))
    many = given if isinstance(given, (list, tuple)) else (given,)
    return [int(d) % max(rank, 1) for d in many]
