"""Cases: operations that work index by index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from tests.rules.oracle import Case, active, buffer, flags, imaginary, index, positive, real


def _in_place(x: Tensor, y: Tensor) -> Tensor:
    return x.add_(y).relu_()


def _written_part(x: Tensor, y: Tensor) -> Tensor:
    x[:, :3] = y
    return x


def _written_row(x: Tensor, y: Tensor) -> Tensor:
    x[0] = y
    return x


def _written_all(x: Tensor, y: Tensor) -> Tensor:
    return x.copy_(y)


def _checked(x: Tensor) -> Tensor:
    torch.ops.aten._assert_async(x.abs().sum() >= 0)
    return x + 1


def _across(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return torch.cat([x, y]) + z.view(8, -1)


def _read_out(x: Tensor) -> Tensor:
    return x * (2.0 if float(x.square().sum()) >= 0 else 3.0)


ONE = (
    torch.abs,
    torch.exp,
    torch.sigmoid,
    torch.tanh,
    torch.sin,
    torch.erf,
    torch.sign,
    torch.neg,
    torch.round,
    torch.square,
    torch.positive,
    torch.isfinite,
    torch.isnan,
    torch.isinf,
    torch.nan_to_num,
    torch.detach,
    torch.clone,
    torch.angle,
    torch.conj_physical,
    torch.resolve_neg,
    torch.ops.aten.alias,
    torch.zeros_like,
    torch.ones_like,
    torch.logical_not,
    F.relu,
    F.relu6,
    F.gelu,
    F.silu,
    F.mish,
    F.elu,
    F.celu,
    F.selu,
    F.softplus,
    F.softsign,
    F.hardswish,
    F.hardsigmoid,
    F.hardtanh,
    F.leaky_relu,
    F.logsigmoid,
    F.tanhshrink,
    F.hardshrink,
    F.softshrink,
    torch.rsqrt,
    torch.trunc,
    torch.relu_,
    torch.sigmoid_,
)
TWO = (
    torch.add,
    torch.sub,
    torch.mul,
    torch.div,
    torch.maximum,
    torch.minimum,
    torch.fmax,
    torch.remainder,
    torch.fmod,
    torch.atan2,
    torch.pow,
    torch.eq,
    torch.lt,
    torch.logical_and,
    torch.logical_or,
    torch.logical_xor,
    torch.rsub,
    torch.hypot,
    torch.max,
    torch.min,
    torch.copysign,
    torch.complex,
    torch.polar,
    torch.logaddexp,
    torch.xlogy,
    torch.rsub,
)
RANDOM = (
    torch.bernoulli,
    torch.rand_like,
    torch.randn_like,
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.exponential_,
    Tensor.log_normal_,
    Tensor.random_,
    Tensor.geometric_,
    Tensor.cauchy_,
    F.dropout,
    F.alpha_dropout,
    F.rrelu,
    torch.normal,
)


def _random(function: Callable[..., Tensor]) -> Case:
    special: dict[Any, Callable[..., Tensor]] = {
        Tensor.geometric_: lambda x: x.geometric_(0.5),
        F.alpha_dropout: lambda x: F.alpha_dropout(x, training=True),
        F.rrelu: lambda x: F.rrelu(x, training=True),
        torch.bernoulli: lambda x: torch.bernoulli(x.sigmoid()),
        torch.normal: lambda x: torch.normal(x, 1.0),
    }
    name = f"random {function.__name__.strip('_')}"
    called = special.get(function, function)
    return Case(name, "n* c* -> n* c*", called, (real(3, 4),), noisy=True)


CASES = (
    Case(
        "add where one dimension does not line up",
        "A d, B d, C E d -> F d",
        _across,
        (real(3, 4), real(5, 4), real(4, 2, 4)),
    ),
    *(Case(f.__name__, "n c -> n c", f, (real(3, 4),)) for f in ONE),
    *(Case(f"{f.__name__} of two", "n c, n c -> n c", f, (real(3, 4), real(3, 4))) for f in TWO),
    *(_random(f) for f in RANDOM),
    Case("empty_like", "n c -> n c", torch.empty_like, (real(3, 4),), noisy=True),
    Case("broadcast row", "n c h, c 1 -> n c h", lambda x, y: x + y, (real(2, 3, 4), real(3, 1))),
    Case("broadcast both", "n 1, 1 c -> n c", lambda x, y: x * y, (real(3, 1), real(1, 4))),
    Case("broadcast scalar", "n c, () -> n c", lambda x, y: x / y, (real(3, 4), real())),
    Case("broadcast one", "n c, 1 -> n c", lambda x, y: x - y, (real(3, 4), real(1))),
    Case("of activations", "n c, c -> n c", torch.add, (active(3, 4), active(4))),
    Case("in place", "n c, c -> n c", _in_place, (real(3, 4), real(4))),
    Case(
        "in place on part",
        "n (a + b), n a -> n (a + b)",
        _written_part,
        (real(4, 5), real(4, 3)),
        smaller=lambda x, y: torch.cat([y, x[:, y.shape[1] :]], 1),
    ),
    Case("in place on a row", "N c, c -> N c", _written_row, (real(3, 4), real(4))),
    Case("copy_", "n c, c -> n c", _written_all, (real(3, 4), real(4))),
    Case("where", "n c, n c, c -> n c", torch.where, (flags(3, 4), real(3, 4), real(4))),
    Case(
        "masked_fill", "n c, c -> n c", lambda x, m: x.masked_fill(m, 2.0), (real(3, 4), flags(4))
    ),
    Case("fill", "n c -> n c", lambda x: x.fill_(2.0), (real(3, 4),)),
    Case("fill whole", "n c -> n c", lambda x: torch.fill(x, 2.0), (real(3, 4),)),
    Case("zero", "n c -> n c", lambda x: x.zero_(), (real(3, 4),)),
    Case("full_like", "n c -> n c", lambda x: torch.full_like(x, 2.0), (real(3, 4),)),
    Case("clamp", "n c -> n c", lambda x: x.clamp(-1, 1), (real(3, 4),)),
    Case("clamp by tensors", "n c, c, c -> n c", torch.clamp, (real(3, 4), buffer(4), positive(4))),
    Case("clamp_min", "n c -> n c", lambda x: x.clamp_min(0.1), (real(3, 4),)),
    Case("clamp_max", "n c -> n c", lambda x: x.clamp_max(0.1), (real(3, 4),)),
    Case("threshold", "n c -> n c", lambda x: F.threshold(x, 0.1, 2.0), (real(3, 4),)),
    Case("glu gate", "n c, n c -> n c", lambda x, g: x * F.silu(g), (real(3, 4), real(3, 4))),
    Case("prelu", "n c h, c -> n c h", F.prelu, (real(2, 3, 4), real(3))),
    Case("prelu shared", "n c h, 1 -> n c h", F.prelu, (real(2, 3, 4), real(1))),
    Case("addcmul", "n c, c, n 1 -> n c", torch.addcmul, (real(3, 4), real(4), real(3, 1))),
    Case("addcdiv", "n c, c, c -> n c", torch.addcdiv, (real(3, 4), real(4), positive(4))),
    Case("lerp", "n c, n c, c -> n c", torch.lerp, (real(3, 4), real(3, 4), real(4))),
    Case("to float32", "n c -> n c", lambda x: x.float().double(), (buffer(3, 4),)),
    Case("contiguous", "n c -> c n", lambda x: x.T.contiguous(), (real(3, 4),)),
    Case("lift", "n c -> n c", torch.ops.aten.lift, (real(3, 4),)),
    Case("lift_fresh", "n c -> n c", torch.ops.aten.lift_fresh, (real(3, 4),)),
    Case("lift_fresh_copy", "n c -> n c", torch.ops.aten.lift_fresh_copy, (real(3, 4),)),
    Case("aten copy", "n c, c -> n c", torch.ops.aten.copy, (real(3, 4), real(4))),
    Case(
        "bitwise", "n c, c -> n c, n c", lambda x, y: (x & y, x | y), (index(9, 3, 4), index(9, 4))
    ),
    Case(
        "native_dropout",
        "n* c* -> n* c*, n* c*",
        lambda x: torch.native_dropout(x, 0.5, True),  # noqa: FBT003
        (real(3, 4),),
        noisy=True,
    ),
    Case("feature_dropout", "n* c* h -> n* c* h", F.dropout1d, (real(2, 3, 4),), noisy=True),
    Case(
        "dropout in eval mode",
        "n c -> n c",
        lambda x: F.dropout(x, 0.5, training=False),
        (real(3, 4),),
    ),
    Case("real and imag", "n c -> n c, n c", lambda x: (x.real, x.imag), (imaginary(3, 4),)),
    Case("conj", "n c -> n c", lambda x: x.conj().resolve_conj() * 2, (imaginary(3, 4),)),
    Case("view_as_real", "n c -> n c Pair", torch.view_as_real, (imaginary(3, 4),)),
    Case("view_as_real_copy", "n c -> n c Pair", torch.view_as_real_copy, (imaginary(3, 4),)),
    Case("view_as_complex", "n c Pair -> n c", torch.view_as_complex, (real(3, 4, 2),)),
    Case("assert", "n* c* -> n* c*", _checked, (real(3, 4),)),
    Case("item", "n* c* -> n* c*", _read_out, (real(3, 4),)),
    Case(
        "fake quantize",
        "n c -> n c",
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
        (buffer(3, 4),),
    ),
    Case("cumsum", "n c* -> n c*", lambda x: x.cumsum(1), (real(3, 4),)),
    Case("cumprod", "N c -> N c", lambda x: x.cumprod(0), (real(3, 4),)),
    Case("cummax", "n C -> n C, n C", lambda x: x.cummax(-1), (real(3, 4),)),
    Case("cummin", "n C -> n C, n C", lambda x: x.cummin(dim=1), (real(3, 4),)),
    Case("logcumsumexp", "n C -> n C", lambda x: x.logcumsumexp(1), (real(3, 4),)),
    Case("flip", "n C -> n C", lambda x: x.flip(1), (real(3, 4),)),
    Case("flip two", "N c H -> N c H", lambda x: x.flip(0, 2), (real(2, 3, 4),)),
    Case("roll", "n C h -> n C h", lambda x: x.roll(1, 1), (real(2, 3, 4),)),
    Case("roll two", "n C H -> n C H", lambda x: torch.roll(x, (1, 2), (1, 2)), (real(2, 3, 4),)),
    Case("roll flat", "N C -> N C", lambda x: x.roll(2), (real(3, 4),)),
    Case("tril", "n R C -> n R C", torch.tril, (real(2, 3, 4),)),
    Case("triu", "R C -> R C", lambda x: x.triu(1), (real(3, 4),)),
)
