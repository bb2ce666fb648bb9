"""Pooling, resizing and unfolding: channels are carried on, positions are new."""

from __future__ import annotations

import torch

from excise.axes import Clash, Term, cut_tail, unify
from excise.rules.table import Scope, rule
from excise.trace import Op


def _pinned_space(s: Scope, op: Op, rank: int) -> list[Term]:
    """The dimensions of the input, the last `rank` of them pinned."""
    dims = s.get(op.args[0])
    for term in dims[-rank:]:
        s.pin(term, "a window slides over it")
    return dims


def spatial(s: Scope, op: Op, rank: int) -> None:
    """Keep all but the last `rank` dimensions."""
    kept = _pinned_space(s, op, rank)[:-rank]
    space = [s.fresh(n) for n in s.shape(op.outs[0])[len(kept) :]]
    for out in op.outs:  # indices of a maximum have the shape of the maxima
        s.put(out, [*kept, *space])


_STEMS = (
    "avg_pool", "max_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool", "upsample_nearest",
    "upsample_linear", "upsample_bilinear", "upsample_bicubic", "upsample_trilinear",
    "reflection_pad", "replication_pad", "fractional_max_pool", "max_unpool",
)  # fmt: skip


def _names(suffix: str) -> list[str]:
    """Every aten spelling of pooling, resizing and padding over that many dimensions."""
    found = ["mkldnn_max_pool2d", "mkldnn_adaptive_avg_pool2d"] if suffix == "2d" else []
    for stem in _STEMS:
        exact = stem.replace("nearest", "nearest_exact")
        name = f"{stem}{suffix}"
        found += [name, f"_{name}", f"{name}_with_indices", f"_{name}_aa", f"_{exact}{suffix}"]
    return [name for name in dict.fromkeys(found) if hasattr(torch.ops.aten, name)]


@rule(*_names("1d"))
def spatial1d(s: Scope, op: Op) -> None:
    """All but the last dimension are carried on."""
    spatial(s, op, 1)


@rule(*_names("2d"))
def spatial2d(s: Scope, op: Op) -> None:
    """All but the last two dimensions are carried on."""
    spatial(s, op, 2)


@rule(*_names("3d"))
def spatial3d(s: Scope, op: Op) -> None:
    """All but the last three dimensions are carried on."""
    spatial(s, op, 3)


@rule("grid_sampler_2d", "grid_sampler_3d", "grid_sampler", "_grid_sampler_2d_cpu_fallback")
def grid_sampler(s: Scope, op: Op) -> None:
    """Sampling at given positions: channels are carried on."""
    batch, channels, *space = s.get(op.args[0])
    rows, *positions, coordinates = s.get(op.args[1])
    unify(batch, rows)
    for term in (*space, *positions, coordinates):
        s.pin(term, "sampling positions")
    s.put(op.outs[0], [batch, channels, *positions])


@rule("pixel_shuffle")
def pixel_shuffle(s: Scope, op: Op) -> None:
    """`(c r r) h w -> c (h r) (w r)`."""
    *front, channels, _, _ = _pinned_space(s, op, 2)
    outer, inner = cut_tail(channels, int(op.args[1]) ** 2)
    s.pin(inner, "pixels of a shuffled block")
    s.put(op.outs[0], [*front, outer, *(s.fresh(n) for n in s.shape(op.outs[0])[-2:])])


@rule("pixel_unshuffle")
def pixel_unshuffle(s: Scope, op: Op) -> None:
    """`c (h r) (w r) -> (c r r) h w`."""
    *front, channels, _, _ = _pinned_space(s, op, 2)
    block = s.fresh(int(op.args[1]) ** 2, "pixels of a shuffled block")
    space = [s.fresh(n) for n in s.shape(op.outs[0])[-2:]]
    s.put(op.outs[0], [*front, [*channels, *block], *space])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(s: Scope, op: Op) -> None:
    """`(g c) -> (c g)`."""
    dims = s.get(op.args[0])
    groups = int(op.args[1])
    outer, inner = cut_tail(dims[1], s.shape(op.args[0])[1] // groups)
    dims[1] = [*inner, *outer]
    s.put(op.outs[0], dims)


@rule("im2col")
def im2col(s: Scope, op: Op) -> None:
    """`n c h w -> n (c kh kw) positions`."""
    dims = _pinned_space(s, op, 2)
    taps = s.fresh(int(op.args[1][0]) * int(op.args[1][1]), "kernel")
    positions = s.fresh(s.shape(op.outs[0])[-1])
    s.put(op.outs[0], [*dims[:-3], [*dims[-3], *taps], positions])


@rule("col2im")
def col2im(s: Scope, op: Op) -> None:
    """`n (c kh kw) positions -> n c h w`."""
    dims = _pinned_space(s, op, 1)
    kernel = op.args[2]
    outer, inner = cut_tail(dims[-2], int(kernel[0]) * int(kernel[1]))
    s.pin(inner, "kernel")
    s.put(op.outs[0], [*dims[:-2], outer, *(s.fresh(n) for n in s.shape(op.outs[0])[-2:])])


@rule("unfold")
def unfold(s: Scope, op: Op) -> None:
    """`Tensor.unfold`: windows along one dimension."""
    dims = s.get(op.args[0])
    dim = op.args[1] % len(dims)
    shape = s.shape(op.outs[0])
    if shape[dim] * shape[-1] == s.shape(op.args[0])[dim] and op.args[2] == op.args[3]:
        try:
            outer, inner = cut_tail(dims[dim], shape[-1])
        except Clash:
            pass
        else:
            dims[dim] = outer
            s.put(op.outs[0], [*dims, inner])
            return
    s.pin(dims[dim], "windows slide over it")
    dims[dim] = s.fresh(shape[dim])
    s.put(op.outs[0], [*dims, s.fresh(shape[-1])])
