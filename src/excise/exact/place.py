"""Where a constant that goes can be added: a bias, a norm's mean, a new bias, or a carrier."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from torch import nn

from excise.exact.affine import Affine
from excise.exact.knowledge import Knowledge
from excise.exact.norm import BatchNorm
from excise.exact.recurrent import Recurrent


class Place(NamedTuple):
    """Where the constants that one linear operation loses are added back.

    `kind` is `bias` or `mean` (`tensor` changes), `create` (the layer `tensor` gets a bias),
    `carrier` (one constant unit stays, and takes over the others' columns of the weight `tensor`)
    or `none`, with the reason in `tensor`. `weight` is its own, if it may change.
    """

    kind: str
    tensor: str
    weight: str | None = None


def places(k: Knowledge) -> dict[int, Place]:
    """The place of every linear operation, by step."""
    uses: Counter[int] = Counter()
    for step in k.program.steps:
        uses.update({ref.number for ref in (k.program.refs[v] for v in step.ins)})
    finder = _Finder(k, uses)
    return {
        number: finder.find(number, effect)
        for number, effect in enumerate(k.effects)
        if isinstance(effect, Affine)
    }


def inlets(k: Knowledge) -> dict[int, tuple[str, ...]]:
    """Steps of recurrent layers -> the input biases of their first cells, if all are their own."""
    uses: Counter[int] = Counter()
    for step in k.program.steps:
        uses.update({ref.number for ref in (k.program.refs[v] for v in step.ins)})
    finder, found = _Finder(k, uses), dict[int, tuple[str, ...]]()
    for number, effect in enumerate(k.effects):
        if not isinstance(effect, Recurrent):
            continue
        ins = k.program.steps[number].ins
        names = [
            finder.own(k.program.refs[ins[bias]].number) if bias is not None else None
            for _, bias in effect.first
        ]
        if all(names):
            found[number] = tuple(name for name in names if name)
    return found


class _Finder:
    def __init__(self, k: Knowledge, uses: Counter[int]) -> None:
        self.k, self.uses = k, uses
        self.names: dict[int, list[str]] = {}
        for name, ref in k.graph.trace.names.items():
            self.names.setdefault(ref.number, []).append(name)
        self.readers = k.program.readers()
        self.modules = dict(k.graph.stage.model.named_modules(remove_duplicate=False))

    def own(self, number: int) -> str | None:
        """The name of a stored tensor that one operation alone reads, and none writes."""
        found = self.names.get(number, [])
        if self.k.graph.trace.tensors[number].role == "attribute":
            return None  # computed anew in every pass, perhaps
        alone = self.uses[number] == 1 and number not in self.k.program.written
        return found[0] if found and alone else None

    def find(self, number: int, effect: Affine) -> Place:
        """The best place: one that exists, else a new bias, else a unit that stays."""
        step, refs = self.k.program.steps[number], self.k.program.refs
        weight = self.own(refs[step.ins[effect.weight]].number)
        if effect.shape.even:
            if effect.bias is not None:
                bias = self.own(refs[step.ins[effect.bias]].number)
                if bias is not None:
                    return Place("bias", bias, weight)
            else:
                mean = self._mean(step.outs[0])
                if mean is not None:
                    return Place("mean", mean, weight)
                layer = self._layer(weight)
                if layer is not None:
                    return Place("create", layer, weight)
        if weight is not None:
            return Place("carrier", weight, weight)
        return Place("none", "its weight is shared or computed, and it has no bias of its own")

    def _mean(self, version: int) -> str | None:
        """The running mean of a batch norm that alone reads a version."""
        readers = self.readers.get(version, [])
        if len(readers) != 1 or version in self.k.program.outputs:
            return None
        effect, step = self.k.effects[readers[0]], self.k.program.steps[readers[0]]
        if not isinstance(effect, BatchNorm) or step.ins[0] != version:
            return None
        if step.op.args[5:6] == (True,):  # batch statistics
            return None
        given = step.op.args[3]
        return self.own(given.number) if given is not None else None

    def _layer(self, weight: str | None) -> str | None:
        """The known layer without a bias that owns a weight."""
        if weight is None:
            return None
        path, _, leaf = weight.rpartition(".")
        module = self.modules.get(path)
        if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):  # noqa: SLF001
            return None
        plain = isinstance(module._parameters.get("weight"), nn.Parameter)  # noqa: SLF001
        tied = len(self.names[self.k.graph.trace.names[weight].number]) > 1
        return path if plain and leaf == "weight" and module.bias is None and not tied else None
