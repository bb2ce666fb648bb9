"""Cases: pooling, resizing, shuffling and unfolding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from tests.rules.oracle import Case, Given, Shapes, real

LINE, PLANE, VOLUME = real(2, 3, 8), real(2, 3, 6, 8), real(2, 3, 4, 6, 8)
SPACE = {1: ("W", "V", LINE), 2: ("H W", "U V", PLANE), 3: ("D H W", "T U V", VOLUME)}


def _case(name: str, rank: int, function: Any, outs: int = 1) -> Case:
    before, after, given = SPACE[rank]
    return Case(name, f"n c {before} -> {', '.join([f'n c {after}'] * outs)}", function, (given,))


def _pools() -> tuple[Case, ...]:
    every = []
    for rank in SPACE:
        for kind, argument in (
            ("avg_pool", 2),
            ("max_pool", 2),
            ("adaptive_avg_pool", 2),
            ("adaptive_max_pool", 2),
        ):
            name = f"{kind}{rank}d"
            call = getattr(F, name)
            every.append(_case(name, rank, lambda x, call=call, n=argument: call(x, n)))
        for kind in ("max_pool", "adaptive_max_pool"):
            name = f"{kind}{rank}d"
            call = getattr(F, name)
            every.append(
                _case(
                    f"{name} with indices",
                    rank,
                    lambda x, call=call: call(x, 2, return_indices=True),
                    2,
                )
            )
    return tuple(every)


def _resizes() -> tuple[Case, ...]:
    modes = {
        1: ("nearest", "nearest-exact", "linear", "area"),
        2: ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
        3: ("nearest", "nearest-exact", "trilinear", "area"),
    }
    return tuple(
        _case(
            f"interpolate {mode} in {rank}d",
            rank,
            lambda x, mode=mode: F.interpolate(x, scale_factor=2, mode=mode),
        )
        for rank, known in modes.items()
        for mode in known
    )


def _unpool(x: Tensor) -> Any:
    return F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), (2, 2))


def _shuffle(x: Tensor, to: Shapes) -> Any:
    n, c, h = x.shape
    groups = to[1][1]
    y = x.view(n, groups, c // groups, h).transpose(1, 2).reshape(n, c, h)
    return y, x.view(n, groups, c // groups, h)


def _split_shuffle(x: Tensor, groups: Tensor) -> Tensor:
    """As many groups as the second input has units."""
    scaled = x.unflatten(1, (groups.shape[0], -1)) * groups[:, None, None]
    out: Tensor = scaled.transpose(1, 2).flatten(1, 2)
    return out


def _sample(x: Tensor, y: Tensor) -> Tensor:
    out: Tensor = F.grid_sample(x, y, align_corners=False)
    return out


POOLED = Given(lambda: torch.randn(2, 3, 6, 8, dtype=torch.float64))
CASES = (
    *_pools(),
    *_resizes(),
    Case("max_pool2d unbatched", "c H W -> c U V", lambda x: F.max_pool2d(x, 2), (real(3, 6, 8),)),
    _case("avg_pool2d overlapping", 2, lambda x: F.avg_pool2d(x, 3, 1, 1)),
    Case("global average", "n c h* w* -> n c 1 1", lambda x: F.adaptive_avg_pool2d(x, 1), (PLANE,)),
    _case("lp_pool2d", 2, lambda x: F.lp_pool2d(x, 2, 2)),
    _case(
        "fractional_max_pool2d",
        2,
        lambda x: F.fractional_max_pool2d(
            x,
            2,
            output_size=3,
            _random_samples=torch.full((2, 3, 2), 0.3, dtype=torch.float64)[
                : x.shape[0], : x.shape[1]
            ],
        ),
    ),
    _case(
        "fractional_max_pool3d",
        3,
        lambda x: F.fractional_max_pool3d(
            x,
            2,
            output_size=2,
            _random_samples=torch.full((2, 3, 3), 0.3, dtype=torch.float64)[
                : x.shape[0], : x.shape[1]
            ],
        ),
    ),
    _case("max_unpool2d", 2, _unpool),
    _case(
        "interpolate bilinear, antialiased",
        2,
        lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True),
    ),
    _case(
        "interpolate bicubic, antialiased",
        2,
        lambda x: F.interpolate(x, size=(3, 4), mode="bicubic", antialias=True),
    ),
    Case(
        "interpolate to the same size",
        "n c H W -> n c U V",
        lambda x: F.interpolate(x, size=(6, 8), mode="bilinear"),
        (PLANE,),
    ),
    Case(
        "pixel_shuffle",
        "n (c R) H W -> n c U V",
        lambda x: F.pixel_shuffle(x, 2),
        (real(2, 12, 3, 4),),
    ),
    Case(
        "pixel_unshuffle",
        "n c H W -> n (c R) U V",
        lambda x: F.pixel_unshuffle(x, 2),
        (real(2, 3, 4, 6),),
    ),
    Case(
        "channel_shuffle by hand",
        "n (g c) h -> n (c g) h, n g c h",
        _shuffle,
        (real(2, 12, 5),),
        ((2, 12, 5), (2, 3, 4, 5)),
    ),
    Case("channel_shuffle", "n (g c) h, g -> n (c g) h", _split_shuffle, (real(2, 12, 5), real(3))),
    *(
        Case(
            f"{name} as written",
            "n (g c) h -> n (c g) h",
            lambda x: F.channel_shuffle(x, 3),
            (real(2, 12, 5),),
            noisy=True,
            smaller=lambda x, to: x[:, : to[0][1]],
            written=lambda x, name=name: (name, (x, 3), {}),
        )
        for name in ("channel_shuffle", "native_channel_shuffle")
    ),
    Case("unfold", "n c H W -> n (c K) L", lambda x: F.unfold(x, (2, 3)), (real(2, 3, 4, 5),)),
    Case("unfold unbatched", "c H W -> (c K) L", lambda x: F.unfold(x, 2), (real(3, 4, 5),)),
    Case("fold", "n (c K) L -> n c H W", lambda x: F.fold(x, (4, 5), (2, 2)), (real(2, 12, 12),)),
    Case(
        "windows",
        "n (w i) -> n w i",
        lambda x, to: x.unfold(1, to[0][2], to[0][2]),
        (real(2, 12),),
        ((2, 3, 4),),
    ),
    Case(
        "windows that overlap", "n C h -> n W h I", lambda x: x.unfold(1, 4, 2), (real(2, 12, 3),)
    ),
    Case("windows that leave a rest", "n C -> n W I", lambda x: x.unfold(1, 5, 5), (real(2, 12),)),
    Case(
        "grid_sample",
        "n c H W, n U V Two -> n c U V",
        _sample,
        (real(2, 3, 4, 5), real(2, 6, 7, 2)),
    ),
    Case(
        "grid_sample in 3d",
        "n c D H W, n T U V Three -> n c T U V",
        _sample,
        (real(2, 3, 4, 5, 6), real(2, 2, 3, 4, 3)),
    ),
)
