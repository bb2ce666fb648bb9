"""Numbers of a configuration that a cut leaves one value for, and those with one for each layer."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import nn

from excise.axes import Axis
from excise.configuration.constructor import accepts, built, faithful, matches, takes
from excise.configuration.origin import Origin, origins
from excise.graph import AxisGraph
from excise.trace.provenance import Attribute, Expr, atoms, evaluate
from excise.trace.skeleton import layer_count, of_layer, read

_LAYER = re.compile(r"(?:^|\.)(\d+)(?=\.)")
_DEEPEST = 4  # how many numbers may follow from one another

Values = dict[str, int]


class Number(NamedTuple):
    """A number of a configuration that changes: module, path below it, before, after."""

    module: str
    path: str
    before: int
    after: int


def in_step(graph: AxisGraph, kept: Mapping[Axis, int]) -> Iterator[tuple[Number, ...]]:
    """The numbers of a model's configuration after a cut; the most telling answer first.

    A number changes if all lengths that the constructor makes of it agree on its new value, and
    nothing but lengths follows from it. One with another value in each layer is written as
    transformers' `per_layer_config`, where the constructor makes exactly the cut model of it. What
    the constructor takes the cut weights into without being the cut model is never written.

    Not touched: the model, its configuration. Nothing if the model has none.
    """
    model = graph.stage.model
    if not hasattr(getattr(model, "config", None), "to_dict"):
        return
    found, copies = origins(graph, kept)
    before = dict(_before(model, found))
    lengths = [o for o in found if all(atom.path in before for atom in _numbers_in(o.expr))]
    after = _settled(lengths, before)
    changed = _said(graph, {p: now for p, now in after.items() if now != before[p]})
    layered = dict(_layered(model, lengths, before, after))
    for values in (changed | layered, changed) if layered else (changed,):
        made = built(model, values) if values else None
        exact = made is not None and matches(graph, kept, made)
        silent = made is not None and takes(graph, kept, made) and not exact
        if values and not silent and (exact or values is changed):
            yield tuple(_numbers(model, values, copies))


def _said(graph: AxisGraph, values: Values) -> Values:
    """Those of the new numbers that the configuration can say.

    It has to be read as it is written, and the constructor must not make other factors or tables of
    it: weights would fit in, and come to something else.
    """

    def good(some: Values) -> bool:
        if not accepts(graph.stage.model, some):
            return False
        made = built(graph.stage.model, some)
        return made is None or faithful(graph, made)

    if not values or good(values):
        return values
    found: Values = {}
    for path, now in values.items():
        if good(found | {path: now}):
            found[path] = now
    return found


def _numbers(
    model: nn.Module, values: Values, copies: Iterable[tuple[str, Attribute]]
) -> Iterator[Number]:
    """Each number that changes, and the copies of it that submodules keep."""
    for path, now in values.items():
        yield Number("", path, int(read(model, path)), now)
    for path, copy in copies:
        if path in values:
            with contextlib.suppress(RuntimeError, AttributeError, TypeError):
                before = int(read(model.get_submodule(copy.module), copy.path))
                if before == int(read(model, path)):
                    yield Number(copy.module, copy.path, before, values[path])


def _before(model: nn.Module, lengths: Iterable[Origin]) -> Iterator[tuple[str, int]]:
    """Every number that a length was computed from, as it is now.

    One of which the configuration says that layers differ in it cannot be read as a whole.
    """
    found = {atom.path for origin in lengths for atom in _numbers_in(origin.expr)}
    for path in sorted(found):
        with contextlib.suppress(RuntimeError, AttributeError):
            yield path, int(read(model, path))


def _numbers_in(expr: Expr) -> Iterator[Attribute]:
    return (atom for atom in atoms(expr) if isinstance(atom, Attribute))


def _settled(lengths: Iterable[Origin], before: Values) -> Values:
    """The new value of each number; the old one where lengths disagree, or do not tell."""
    found = {path: values.pop() for path, values in _votes(lengths, before, {}).items()
             if len(values) == 1}  # fmt: skip
    return _consistent([(origin.expr, origin.after) for origin in lengths], before, before | found)


def _consistent(lengths: Iterable[tuple[Expr, int]], before: Values, after: Values) -> Values:
    """Put numbers back of which a length was computed that has another value now."""
    rows, found = list(lengths), dict(after)
    moved = True
    while moved:
        moved = False
        for expr, length in rows:
            used = {
                atom.path for atom in _numbers_in(expr) if found[atom.path] != before[atom.path]
            }
            if used and evaluate(expr, _from(found)) != length:
                found |= {path: before[path] for path in used}
                moved = True
    return found


def _from(values: Mapping[str, int]) -> Callable[[object], int]:
    return lambda atom: values[atom.path] if isinstance(atom, Attribute) else -1


def _votes(lengths: Iterable[Origin], before: Values, known: Values) -> dict[str, set[int]]:
    """What the lengths say of each number that is not known: alone first, then in expressions.

    An expression tells the only number in it of which nothing is known yet.
    """
    rows = list(lengths)
    votes: dict[str, set[int]] = defaultdict(set)
    for expr, after in {(o.expr, o.after) for o in rows if isinstance(o.expr, Attribute)}:
        if isinstance(expr, Attribute) and expr.path not in known:
            votes[expr.path].add(after)
    for _ in range(_DEEPEST):
        told = known | {path: next(iter(v)) for path, v in votes.items() if len(v) == 1}
        new: dict[str, set[int]] = defaultdict(set)
        for origin in rows:
            open_ = {atom.path for atom in _numbers_in(origin.expr)} - set(told)
            if len(open_) == 1 and not open_ & set(votes):
                (path,) = open_
                value = _solved(origin, path, before, told)
                if value is not None:
                    new[path].add(value)
        if not new:
            break
        votes |= new
    return votes


def _solved(origin: Origin, path: str, before: Values, told: Values) -> int | None:
    """The value of one number in an expression that is linear in it."""
    start = before[path]
    low, high = (
        evaluate(origin.expr, _from(before | told | {path: start + more})) for more in (0, 1)
    )
    if high <= low or (origin.after - low) % (high - low):
        return None
    value = start + (origin.after - low) // (high - low)
    found = evaluate(origin.expr, _from(before | told | {path: value}))
    return value if value > 0 and found == origin.after else None


def _layered(
    model: nn.Module, lengths: Iterable[Origin], before: Values, after: Values
) -> Iterator[tuple[str, int]]:
    """Numbers with another value in each layer, as paths of `per_layer_config`."""
    rows = list(lengths)
    split = {p for p, v in _votes(rows, before, {}).items() if len(v) > 1}
    known = {p: n for p, n in after.items() if p not in split}
    layers: dict[int, list[Origin]] = defaultdict(list)
    for origin in rows:
        if split & {atom.path for atom in _numbers_in(origin.expr)}:
            layers[_layer(origin.place)].append(origin)
    votes = {layer: _votes(found, before, known) for layer, found in layers.items()}
    for path in sorted(split):
        owner = read(model, path.rpartition(".")[0])
        told = {layer: found[path] for layer, found in votes.items() if path in found}
        if any(len(v) != 1 for v in told.values()):
            continue
        if set(told) <= set(range(layer_count(owner))):
            for layer, (now,) in sorted(told.items()):
                if now != before[path]:
                    yield of_layer(path, layer), now


def _layer(place: str) -> int:
    """The number of the layer that a name lies in; -1 if it lies in none."""
    found = _LAYER.search(place)
    return int(found.group(1)) if found else -1
