"""The same numbers under another shape: dimensions are split, merged, moved or repeated."""

from __future__ import annotations

import itertools
import math

from excise.axes import Clash, Term, cut_head, flat, pin, size
from excise.rules.table import Scope, places, rule
from excise.rules.told import windows
from excise.trace import Op


def reshaped(s: Scope, term: Term, shape: tuple[int, ...]) -> list[Term]:
    """Read a flat term as dimensions of the given lengths, outermost first."""
    rest, dims = flat(term), list[Term]()
    for length in shape:
        if length == 1:
            dims.append([])
        elif size(rest) == length:
            dims.append(rest)
            rest = []
        else:
            head, rest = cut_head(rest, length)
            dims.append(head)
    return dims


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy", "flatten", "unflatten")
def view(s: Scope, op: Op) -> None:
    """`view`, `reshape`, `flatten`, `unflatten`; unmatched stretches alone are pinned.

    A dimension of length 0 (a batch of no boxes) hides which of its neighbours go together, so it
    is a border: it stays, and what lies on each side of it is read by itself.
    """
    source, target = s.shape(op.args[0]), s.shape(op.outs[0])
    dims = s.get(op.args[0])
    if 0 not in source:
        s.put(op.outs[0], _matched(s, dims, source, target))
        return
    ours, theirs = _between(source), _between(target)
    if [math.prod(source[a:b]) for a, b in ours] != [math.prod(target[a:b]) for a, b in theirs]:
        for term in dims:
            s.pin(term, "a reshape of nothing")
        s.put(op.outs[0], [s.fresh(n, "a reshape of nothing") for n in target])
        return
    out: list[Term] = []
    for (a, b), (c, d) in zip(ours, theirs, strict=True):
        out += _matched(s, dims[a:b], source[a:b], target[c:d])
        out += dims[b : b + 1]  # the border
    s.put(op.outs[0], out)


def _between(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The stretches between dimensions of length 0, each as its first place and its end."""
    borders = [-1, *(i for i, n in enumerate(shape) if n == 0), len(shape)]
    return [(a + 1, b) for a, b in itertools.pairwise(borders)]


def _matched(
    s: Scope, dims: list[Term], source: tuple[int, ...], target: tuple[int, ...]
) -> list[Term]:
    """The same numbers in other dimensions: the shortest stretches with equal products."""
    out: list[Term] = []
    i = j = 0
    while i < len(source) or j < len(target):
        i0, j0 = i, j
        left = source[i] if i < len(source) else 1
        right = target[j] if j < len(target) else 1
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left *= source[i]
                i += 1
            else:
                right *= target[j]
                j += 1
        out += _stretch(s, [a for d in dims[i0:i] for a in d], target[j0:j])
    return out


def _stretch(s: Scope, term: Term, shape: tuple[int, ...]) -> list[Term]:
    try:
        return reshaped(s, term, shape)
    except Clash as clash:
        pin(term, s.why(f"a reshape crosses it: {clash}"))
        return [s.fresh(n, "a reshape that crosses axes") for n in shape]


@rule("permute", "permute_copy")
def permute(s: Scope, op: Op) -> None:
    """Dimensions in another order."""
    dims = s.get(op.args[0])
    s.put(op.outs[0], [dims[i] for i in op.args[1]])


@rule("t", "adjoint", "mT")
def t(s: Scope, op: Op) -> None:
    """Matrix transpose."""
    dims = s.get(op.args[0])
    s.put(op.outs[0], [*dims[:-2], *dims[-2:][::-1]])


@rule("transpose", "swapaxes", "transpose_copy")
def transpose(s: Scope, op: Op) -> None:
    """Two dimensions exchanged."""
    dims = s.get(op.args[0])
    i, j = op.args[1], op.args[2]
    if dims:
        dims[i], dims[j] = dims[j], dims[i]
    s.put(op.outs[0], dims)


@rule("expand", "expand_copy", "broadcast_to")
def expand(s: Scope, op: Op) -> None:
    """Dimensions of length 1 repeated: the new axis is the same unit many times."""
    dims, shape, target = s.get(op.args[0]), s.shape(op.args[0]), s.shape(op.outs[0])
    extra = len(target) - len(shape)
    out = [
        dims[i - extra] if i >= extra and shape[i - extra] == n else s.free(n)
        for i, n in enumerate(target)
    ]
    for i, n in enumerate(target):
        if n != 1 and (i < extra or shape[i - extra] == 1):
            s.spread.add((op.outs[0].number, i))
    s.put(op.outs[0], out)


@rule("unsqueeze", "unsqueeze_copy")
def unsqueeze(s: Scope, op: Op) -> None:
    """A new dimension of length 1."""
    dims = s.get(op.args[0])
    dims.insert(op.args[1] % (len(dims) + 1), [])
    s.put(op.outs[0], dims)


@rule("squeeze", "squeeze_copy")
def squeeze(s: Scope, op: Op) -> None:
    """Dimensions of length 1 dropped."""
    dims, shape = s.get(op.args[0]), s.shape(op.args[0])
    gone = [i for i in places(op, 1, "dim", len(dims)) if shape[i] == 1] if dims else []
    s.put(op.outs[0], [d for i, d in enumerate(dims) if i not in gone])


@rule("repeat", "tile")
def repeat(s: Scope, op: Op) -> None:
    """Whole dimensions repeated: `(times axis)`."""
    dims, reps = s.get(op.args[0]), op.args[1]
    extra = len(reps) - len(dims)
    out = [
        [*s.free(int(times)), *(dims[i - extra] if i >= extra else [])]
        for i, times in enumerate(reps)
    ]
    s.put(op.outs[0], out)


@rule("repeat_interleave")
def repeat_interleave(s: Scope, op: Op) -> None:
    """Every index repeated in place: `(axis times)`; only for an equal number of times."""
    times = op.args[1] if len(op.args) > 1 else op.kwargs.get("repeats")
    dim = op.args[2] if len(op.args) > 2 else op.kwargs.get("dim")  # noqa: PLR2004
    if not isinstance(times, int) or dim is None:
        raise Clash("repeats that differ from index to index")
    dims = s.get(op.args[0])
    dims[dim] = [*dims[dim], *s.free(times)]
    s.put(op.outs[0], dims)


@rule("as_strided")
def as_strided(s: Scope, op: Op) -> None:
    """Windows that overlap, between dimensions that are carried on; nothing else is understood."""
    found = windows(op, s.shape(op.args[0]))
    if found is None:
        raise Clash("as_strided reads memory directly")
    dims, front, back, _ = s.get(op.args[0]), *found
    inner = len(dims) - back
    for term in dims[front:inner]:
        s.pin(term, "a window slides over it")
    made = s.shape(op.outs[0])[front : len(s.shape(op.outs[0])) - back]
    s.put(op.outs[0], [*dims[:front], *(s.fresh(n) for n in made), *dims[inner:]])


@rule("diagonal", "diag_embed", "movedim")
def unclear(s: Scope, op: Op) -> None:
    """Kept as it is."""
    raise Clash(f"{op.name} ties two dimensions together")
