"""Uniform cuts: layers that repeat stay alike, and a model with a configuration stays in its reach.

Layers repeat where names differ in a number only (`layers.0.mlp.fc`, `layers.1.mlp.fc`); their axes
lose equally many units. A model that was built from a configuration (`model.config`, as in
transformers) has fewer ways to shrink: what its constructor makes of smaller numbers. Which numbers
set which axes is not looked up but asked: the constructor builds the model on the meta device with
one number halved, and the shapes that differ tell.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from excise.axes import Axis, Term, flat, leaves
from excise.configuration import built, matches
from excise.equality import Tie
from excise.graph import AxisGraph
from excise.trace.skeleton import layer_count, named_tensors, of_layer, read

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_DEEPEST = 3
_PAIRS = 40  # pairs of numbers that are tried together, at one meta build each


class Knob(NamedTuple):
    """Numbers of a configuration that set the lengths of axes.

    One step lowers each number in `keys` (path below the model, value now, units) and each axis in
    `members` by its units.
    """

    keys: tuple[tuple[str, int, int], ...]
    members: tuple[tuple[Axis, int], ...]

    def fits(self, graph: AxisGraph, steps: int) -> bool:
        """Whether the constructor makes of the lower numbers what the cut makes."""
        made = built(graph.stage.model, {path: now - steps * by for path, now, by in self.keys})
        kept = {axis: axis.size - steps * by for axis, by in self.members}
        return made is not None and matches(graph, kept, made)


class Reach(NamedTuple):
    """Which axes move together in a uniform cut; every other axis stays."""

    ties: tuple[Tie, ...]
    knobs: tuple[Knob, ...]

    def edits(self, kept: Mapping[Axis, int]) -> Iterator[tuple[str, int, int]]:
        """The numbers of the configuration that change: path, before, after."""
        for knob in self.knobs:
            axis, units = knob.members[0]
            steps = (axis.size - kept.get(axis, axis.size)) // units
            for path, now, per_step in knob.keys:
                if steps:
                    yield path, now, now - steps * per_step

    def unfit(self, graph: AxisGraph, kept: Mapping[Axis, int]) -> list[str]:
        """Numbers whose new values the constructor does not turn into what the cut makes."""
        numbers = {path: after for path, _, after in self.edits(kept)}
        if not numbers:
            return []
        made = built(graph.stage.model, numbers)
        if made is not None and matches(graph, kept, made):
            return []
        return self._alone(graph, kept) or list(numbers)

    def _alone(self, graph: AxisGraph, kept: Mapping[Axis, int]) -> list[str]:
        """Of several numbers those that do not fit even by themselves."""
        found: list[str] = []
        for knob in self.knobs:
            axis, units = knob.members[0]
            steps = (axis.size - kept.get(axis, axis.size)) // units
            if steps and not knob.fits(graph, steps):
                found += [path for path, _, _ in knob.keys]
        return found


def reach(graph: AxisGraph, without: tuple[str, ...] = ()) -> Reach:
    """What a uniform cut of this model may do.

    Args:
        graph: from `trace`.
        without: numbers of the configuration that stay, by path.
    """
    model = graph.stage.model
    if hasattr(getattr(model, "config", None), "to_dict"):
        found = knobs(graph, without)
        return Reach(tuple(Tie(knob.members) for knob in found), found)
    return Reach(tuple(_alike(graph)), ())


def _alike(graph: AxisGraph) -> Iterator[Tie]:
    """The axes of repeated layers, with whatever is tied to each."""
    classes: dict[tuple[Any, ...], list[tuple[tuple[Axis, int], ...]]] = {}
    seen: set[Axis] = set()
    for group in graph.groups:
        members = graph.tie(group)
        if members[0][0] in seen:
            continue
        seen.update(axis for axis, _ in members)
        key = tuple((_NUMBER.sub("*", axis.name), axis.size, units) for axis, units in members)
        classes.setdefault(key, []).append(members)
    for found in classes.values():
        yield Tie(tuple(member for members in found for member in members))


def knobs(graph: AxisGraph, without: tuple[str, ...] = ()) -> tuple[Knob, ...]:
    """Ask the constructor which numbers set which axes; single numbers first, then pairs.

    A number counts if halving it changes lengths in proportion, only of axes that may be cut, and
    of all that are tied to them. Pairs are for numbers that only go together (heads of queries and
    of keys). Where the configuration can have a number for each layer, and the constructor reads
    it, that takes the place of the one for all.
    """
    model = graph.stage.model
    values = {p: v for p, v in _numbers(model.config, "config", 0) if p not in without}
    found: list[Knob] = []
    taken: set[Axis] = set()
    rest = list(values)
    for keys in itertools.chain([(k,) for k in values], _pairs(rest)):
        if any(key not in rest for key in keys):
            continue
        knob = _ask(graph, {key: values[key] for key in keys})
        if knob is None:
            continue
        axes = {axis for axis, _ in knob.members}
        if not axes & taken:
            found += _layered(graph, knob, without) or [knob]
            taken |= axes
            for key in keys:
                rest.remove(key)
    return tuple(found)


def _layered(graph: AxisGraph, knob: Knob, without: tuple[str, ...]) -> list[Knob]:
    """The same axes, set by a number for each layer; none if that is not possible for all."""
    model = graph.stage.model
    splits = []
    for path, value, _ in knob.keys:
        owner_path, _, key = path.rpartition(".")
        layers = range(layer_count(read(model, owner_path)))
        if "[" in key or not layers:
            return []
        splits.append([(of_layer(path, i), value) for i in layers])
    found: list[Knob] = []
    for numbers in zip(*splits, strict=False):
        if any(path in without for path, _ in numbers):
            return []
        one = _ask(graph, dict(numbers))
        if one is None:
            return []
        found.append(one)
    made = [axis for one in found for axis, _ in one.members]
    whole = {axis for axis, _ in knob.members}
    return found if len(made) == len(whole) and set(made) == whole else []


def _pairs(rest: list[str]) -> Iterator[tuple[str, ...]]:
    """Pairs of what is left once single numbers were asked for."""
    yield from itertools.islice(itertools.combinations(tuple(rest), 2), _PAIRS)


def _numbers(owner: Any, path: str, depth: int) -> Iterator[tuple[str, int]]:
    """Every whole number above 1 in a configuration, in its lists, and in configurations in it."""
    for key, value in list(vars(owner).items()):
        if key.startswith("_") or key.endswith("token_id"):
            continue
        here = f"{path}.{key}"
        if type(value) is int and value > 1:
            yield here, value
        elif isinstance(value, (list, tuple)):
            yield from (
                (f"{here}[{i}]", n) for i, n in enumerate(value) if type(n) is int and n > 1
            )
        elif hasattr(value, "to_dict") and depth < _DEEPEST:
            yield from _numbers(value, here, depth + 1)


def _ask(graph: AxisGraph, values: dict[str, int]) -> Knob | None:
    """Halve some numbers and see which axes that halves."""
    if any(value % 2 for value in values.values()):
        return None
    made = built(graph.stage.model, {key: value // 2 for key, value in values.items()})
    if made is None:
        return None
    halved = _halved(graph, made)
    if not halved or any(
        axis in halved and any(other not in halved for other, _ in graph.tie(group))
        for group in graph.groups
        for axis in [graph.axes[group.name]]
    ):
        return None
    if not matches(graph, {axis: axis.size // 2 for axis in halved}, made):
        return None
    most = math.gcd(*(axis.size for axis in halved), *values.values())
    for steps in (n for n in range(most, 1, -1) if most % n == 0):  # the finest that is built
        knob = Knob(
            tuple((key, value, value // steps) for key, value in values.items()),
            tuple((axis, axis.size // steps) for axis in graph.axes.values() if axis in halved),
        )
        if all(knob.fits(graph, n) for n in {1, 2, steps - 1} if n < steps):
            return knob
    return None


def _halved(graph: AxisGraph, made: nn.Module) -> set[Axis]:
    """The axes that can only have been halved, given attributes and shapes of the smaller model."""
    same, halved = _told(graph, made)
    terms: list[tuple[Term, int, int]] = []
    for name, tensor in named_tensors(made):
        ref = graph.trace.names.get(name)
        if ref is not None and len(graph.scope.shape(ref)) == tensor.dim():
            shapes = zip(graph.scope.get(ref), graph.scope.shape(ref), tensor.shape, strict=True)
            terms += (part for term, old, new in shapes for part in _parts(term, old, new))
    for term, old, new in terms:
        if old == new:
            same.update(leaves(term))
    for _ in range(_DEEPEST):
        for term, old, new in terms:
            open_ = [axis for axis in flat(term) if not set(leaves([axis])) <= same | halved]
            known = [axis for axis in flat(term) if set(leaves([axis])) <= halved]
            missing = math.log2(old / new) - len(known) if old and new else 0
            if open_ and missing == len(open_):
                halved.update(leaf for axis in open_ for leaf in leaves([axis]))
    if any(axis.pin is not None for axis in halved):
        return set()
    return halved - same


def _told(graph: AxisGraph, made: nn.Module) -> tuple[set[Axis], set[Axis]]:
    """The axes whose length an attribute repeats: those that are as they were, and the others."""
    same, halved = set[Axis](), set[Axis]()
    for attribute, poly in graph.solution.attributes.items():
        if [len(monomial) for monomial in poly] != [1]:
            continue
        ((axis,),) = poly
        with contextlib.suppress(AttributeError, IndexError, KeyError, TypeError):
            now = int(read(graph.stage.model.get_submodule(attribute.module), attribute.path))
            new = int(read(made.get_submodule(attribute.module), attribute.path))
            (same if now == new else halved).add(axis)
    return same, halved


def _parts(term: Term, old: int, new: int) -> Iterator[tuple[Term, int, int]]:
    """The parts of a sum, each of them as much shorter as the whole."""
    inner = flat(term)
    if len(inner) == 1 and inner[0].parts is not None:
        for part in inner[0].parts:
            yield from _parts([part], part.size, part.size * new // old)
    else:
        yield term, old, new
