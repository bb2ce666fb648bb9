"""Bounds of linear layers and convolutions, norms, moves, pooling, averages and states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from excise.exact.affine import Affine
from excise.exact.attention import Attention, drops
from excise.exact.bound import Bound, Given, bounded, finite, times, total, unbounded, widened
from excise.exact.fact import Fact
from excise.exact.group import Reduction
from excise.exact.move import MOVES, Move, Picked
from excise.exact.norm import BatchNorm
from excise.exact.space import BLENDING, Spatial, counts_padding
from excise.rules.space import _names
from excise.rules.table import argument

_BEYOND = 1.001
"""States are mixtures of numbers between -1 and 1, give or take their rounding."""


@bounded("linear", "mm", "matmul", "addmm", "convolution", "_convolution")
def affine(given: Given) -> Bound | None:
    """Sums with known coefficients: finite where every input that counts is."""
    effect = given.effect
    if not isinstance(effect, Affine) or given.ins[effect.source] is None:
        return None
    low, high = _lines(effect, given.open(effect.source))
    fixed = torch.zeros_like(low)
    if given.loose or not effect.shape.even:
        if not given.loose:  # at the border, constants of one tap are there together or not at all
            fixed, still = _constants(effect, given.c.facts[effect.source], low)
            low, high = low.masked_fill(still, 0.0), high.masked_fill(still, 0.0)
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    up, down = low.isinf().any(0), high.isinf().any(0)  # (groups, in): endless below, above
    positive, negative = _signs(effect.raw, up), _signs(effect.raw, down)
    endless_high = negative[0] | positive[1]
    endless_low = negative[1] | positive[0]
    some = ~(endless_high & endless_low)
    if not bool(some.any()):
        return None
    bias = given.open(effect.bias) if effect.bias is not None else None
    lows, highs = _sums(
        effect, Bound(low, high), some, given.eps, [bias, _taps(effect, fixed, some)]
    )
    made = unbounded((low.shape[0], *some.shape))
    out_low, out_high = made.low.clone(), made.high.clone()
    out_low[:, some] = torch.where(endless_low[some], -float("inf"), lows)
    out_high[:, some] = torch.where(endless_high[some], float("inf"), highs)
    return Bound(*(effect.spread(t).expand(_shape(given)) for t in (out_low, out_high)))


def _shape(given: Given) -> tuple[int, ...]:
    return given.c.layout.small(given.c.outs[0])


def _lines(effect: Affine, bound: Bound) -> Bound:
    """Bounds of the input as (rows, groups, in), one row unless the effect tells rows apart."""
    low, high = effect.rows(bound.low), effect.rows(bound.high)
    if effect.value.shape[0] == 1:
        low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
    return Bound(low, high)


def _signs(raw: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs with a coefficient above 0, and below 0, on a chosen input: (groups, out) each."""
    none = torch.zeros(raw.shape[:2], dtype=torch.bool)
    if not bool(chosen.any()):
        return none, none
    if bool(chosen.all()):
        least, most = raw.flatten(2).aminmax(dim=-1)
        return most > 0, least < 0
    columns = chosen.any(0).nonzero().flatten()
    part = raw[:, :, columns].to(torch.float32) * chosen[:, columns].unsqueeze(1).unsqueeze(-1)
    least, most = part.flatten(2).aminmax(dim=-1)
    return most > 0, least < 0


def _constants(effect: Affine, fact: Fact, like: Tensor) -> tuple[Tensor, Tensor]:
    """What is known of the input, as (rows, groups, in), 0 elsewhere; and where: (groups, in)."""
    shape = fact.known.shape
    known = effect.rows(fact.known.to(torch.float64)) > 0
    value = effect.rows(torch.where(fact.known, fact.value.double(), 0.0).expand(shape))
    still = known.all(0) & torch.isfinite(value).all(0)
    if like.shape[0] == 1 and value.shape[0] > 1:
        still = still & (value == value[:1]).all(0)
        value = value[:1]
    return torch.where(still, value, 0.0).expand_as(like), still


def _taps(effect: Affine, fixed: Tensor, some: Tensor) -> Bound | None:
    """Bounds of what constant inputs add to some outputs: each tap its whole sum, or nothing."""
    if not bool(fixed.any()):
        return None
    weight = effect.raw[some].double()  # (chosen, in, taps)
    group = some.nonzero()[:, 0]
    each = torch.einsum("rci,cit->rct", fixed[:, group], weight)
    return Bound(each.clamp(max=0.0).sum(-1), each.clamp(min=0.0).sum(-1))


def _sums(
    effect: Affine, bound: Bound, some: Tensor, eps: float, extra: Sequence[Bound | None]
) -> tuple[Tensor, Tensor]:
    """Bounds of some outputs, as (rows, chosen): of the products, the bias, and constants."""
    weight = effect.raw[some].double()  # (chosen, in, taps)
    share = eps * (2 + weight.shape[1] * weight.shape[2])
    plus = weight.clamp(min=0).sum(-1)
    minus = plus - weight[..., 0] if weight.shape[2] == 1 else (-weight).clamp(min=0).sum(-1)
    low, high = (torch.where(t.isinf(), 0.0, t) for t in bound)  # endless ones are told apart

    def added(plain: Tensor, turned: Tensor) -> Tensor:
        if some.shape[0] == 1:
            return plain[:, 0] @ plus.mT + turned[:, 0] @ minus.mT
        group = some.nonzero()[:, 0]
        return (plain[:, group] * plus + turned[:, group] * minus).sum(-1)

    bias, taps = extra
    more: list[Bound] = [] if taps is None else [taps]
    if bias is not None:
        more.append(Bound(*(t.reshape(some.shape)[some] for t in bias)))
    ends = []
    for a, b, others in (
        (high, -low, [m.high for m in more]), (-low, high, [-m.low for m in more]),
    ):  # fmt: skip
        above, below = added(a.clamp(min=0), b.clamp(min=0)), added(a.clamp(max=0), b.clamp(max=0))
        terms = [above, below, *others]
        ends.append(total(terms, terms, share).high)
    return -ends[1], ends[0]


@bounded("native_batch_norm", "_native_batch_norm_legit", "batch_norm", "cudnn_batch_norm",
         "_native_batch_norm_legit_no_training", "_batch_norm_no_update")  # fmt: skip
def batch_norm(given: Given) -> Bound | None:
    """A scale and a shift for each channel, with known statistics."""
    effect = given.effect
    if not isinstance(effect, BatchNorm) or effect.line is None or given.ins[0] is None:
        return None
    scale, mean, bias = effect.line
    low, high = given.open(0)
    a, b = times(scale, low), times(scale, high)
    least, most = torch.minimum(a, b), torch.maximum(a, b)
    shift = [-scale * mean, bias]
    return given.fit(total([least, *shift], [most, *shift], 8 * given.eps))


@bounded(*MOVES, "constant_pad_nd", "pad", "index", "_unsafe_index", "gather", "take_along_dim",
         "embedding")  # fmt: skip
def move(given: Given) -> Bound | list[Bound | None] | None:
    """Bounds move like the numbers themselves; any of several slices has the bounds of all."""
    effect = given.effect
    if isinstance(effect, Picked) and given.ins[0] is not None:
        low, high = given.ins[0]
        for dim in effect.dims:
            low = low.amin(dim, keepdim=True).expand(low.shape)
            high = high.amax(dim, keepdim=True).expand(high.shape)
        return given.fit(Bound(*(effect.moved(t) for t in (low, high))))
    if not isinstance(effect, Move) or all(b is None for b in given.ins):
        return None
    many = [given.open(i) for i in range(len(given.c.ins))]
    lows, highs = effect.moved([b.low for b in many]), effect.moved([b.high for b in many])
    return [
        _settled(given, number, low, high)
        for number, (low, high) in enumerate(zip(lows, highs, strict=True))
    ]


def _settled(given: Given, number: int, low: Tensor, high: Tensor) -> Bound:
    shape = given.c.layout.small(given.c.outs[number])
    for dim, n in enumerate(shape):
        if n == 1 and low.shape[dim] > 1:
            low, high = low.amin(dim, keepdim=True), high.amax(dim, keepdim=True)
    return Bound(low.expand(shape), high.expand(shape))


def _blended(given: Given) -> Bound | None:
    """Maxima and averages of positions."""
    effect, c = given.effect, given.c
    if not isinstance(effect, Spatial) or given.ins[0] is None or "bicubic" in c.name:
        return None
    if not c.name.startswith(BLENDING):
        return None
    low, high = given.ins[0]
    dims = list(range(low.ndim - effect.rank, low.ndim))
    low, high = low.amin(dims, keepdim=True), high.amax(dims, keepdim=True)
    if c.name.startswith("avg_pool"):
        if argument(c.op, 6, "divisor_override", None) is not None:
            return None
        if counts_padding(c):
            low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    shape = c.layout.full(c.ins[0])
    many = 1
    for dim in dims:
        many *= shape[dim]
    off = 0.0 if "max" in c.name or "nearest" in c.name else (many + 8) * given.eps
    return given.fit(widened(Bound(low, high), off))


for _rank in ("1d", "2d", "3d"):
    bounded(*_names(_rank))(_blended)


@bounded("mean", "amax", "amin", "sum")
def reduced(given: Given) -> Bound | None:
    """Averages and extremes lie between their elements; a sum keeps a sign that all have."""
    effect, c = given.effect, given.c
    if not isinstance(effect, Reduction) or given.ins[0] is None:
        return None
    low, high = given.ins[0]
    dims = effect.dims or list(range(low.ndim))
    low, high = low.amin(dims, keepdim=True), high.amax(dims, keepdim=True)
    if c.name == "sum":
        low = torch.where(low >= 0, 0.0, -float("inf"))
        high = torch.where(high <= 0, 0.0, float("inf"))
    elif c.name == "mean":
        many = 1
        for dim in dims:
            many *= c.layout.full(c.ins[0])[dim]
        low, high = widened(Bound(low, high), (many + 8) * given.eps)
    shape = _shape(given)
    if low.ndim != len(shape):
        low, high = (t.squeeze(dims) for t in (low, high))
    return given.fit(Bound(low, high))


def _between(least: float, most: float) -> Callable[[Given], Bound | None]:
    def rows(given: Given) -> Bound | None:
        low = torch.full(_shape(given), least, dtype=torch.float64)
        return Bound(low, torch.full_like(low, most))

    return rows


bounded("_softmax", "softmax", "_safe_softmax")(_between(0.0, 1.0))
bounded("_log_softmax", "log_softmax")(_between(-float("inf"), 0.0))
bounded("lstm")(_between(-_BEYOND, _BEYOND))


@bounded("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
         "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
         "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math")  # fmt: skip
def attention(given: Given) -> Bound | None:
    """Averages of values; a mask may leave none."""
    effect, c = given.effect, given.c
    if not isinstance(effect, Attention) or drops(c):
        return None
    found = given.ins[effect.v or 0]
    if found is None:
        return None
    low, high = found.low.amin(-2, keepdim=True), found.high.amax(-2, keepdim=True)
    if len(c.ins) > 3:  # noqa: PLR2004 - as above
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    heads = effect.heads(Fact(low, high), _shape(given))
    off = (c.layout.full(c.ins[effect.v or 0])[-2] + 8) * given.eps
    return given.fit(finite(widened(Bound(*heads), off)))
