"""Random networks for property tests, drawn from a grammar of ordinary modules.

A drawn `Network` is a small printable value. Its `build` makes an `nn.Module` whose `forward` is
written as users write it, with every parameter and statistic random, and its `inputs` an example
for it. The modules themselves are in `tests/laws`: `image`, `odd`, `token`, and `whole`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.laws import image, odd, token
from tests.laws.whole import POSITIONS, SIDE, VOCABULARY, Image, Series, Token

Options: TypeAlias = "tuple[tuple[str, Any], ...]"
Block: TypeAlias = "tuple[str, Options]"

_NORMS = ["batch", "batch", "layer", "group", "one group", "instance", "none"]
_IMAGE: dict[str, dict[str, list[Any]]] = {
    "Conv": {"kind": _NORMS, "groups": [1, 1, 2], "size": [1, 3]},
    "Residual": {"kind": _NORMS},
    "Padded": {"kind": _NORMS},
    "Concat": {"kind": _NORMS},
    "Split": {"how": ["chunk", "split", "slice", "negative"]},
    "Shuffle": {"groups": [2, 3], "literal": [True, False]},
    "Depthwise": {"times": [1, 2], "squeeze": ["pool", "mean", "none"]},
    "Transposed": {"groups": [1, 2], "pool": ["max", "avg", "grid"]},
    "Shared": {"pairs": [True, False]},
}
_ODD: dict[str, dict[str, list[Any]]] = {
    "Dense": {"first": [True, False]},
    "Bare": {
        "how": ["shuffle", "grouped", "unshuffle", "flip", "roll", "repeat", "interleave", "twice"]
    },
    "Sized": {"how": ["sizes", "half", "write", "write over", "plain"]},
    "Select": {"how": ["stack", "space", "softmax", "normal"]},
    "Tied": {"how": ["transposed", "names", "same", "weight norm", "layer"]},
    "Configured": {"loop": [True, False]},
}
_TOKEN: dict[str, dict[str, list[Any]]] = {
    "Fused": {"heads": [2, 3], "head_dim": [2, 4], "how": ["shape", "attribute", "index", "chunk"]},
    "Separate": {
        "heads": [4],
        "head_dim": [2, 4],
        "kv": [1, 2, 4],
        "how": ["rotary", "gqa", "expand", "interleave"],
    },
    "Torch": {"heads": [2]},
    "Encoder": {"heads": [2], "first": [True, False]},
    "Cross": {"heads": [2], "memory": [5, 6]},
    "Loop": {"heads": [2, 3], "head_dim": [2, 3]},
    "Mlp": {"hidden": [6, 9], "how": ["plain", "gated", "chunk", "split"]},
    "Experts": {"hidden": [4], "count": [3]},
    "Mixing": {"positions": [POSITIONS]},
}
_SERIES: dict[str, list[Any]] = {
    "kind": ["LSTM", "GRU", "RNN"],
    "wide": [4, 6],
    "hidden": [5, 8],
    "layers": [1, 2],
    "both": [True, False],
    "project": [0, 3],
    "head": ["last", "mean", "state"],
}


@dataclass(frozen=True)
class Network:
    """A recipe: `family` is `image`, `token` or `series`; widths are those between blocks."""

    family: str
    blocks: tuple[Block, ...]
    widths: tuple[int, ...]
    options: Options
    named: bool = False

    def build(self, seed: int = 0) -> nn.Module:
        """The module in eval mode, all its parameters and statistics random."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._module()
            randomise(model)
        return model.eval()

    def _module(self) -> nn.Module:
        options: dict[str, Any] = dict(self.options)
        if self.family == "series":
            return Series(**options)
        if self.family == "token":
            kind, before = options["kind"], options.pop("before")
            width = self.widths[0]
            made = [
                token.Block(getattr(token, name)(width, **dict(given)), width, kind, before=before)
                for name, given in self.blocks
            ]
            if options.pop("shared") and made:
                made.append(made[0])
            return Token(made, width, **options)
        pairs = zip(self.blocks, self.widths, self.widths[1:], strict=False)
        blocks = [
            getattr(odd if name in _ODD else image, name)(wide, out, **dict(given))
            for (name, given), wide, out in pairs
        ]
        return Image(blocks, (self.widths[0], self.widths[-1]), **options)

    def inputs(self) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """An example: arguments by place, and by name."""
        source = torch.Generator().manual_seed(1)
        front = dict(self.options).get("front")
        if self.family == "image" or front == "patch":
            given = torch.randn(2, 3, SIDE, SIDE, generator=source)
        elif self.family == "series":
            given = torch.randn(2, 4, 6, generator=source)
        elif front == "linear":
            given = torch.randn(2, POSITIONS, 7, generator=source)
        else:
            given = torch.randint(VOCABULARY, (2, POSITIONS), generator=source)
        if self.named and self.family == "token":
            return (), {"tokens": given, "mask": torch.rand(2, POSITIONS, 1, generator=source)}
        return (given,), {}


def randomise(model: nn.Module) -> None:
    """Give every parameter and floating statistic a random value, variances above 0.5."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        for name, statistic in model.named_buffers():
            if name.endswith("running_mean"):
                statistic.normal_()
            elif name.endswith("running_var"):
                statistic.uniform_(0.5, 1.5)


def _options(table: dict[str, list[Any]]) -> st.SearchStrategy[Options]:
    return st.tuples(*(st.tuples(st.just(k), st.sampled_from(v)) for k, v in table.items()))


def _block(table: dict[str, dict[str, list[Any]]]) -> st.SearchStrategy[Block]:
    return st.sampled_from(sorted(table)).flatmap(
        lambda name: st.tuples(st.just(name), _options(table[name]))
    )


@st.composite
def images(draw: st.DrawFn) -> Network:
    """Networks on images."""
    kinds = st.one_of(_block(_IMAGE), _block(_ODD))
    blocks = tuple(draw(st.lists(kinds, min_size=1, max_size=3)))
    width = st.sampled_from([4, 6, 8])
    widths = tuple(draw(st.tuples(*[width] * (len(blocks) + 1))))
    head = draw(st.sampled_from(["flatten", "view", "squeeze", "pool", "dict", "conv"]))
    return Network("image", blocks, widths, (("head", head),))


@st.composite
def tokens(draw: st.DrawFn) -> Network:
    """Transformers."""
    blocks = tuple(draw(st.lists(_block(_TOKEN), min_size=1, max_size=3)))
    front = draw(st.sampled_from(["numbers", "linear", "patch"]))
    heads = ["first", "both", "all", *(["tied"] * 2 if front == "numbers" else [])]
    options = {
        "front": front,
        "head": draw(st.sampled_from(heads)),
        "kind": draw(st.sampled_from(["layer", "rms", "hand", "none"])),
        "before": draw(st.booleans()),
        "shared": draw(st.booleans()),
    }
    width = draw(st.sampled_from([6, 8]))
    return Network("token", blocks, (width,), tuple(options.items()), named=draw(st.booleans()))


def series() -> st.SearchStrategy[Network]:
    """Recurrent networks."""
    return _options(_SERIES).map(lambda options: Network("series", (), (), options))


def networks() -> st.SearchStrategy[Network]:
    """Any of them; images and transformers more often, as they have more to draw."""
    return st.one_of(images(), tokens(), images(), tokens(), series())
