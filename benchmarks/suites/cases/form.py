"""Forms of inputs and outputs: dicts, dataclasses, named tuples, keywords, lists, optional ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from suites.micro import case


def rows() -> Tensor:
    """Four rows of numbers."""
    return torch.randn(4, 6)


class Two(nn.Module):
    """A trunk and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.a, self.b = nn.Linear(16, 3), nn.Linear(16, 2)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both heads."""
        y = self.trunk(x)
        return self.a(y), self.b(y)


@case()
def dict_output() -> Any:
    class Model(Two):
        def forward(self, x: Tensor) -> dict[str, Any]:
            a, b = self.both(x)
            return {"logits": a, "aux": {"b": b, "name": "aux"}, "nothing": None}

    return Model(), (rows(),)


@dataclass
class Output:
    """What the model below returns."""

    logits: Tensor
    aux: Tensor | None = None


@case()
def dataclass_output() -> Any:
    class Model(Two):
        def forward(self, x: Tensor) -> Output:
            return Output(*self.both(x))

    return Model(), (rows(),)


class Pair(NamedTuple):
    """What the model below returns."""

    a: Tensor
    b: Tensor


@case()
def named_tuple_output() -> Any:
    class Model(Two):
        def forward(self, x: Tensor) -> Pair:
            return Pair(*self.both(x))

    return Model(), (rows(),)


@case()
def nested_list_output() -> Any:
    class Model(Two):
        def forward(self, x: Tensor) -> list[Any]:
            a, b = self.both(x)
            return [a, [b, (a.sum(),)]]

    return Model(), (rows(),)


@case()
def keyword_inputs() -> Any:
    class Model(Two):
        def forward(
            self, x: Tensor, *, scale: float = 1.0, mask: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            return self.both(x * scale if mask is None else x * scale * mask)

    return Model(), (rows(),), {"scale": 0.5, "mask": torch.ones(4, 1)}


@case()
def dict_input() -> Any:
    class Model(Two):
        def forward(self, batch: dict[str, Any]) -> Tensor:
            return self.both(batch["x"] + batch["more"][0])[0]

    return Model(), ({"x": rows(), "more": [rows()], "id": "a"},)


@case(0.4)
def features_output() -> Any:
    class Model(Two):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.trunk(x)
            return self.a(y), y  # the width of `y` is what the caller sees, so it stays

    return Model(), (rows(),)


@case()
def scalar_output() -> Any:
    class Model(Two):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return self.both(x)[0].square().mean(), x.shape[0]

    return Model(), (rows(),)


@case()
def several_inputs() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(4, 8)
            self.join = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 12), nn.GELU())
            self.head = nn.Linear(12, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            joined = torch.cat([self.a(x), self.b(y)], dim=-1)
            return self.head(self.join(joined))  # type: ignore[no-any-return]

    return Model(), (rows(), torch.randn(4, 4))
