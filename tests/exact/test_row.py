"""Every row of `exact` against what its operation does: facts, needs and losses, by brute force.

The operations are those of the rules' cases. Of each, some elements of the inputs are said to be
known, and then

    facts   what is known of the outputs is so, whatever the unknown elements are;
    needs   elements that wanted outputs do not need may be anything, even if they were known;
    losses  elements that go and are not missed may be zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import excise
from excise.exact.affine import Affine
from excise.exact.attention import Attention
from excise.exact.effect import ROWS, Context, Effect, Marks, plain_name
from excise.exact.fact import Fact
from excise.exact.group import Grouped, Reduction
from excise.exact.knowledge import _effect, learn
from excise.exact.pointwise import RANDOM
from excise.exact.program import OPAQUE
from excise.exact.recurrent import Recurrent
from excise.trace.run import run
from excise.trace.tape import Tape
from tests.rules.cases import CASES
from tests.rules.oracle import Wrapped

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TRIES = 4
NOISE = {
    *RANDOM, "fractional_max_pool2d", "fractional_max_pool3d",  # random
    "empty", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted",  # anything
    "rnn",  # the recorder's name for two operations
}  # fmt: skip


class Call(NamedTuple):
    """One step, and the tensors that it was given."""

    c: Context
    tensors: list[Tensor]
    refs: Any


class Inputs(Tape):
    """Keeps what every operation is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[list[Tensor]] = []

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Keep the inputs."""
        del name
        with self.pause():
            self.given.append([t.clone() for t in tensors((args, kwargs))])
        return self.inside(func, args, kwargs)


def tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return tensors(tuple(tree.values()))
    return [t for item in tree for t in tensors(item)] if isinstance(tree, (tuple, list)) else []


def calls(name: str) -> list[Call]:
    """The steps of a case that have a row."""
    case = CASES[name]
    if case.written is not None or case.noisy:
        return []
    torch.manual_seed(0)
    model = Wrapped(case)
    knowledge = learn(excise.trace(model))
    tape = Inputs()
    run(model, tape, (), {})
    steps = [s for s in knowledge.program.steps if s.op is not OPAQUE]
    found = []
    for step, given in zip(steps, tape.given, strict=True):
        facts = [knowledge.facts[v] for v in step.ins]
        c = Context(knowledge.layout, step, knowledge.program.refs, facts)
        known = ROWS.get(plain_name(step.op.name)) or step.op.pointwise
        name = plain_name(step.op.name)
        if known and name not in NOISE and len(given) == len(facts):
            found.append(Call(c, given, knowledge.program.refs))
    return found


def partly(call: Call, source: torch.Generator, most: int) -> Context:
    """Of the first inputs some elements are known, and often zero; the others are as they were."""
    facts = []
    for i, (ref, tensor) in enumerate(zip(call.c.ins, call.tensors, strict=True)):
        if i >= most or not tensor.is_floating_point():
            facts.append(whole(tensor))
            continue
        shape = call.c.layout.small(ref)
        known = torch.rand(shape, generator=source) < 0.6
        if (
            known.numel() and len(shape) and torch.rand((), generator=source) < 0.5
        ):  # in whole slices
            dim = int(torch.randint(len(shape), (), generator=source))
            line = known.movedim(dim, 0).reshape(shape[dim], -1)[:, :1].reshape(-1)
            known = line.reshape([-1 if j == dim else 1 for j in range(len(shape))]).expand(shape)
        value = torch.randint(3, (), generator=source) * 0.7 + torch.zeros(shape)
        value = torch.where(torch.rand(shape, generator=source) < 0.5, 0.0, value).double()
        facts.append(Fact(torch.where(known, value, 0.0), known))
    return Context(call.c.layout, call.c.step, call.refs, facts)


def whole(tensor: Tensor) -> Fact:
    return Fact(tensor, torch.ones((), dtype=torch.bool).expand(tensor.shape))


def drawn(c: Context, call: Call, source: torch.Generator) -> list[Tensor]:
    """Inputs of which everything is so that is known."""
    out = []
    for i, (fact, tensor) in enumerate(zip(c.facts, call.tensors, strict=True)):
        if not tensor.is_floating_point():
            out.append(tensor)
            continue
        drawn_ = noise(c, i, tensor, source)
        out.append(torch.where(fact.known.expand(tensor.shape), fact.value.double(), drawn_))
    return out


def noise(c: Context, place: int, tensor: Tensor, source: torch.Generator) -> Tensor:
    """Any numbers, but that a variance is not negative."""
    found = torch.randn(tensor.shape, generator=source, dtype=torch.float64)
    variance = "batch_norm" in c.name and c.ins[place] == c.op.args[4]
    return found.abs() if variance else found


def close(a: Tensor, b: Tensor, where: Tensor) -> bool:
    where = where.expand(a.shape)
    return torch.allclose(
        a[where].to(torch.complex128), b[where].to(torch.complex128),
        rtol=1e-8, atol=1e-9, equal_nan=True,
    )  # fmt: skip


def marks(c: Context, source: torch.Generator) -> list[Marks]:
    return [torch.rand(c.layout.small(ref), generator=source) < 0.4 for ref in c.outs]


def complaints(call: Call, effect: Effect, source: torch.Generator) -> list[str]:
    """What a row says that is not so."""
    c, wrong = effect.c, []
    before = c.run(drawn(c, call, source))
    for fact, out in zip(effect.outs, before, strict=False):
        if out.numel() and not out.is_complex():
            value = fact.value.expand(out.shape).to(torch.float64)
            held = fact.known & torch.isfinite(fact.value)
            if not close(value, out.double(), held):
                wrong.append("facts")
    wanted = marks(c, source)
    need = effect.need(wanted)
    given = drawn(c, call, source)
    other = []
    for i, tensor in enumerate(given):
        free = tensor.is_floating_point() and not c.facts[i].full
        needed = need[i] if need[i] is not None else torch.zeros((), dtype=torch.bool)
        there = needed.expand(tensor.shape)  # type: ignore[union-attr]
        drawn_ = noise(c, i, tensor, source)
        other.append(torch.where(there, tensor, drawn_) if free else tensor)
    outs = zip(c.run(given), c.run(other), wanted, strict=False)
    if not all(close(a, b, w) for a, b, w in outs if w is not None and a.numel()):
        wrong.append("needs")
    whole_units = isinstance(effect, (Grouped, Recurrent)) or (
        isinstance(effect, Reduction) and effect.mixes
    )
    if not whole_units and not isinstance(effect, Attention):
        gone: list[Marks] = [
            torch.rand(c.layout.small(r), generator=source) < 0.5 if not f.full else None
            for r, f in zip(c.ins, c.facts, strict=True)
        ]
        left = []
        for tensor, lost, missed in zip(given, gone, effect.lose(wanted, gone), strict=True):
            away = lost if lost is None or missed is None else lost & ~missed
            spare = away is None or not tensor.is_floating_point()
            left.append(tensor if spare else torch.where(away.expand(tensor.shape), 0.0, tensor))  # type: ignore[union-attr]
        outs = zip(c.run(given), c.run(left), wanted, strict=False)
        if not all(close(a, b, w) for a, b, w in outs if w is not None and a.numel()):
            wrong.append("losses")
    return wrong


def stored(effect: Affine) -> bool:
    """Whether weight and bias are known, as parameters are; all that is drawn here is one."""
    places = (effect.weight, effect.bias)
    return all(effect.c.facts[p].full for p in places if p is not None)


def test_every_family_of_rows_is_tried() -> None:
    found = {type(_effect(call.c)).__module__ for name in CASES for call in calls(name)}
    families = ("affine", "attention", "group", "move", "norm", "pointwise", "product", "space")
    assert found >= {f"excise.exact.{family}" for family in (*families, "recurrent")}


@pytest.mark.parametrize("name", CASES)
def test_a_row_says_what_the_operation_does(name: str) -> None:
    source = torch.Generator().manual_seed(1)
    for call in calls(name):
        for number in range(TRIES):
            effect = _effect(partly(call, source, 1 if number % 2 else len(call.tensors)))
            if isinstance(effect, Affine) and not stored(effect):
                continue
            assert not complaints(call, effect, source), (call.c.name, type(effect).__name__)
