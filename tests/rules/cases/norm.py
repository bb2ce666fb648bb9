"""Cases: normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from tests.rules.oracle import Case, active, buffer, positive, real

aten = torch.ops.aten


def _trained(x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor) -> Any:
    return F.batch_norm(x, mean, var, w, b, training=True), mean, var


def _group_norm(x: Tensor, w: Tensor, b: Tensor, s: Tensor) -> Tensor:
    """As many groups as the fourth input has units."""
    scaled = x.unflatten(1, (s.shape[0], -1)) * s[:, None, None]
    return F.group_norm(scaled.flatten(1, 2), s.shape[0], w, b)


def _functional(x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor) -> Any:
    return aten._native_batch_norm_legit_functional(x, w, b, mean, var, True, 0.1, 1e-5)  # noqa: FBT003


CASES = (
    Case(
        "batch_norm",
        "n c h w, c, c, c, c -> n c h w",
        lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b),
        (active(2, 3, 4, 5), real(3), real(3), buffer(3), positive(3)),
    ),
    Case(
        "batch_norm without weight",
        "n c, c, c -> n c",
        F.batch_norm,
        (active(4, 3), buffer(3), positive(3)),
    ),
    Case(
        "batch_norm in train mode",
        "n* c h* w*, c, c, c, c -> n* c h* w*, c, c",
        _trained,
        (active(2, 3, 4, 5), real(3), real(3), buffer(3), positive(3)),
    ),
    Case(
        "batch_norm without statistics",
        "n* c h*, c -> n* c h*",
        lambda x, w: F.batch_norm(x, None, None, w, training=True),
        (active(2, 3, 4), real(3)),
    ),
    Case(
        "native_batch_norm",
        "n* c h*, c, c, c, c -> n* c h*, c, c",
        lambda x, w, b, m, v: torch.native_batch_norm(x, w, b, m, v, True, 0.1, 1e-5),  # noqa: FBT003
        (active(2, 3, 4), real(3), real(3), buffer(3), positive(3)),
    ),
    Case(
        "native_batch_norm functional",
        "n* c h*, c, c, c, c -> n* c h*, c, c, c, c",
        _functional,
        (active(2, 3, 4), real(3), real(3), buffer(3), positive(3)),
    ),
    Case(
        "_batch_norm_with_update",
        "n* c h*, c, c, c, c -> n* c h*, c, c, 0",
        lambda x, w, b, m, v: aten._batch_norm_with_update(x, w, b, m, v, 0.1, 1e-5),
        (active(2, 3, 4), real(3), real(3), buffer(3), positive(3)),
    ),
    Case(
        "_batch_norm_no_update",
        "n c h, c, c, c, c -> n c h, 0, 0, 0",
        lambda x, w, b, m, v: aten._batch_norm_no_update(x, w, b, m, v, 0.1, 1e-5),
        (active(2, 3, 4), real(3), real(3), buffer(3), positive(3)),
    ),
    Case(
        "instance_norm",
        "n c h* w*, c, c -> n c h* w*",
        lambda x, w, b: F.instance_norm(x, None, None, w, b),
        (active(2, 3, 4, 5), real(3), real(3)),
    ),
    Case(
        "instance_norm without weight",
        "n c h* w* -> n c h* w*",
        F.instance_norm,
        (active(2, 3, 4, 2),),
    ),
    Case(
        "layer_norm",
        "n t c*, c*, c* -> n t c*",
        lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b),
        (active(2, 3, 4), real(4), real(4)),
    ),
    Case(
        "layer_norm without weight",
        "n c* -> n c*",
        lambda x: F.layer_norm(x, x.shape[-1:]),
        (active(2, 4),),
    ),
    Case(
        "layer_norm over two dimensions",
        "n t* c*, t* c* -> n t* c*",
        lambda x, w: F.layer_norm(x, x.shape[-2:], w),
        (active(2, 3, 4), real(3, 4)),
    ),
    Case(
        "rms_norm",
        "n t c*, c* -> n t c*",
        lambda x, w: F.rms_norm(x, x.shape[-1:], w),
        (active(2, 3, 4), real(4)),
    ),
    Case(
        "rms_norm by hand",
        "n t c*, c* -> n t c*",
        lambda x, w: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w,
        (active(2, 3, 4), real(4)),
    ),
    Case(
        "group_norm",
        "n (g c*) h*, (g c*), (g c*), g -> n (g c*) h*",
        _group_norm,
        (active(2, 12, 5), real(12), real(12), active(3)),
    ),
    Case(
        "group_norm of one group",
        "n c* h*, c*, c* -> n c* h*",
        lambda x, w, b: F.group_norm(x, 1, w, b),
        (active(2, 4, 5), real(4), real(4)),
    ),
    Case(
        "group_norm of a group per channel",
        "n c h* -> n c h*",
        lambda x: F.group_norm(x, x.shape[1]),
        (active(2, 4, 5),),
    ),
    Case(
        "batch_norm in eval mode, as written",
        "n c h, c, c, c, c -> n c h",
        lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b),
        (active(2, 3, 4), real(3), real(3), buffer(3), positive(3)),
        written=lambda *t: ("_native_batch_norm_legit_no_training", (*t, 0.1, 1e-5), {}),
    ),
    Case(
        "group_norm as written",
        "n (g c*) h*, (g c*) -> n (g c*) h*",
        lambda x, w: F.group_norm(x, 3, w),
        (active(2, 12, 5), real(12)),
        noisy=True,
        smaller=lambda x, w: x * w[:, None],
        written=lambda x, w: ("group_norm", (x, 3, w, None, 1e-5), {}),
    ),
    Case(
        "rms_norm fused",
        "n t c*, c* -> n t c*",
        lambda x, w: F.rms_norm(x, x.shape[-1:], w),
        (active(2, 3, 4), real(4)),
        written=lambda x, w: ("_fused_rms_norm", (x, (4,), w, 1e-5), {}),
    ),
    Case(
        "weight_norm",
        "a b*, a 1 -> a b*",
        lambda v, g: torch._weight_norm(v, g, 0),
        (real(3, 4), real(3, 1)),
    ),
    Case(
        "weight_norm of a kernel",
        "a* b c*, 1 b 1 -> a* b c*",
        lambda v, g: torch._weight_norm(v, g, 1),
        (real(3, 4, 5), real(1, 4, 1)),
    ),
    Case(
        "weight_norm interface",
        "a b*, a 1 -> a b*, a 1",
        lambda v, g: torch._weight_norm_interface(v, g, 0),
        (real(3, 4), real(3, 1)),
    ),
    Case("normalize", "n c* -> n c*", lambda x: F.normalize(x, dim=1), (real(3, 4),)),
    Case(
        "local_response_norm",
        "n C H -> n C H",
        lambda x: F.local_response_norm(x, 3),
        (real(2, 5, 4),),
    ),
    Case("softmax", "n c* -> n c*", lambda x: x.softmax(1), (real(3, 4),)),
    Case("softmax in front", "n* c -> n* c", lambda x: x.softmax(0), (real(3, 4),)),
    Case("log_softmax", "n c* -> n c*", lambda x: x.log_softmax(-1), (real(3, 4),)),
    Case("_safe_softmax", "n c* -> n c*", lambda x: torch._safe_softmax(x, 1), (real(3, 4),)),
)
