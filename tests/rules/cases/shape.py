"""Cases: the same numbers under another shape."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.rules.oracle import Case, real

aten = torch.ops.aten


def _windows(x: Tensor) -> Tensor:
    """Windows of four, two apart."""
    n, s, d = x.stride()
    return x.as_strided((x.shape[0], 3, 4, x.shape[2]), (n, 2 * s, s, d))


def _every_other(x: Tensor) -> Tensor:
    return x.as_strided((4, x.shape[1]), (2 * x.stride(0), 1))


CASES = (
    Case(
        "view merge",
        "n c h w -> n (c h w)",
        lambda x, to: x.view(to[0]),
        (real(2, 3, 4, 5),),
        ((2, 60),),
    ),
    Case(
        "view split", "n (g c) -> n g c", lambda x, to: x.view(to[0]), (real(2, 12),), ((2, 3, 4),)
    ),
    Case(
        "view split and merge",
        "(a b) c -> a (b c)",
        lambda x, to: x.view(to[0]),
        (real(12, 5),),
        ((3, 20),),
    ),
    Case("view ones", "1 c 1 -> c", lambda x: x.view(-1), (real(1, 3, 1),)),
    Case("view makes ones", "c -> 1 c 1", lambda x: x.view(1, -1, 1), (real(3),)),
    Case("view across", "A B -> C D", lambda x: x.view(6, 10), (real(4, 15),)),
    Case(
        "view across, rest carried",
        "n A B -> n C D",
        lambda x: x.view(-1, 6, 10),
        (real(3, 4, 15),),
    ),
    Case(
        "view twice",
        "(a b c) -> (a b) c, a (b c)",
        lambda x, to: (x.view(to[0]), x.view(to[1])),
        (real(60),),
        ((12, 5), (3, 20)),
    ),
    Case("view of none", "0 c h -> 0 (c h)", lambda x: x.flatten(1), (real(0, 3, 4),)),
    Case(
        "view behind none",
        "a b 0 (c d) -> (a b) 0 c d",
        lambda x, to: x.view(to[0]),
        (real(2, 3, 0, 20),),
        ((6, 0, 4, 5),),
    ),
    Case("view past none", "A 0 B -> 0 C", lambda x: x.view(0, 12), (real(3, 0, 4),)),
    Case("as_strided over windows", "n S d -> n T U d", _windows, (real(2, 8, 3),)),
    Case("as_strided within a dimension", "A b -> B b", _every_other, (real(8, 3),)),
    Case("as_strided across", "A B -> C D", lambda x: x.as_strided((3, 4), (6, 1)), (real(4, 5),)),
    Case("view to a scalar", "1 1 -> ()", lambda x: x.view(()), (real(1, 1),)),
    Case(
        "view merge, then split",
        "a b -> a b",
        lambda x, to: x.view(-1).view(to[0]),
        (real(3, 4),),
        ((3, 4),),
    ),
    Case(
        "view of permuted heads",
        "n (h d) -> h n d",
        lambda x, to: x.view(x.shape[0], to[0][0], to[0][2]).transpose(0, 1),
        (real(5, 12),),
        ((3, 5, 4),),
    ),
    Case(
        "reshape of a transposed tensor", "a b -> (b a)", lambda x: x.T.reshape(-1), (real(3, 4),)
    ),
    Case("_unsafe_view", "a b -> (a b)", lambda x: aten._unsafe_view(x, [-1]), (real(3, 4),)),
    Case(
        "_reshape_alias",
        "a b -> (a b)",
        lambda x: aten._reshape_alias(x, [x.numel()], [1]),
        (real(3, 4),),
    ),
    Case("view_copy", "a b -> (a b)", lambda x: aten.view_copy(x, [-1]), (real(3, 4),)),
    Case("flatten", "a b c d -> a (b c) d", lambda x: x.flatten(1, 2), (real(2, 3, 4, 5),)),
    Case(
        "unflatten",
        "a (b c) -> a b c",
        lambda x, to: x.unflatten(1, to[0][1:]),
        (real(2, 12),),
        ((2, 3, 4),),
    ),
    Case("permute", "a b c d -> c a d b", lambda x: x.permute(2, 0, 3, 1), (real(2, 3, 4, 5),)),
    Case("permute negative", "a b c -> c a b", lambda x: x.permute(-1, 0, -2), (real(2, 3, 4),)),
    Case(
        "permute_copy",
        "a b c -> c a b",
        lambda x: torch.permute_copy(x, (2, 0, 1)),
        (real(2, 3, 4),),
    ),
    Case("movedim", "a b c -> b c a", lambda x: x.movedim(0, 2), (real(2, 3, 4),)),
    Case("t", "a b -> b a", lambda x: x.t(), (real(3, 4),)),
    Case("t of a vector", "a -> a", lambda x: x.t(), (real(3),)),
    Case("mT", "n a b -> n b a", lambda x: x.mT, (real(2, 3, 4),)),
    Case("T", "a b -> b a", lambda x: x.T, (real(3, 4),)),
    Case("transpose", "a b c -> c b a", lambda x: x.transpose(0, -1), (real(2, 3, 4),)),
    Case("swapaxes", "a b c -> b a c", lambda x: x.swapaxes(0, 1), (real(2, 3, 4),)),
    Case(
        "transpose_copy",
        "a b c -> a c b",
        lambda x: torch.transpose_copy(x, 1, 2),
        (real(2, 3, 4),),
    ),
    Case("expand", "a 1 -> a b", lambda x, to: x.expand(to[0]), (real(3, 1),), ((3, 4),)),
    Case(
        "expand in front",
        "a b -> c a b",
        lambda x, to: x.expand(to[0]),
        (real(3, 4),),
        ((5, 3, 4),),
    ),
    Case(
        "expand minus one",
        "1 a b -> c a b",
        lambda x, to: x.expand(to[0][0], -1, -1),
        (real(1, 3, 4),),
        ((5, 3, 4),),
    ),
    Case(
        "expand_copy",
        "a 1 -> a b",
        lambda x, to: torch.expand_copy(x, to[0]),
        (real(3, 1),),
        ((3, 4),),
    ),
    Case(
        "broadcast_to",
        "a 1 -> a b",
        lambda x, to: torch.broadcast_to(x, to[0]),
        (real(3, 1),),
        ((3, 4),),
    ),
    Case("unsqueeze", "a b -> a 1 b", lambda x: x.unsqueeze(1), (real(3, 4),)),
    Case("unsqueeze last", "a b -> a b 1", lambda x: x.unsqueeze(-1), (real(3, 4),)),
    Case("unsqueeze_copy", "a b -> 1 a b", lambda x: torch.unsqueeze_copy(x, 0), (real(3, 4),)),
    Case(
        "squeeze",
        "1 a 1 b -> a b",
        torch.squeeze,
        (real(1, 3, 1, 4),),
        smaller=lambda x: x.squeeze((0, 2)),
    ),
    Case("squeeze one", "1 a 1 b -> 1 a b", lambda x: x.squeeze(2), (real(1, 3, 1, 4),)),
    Case("squeeze nothing", "1 a b -> 1 a b", lambda x: x.squeeze(1), (real(1, 3, 4),)),
    Case("squeeze several", "1 a 1 b -> a b", lambda x: x.squeeze((0, 2)), (real(1, 3, 1, 4),)),
    Case("squeeze_copy", "1 a -> a", torch.squeeze_copy, (real(1, 3),)),
    Case(
        "repeat",
        "a b -> (t a) b",
        lambda x, to: x.repeat(to[0][0] // max(x.shape[0], 1), 1),
        (real(4, 5),),
        ((12, 5),),
    ),
    Case(
        "repeat in front",
        "a b -> t a b",
        lambda x, to: x.repeat(to[0][0], 1, 1),
        (real(4, 5),),
        ((3, 4, 5),),
    ),
    Case(
        "tile",
        "a b -> a (t b)",
        lambda x, to: x.tile((1, to[0][1] // x.shape[1])),
        (real(4, 5),),
        ((4, 15),),
    ),
    Case(
        "repeat_interleave",
        "a b -> a (b t)",
        lambda x, to: x.repeat_interleave(to[0][1] // x.shape[1], 1),
        (real(4, 5),),
        ((4, 15),),
    ),
    Case(
        "repeat_interleave of heads",
        "n h t d -> n (h g) t d",
        lambda x, to: x[:, :, None].expand(-1, -1, to[0][1] // x.shape[1], -1, -1).flatten(1, 2),
        (real(2, 3, 4, 5),),
        ((2, 6, 4, 5),),
    ),
    Case(
        "repeat_interleave as written",
        "a b -> a (b t)",
        lambda x, to: x.repeat_interleave(to[0][1] // x.shape[1], 1),
        (real(4, 5),),
        ((4, 15),),
        written=lambda x: ("repeat_interleave", (x, 3, 1), {}),
    ),
    Case(
        "as_strided, the same",
        "a b -> a b",
        lambda x: torch.as_strided(x, x.shape, x.stride()),
        (real(3, 4),),
    ),
    Case(
        "as_strided, transposed",
        "A B -> C D",
        lambda x: x.as_strided((4, 3), (1, 4)),
        (real(3, 4),),
    ),
    Case(
        "as_strided, transposed square",
        "A B -> C D",
        lambda x: x.as_strided((4, 4), (1, 4)),
        (real(4, 4),),
    ),
    Case(
        "as_strided, later rows",
        "(1 + A) B -> C D",
        lambda x: x[1:].as_strided((3, 4), (4, 1), 0),
        (real(4, 4),),
    ),
    Case("diagonal", "N A B -> M C", lambda x: x.diagonal(dim1=1, dim2=2), (real(2, 4, 4),)),
    Case("diag_embed", "N A -> N2 B C", torch.diag_embed, (real(2, 3),)),
)
