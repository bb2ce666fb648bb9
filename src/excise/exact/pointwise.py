"""Index by index: an element depends on the elements that it is made of, and on no other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.exact.effect import Context, Effect, Marks, reduced, row
from excise.exact.fact import Fact
from excise.trace import Ref

RANDOM = frozenset((
    "_fused_dropout", "alpha_dropout", "bernoulli", "cauchy", "dropout", "empty_like",
    "exponential", "feature_dropout", "geometric", "log_normal", "native_alpha_dropout",
    "native_dropout", "normal", "rand_like", "randint_like", "randn_like", "random", "rrelu",
    "rrelu_with_noise", "rrelu_with_noise_functional", "uniform",
))  # fmt: skip
_SAME = frozenset(["_to_copy", "alias", "clone", "contiguous", "detach", "to"])
_REGARDLESS = frozenset(["zeros_like", "ones_like", "full_like", "zero"])


class Pointwise(Effect):
    """`matters[i]`: where, in the shape of the output, input `i` makes a difference."""

    def __init__(self, c: Context, outs: list[Fact], matters: Sequence[Marks | bool]) -> None:
        super().__init__(c, outs)
        self.matters = matters

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """The elements at the same index, where they make a difference."""
        shapes = [self.c.layout.small(ref) for ref in self.c.ins]
        found: list[Marks] = [None] * len(shapes)
        for marks in wanted:
            if marks is None:
                continue
            for i, (shape, matters) in enumerate(zip(shapes, self.matters, strict=True)):
                if matters is False or matters is None or len(shape) > marks.ndim:
                    continue
                here = marks if matters is True else marks & matters
                back = reduced(here, shape)
                found[i] = back if found[i] is None else found[i] | back  # type: ignore[operator]
        return found


def known_together(c: Context, out: Ref) -> Tensor:
    """Where all inputs are known, in the small shape of the output."""
    shape = c.layout.small(out)
    known = torch.ones(shape, dtype=torch.bool)
    for fact in c.facts:
        if fact.known.ndim <= len(shape):
            known = known & _uniform_over(fact, shape).known
    return known


def _uniform_over(fact: Fact, shape: Sequence[int]) -> Fact:
    """A fact in a shape that drops more dimensions than its own."""
    value, known = fact
    lead = len(shape) - value.ndim
    for dim in range(value.ndim):
        if shape[dim + lead] == 1 and value.shape[dim] > 1:
            first = value.narrow(dim, 0, 1)
            known = (known & (value == first)).all(dim, keepdim=True)
            value = first
    return Fact(value, known)


def pointwise(c: Context) -> Effect:
    """Any operation that works index by index on broadcast inputs."""
    if c.name in _REGARDLESS:
        out = c.run([fact.value for fact in c.facts])[0]
        fact = c.layout.settle(c.outs[0], out, torch.ones(out.shape, dtype=torch.bool))
        return Pointwise(c, [fact], [False] * len(c.ins))
    outs = c.unknown()
    if c.name not in RANDOM:
        outs = [_evaluated(c, i, unknown) for i, unknown in enumerate(outs)]
    effect = Pointwise(c, outs, [True] * len(c.ins))
    effect.shares = c.name in _SAME and c.shares[0]
    return effect


def _evaluated(c: Context, place: int, unknown: Fact) -> Fact:
    ref = c.outs[place]
    known = known_together(c, ref)
    if not bool(known.any()):
        return unknown
    shape = c.layout.small(ref)
    facts = [_uniform_over(f, shape) if f.value.ndim <= len(shape) else f for f in c.facts]
    try:
        value = c.run([fact.value for fact in facts])[place]
    except (RuntimeError, TypeError, NotImplementedError):  # a dtype that the trace does not tell
        return unknown
    return c.layout.settle(ref, value.expand(shape), known)


@row("mul", "multiply")
def mul(c: Context) -> Effect:
    """A known zero settles a product, whatever the other factor is."""
    out, *factors = c.outs[0], *c.facts
    if len(factors) != 2:  # noqa: PLR2004 - times a number, or squared: nothing to exploit
        return pointwise(c)
    shape = c.layout.small(out)
    x, y = (_uniform_over(f, shape) for f in factors)
    fact = _evaluated(c, 0, c.layout.unknown(out))
    zero = (x.zero | y.zero).expand(shape)
    if bool(zero.any()):
        value = torch.where(zero, torch.zeros((), dtype=fact.value.dtype), fact.value)
        fact = Fact(value, fact.known | zero)
    # where both are zero, one of them has to stay zero
    return Pointwise(c, [fact], [~y.zero, ~x.zero | y.zero])


@row("where")
def where(c: Context) -> Effect:
    """The branch that is not taken does not matter."""
    if len(c.facts) != 3:  # noqa: PLR2004 - branches that are numbers
        return pointwise(c)
    shape = c.layout.small(c.outs[0])
    cond, yes, no = (_uniform_over(f, shape) for f in c.facts)
    taken = cond.value.bool()
    known = (cond.known & torch.where(taken, yes.known, no.known)) | (
        yes.known & no.known & (yes.value == no.value)
    )
    value = torch.where(cond.known & taken, yes.value, no.value)
    fact = c.layout.settle(c.outs[0], value.expand(shape), known.expand(shape))
    return Pointwise(c, [fact], [True, ~cond.known | taken, ~cond.known | ~taken])


@row("copy")
def copy(c: Context) -> Effect:
    """The second input replaces the first."""
    shape = c.layout.small(c.outs[0])
    source = _uniform_over(c.facts[1], shape)
    fact = Fact(source.value.expand(shape), source.known.expand(shape))
    return Pointwise(c, [fact], [False, True])


@row("fill")
def fill(c: Context) -> Effect:
    """One value replaces everything."""
    value = c.op.args[1]
    shape = c.layout.small(c.outs[0])
    if isinstance(value, Ref):
        return Pointwise(c, c.unknown(), [False, True])
    made = torch.full(shape, float(value), dtype=torch.float64)
    return Pointwise(c, [Fact(made, torch.ones(shape, dtype=torch.bool))], [False])


def created(c: Context) -> Effect:
    """New tensors, with values that do not come from any input."""
    try:
        value = c.run([f.value for f in c.facts])[0]
    except (RuntimeError, TypeError, NotImplementedError):
        return Pointwise(c, c.unknown(), [False] * len(c.ins))
    fact = c.layout.settle(
        c.outs[0],
        value.double() if value.is_floating_point() else value,
        torch.ones(value.shape, dtype=torch.bool),
    )
    return Pointwise(c, [fact], [False] * len(c.ins))


for _name in ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "arange", "eye",
              "linspace", "scalar_tensor"):  # fmt: skip
    row(_name)(created)


def nothing(c: Context) -> Effect:
    """New tensors whose values are noise, or will be overwritten."""
    return Pointwise(c, c.unknown(), [False] * len(c.ins))


for _name in ("rand", "randn", "empty", "new_empty", "randint", "empty_strided", "randperm",
              "new_empty_strided", "empty_permuted"):  # fmt: skip
    row(_name)(nothing)
