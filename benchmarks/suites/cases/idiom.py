"""Idioms of Python and torch around the operations: raw weights, reparametrisation, caches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from suites.micro import case


def rows(width: int = 6) -> Tensor:
    """Four rows of numbers."""
    return torch.randn(4, width)


class Raw(nn.Module):
    """`F.linear` and `F.conv2d` on bare parameters, some of them in lists and dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(16, 6)), nn.Parameter(torch.randn(16))
        self.more = nn.ParameterList([torch.randn(24, 16), torch.randn(24, 24)])
        self.named = nn.ParameterDict({"out": torch.randn(3, 24)})

    def forward(self, x: Tensor) -> Tensor:
        """No module but this one."""
        x = F.relu(F.linear(x, self.a, self.b))
        for weight in self.more:
            x = torch.tanh(x @ weight.t())
        return torch.addmm(x.new_zeros(3), x, self.named["out"].t())


@case()
def raw_parameters() -> Any:
    return Raw(), (rows(),)


class Twice(nn.Module):
    """One layer called twice, and one under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.alias = self.shared
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        """The shared layer ties its two sides together."""
        x = F.relu(self.shared(self.stem(x)))
        return self.head(self.norm(self.alias(x)))  # type: ignore[no-any-return]


@case()
def shared_twice() -> Any:
    return Twice(), (rows(),)


def mlp(wrap: Any) -> nn.Sequential:
    """An MLP whose hidden layers are wrapped."""
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), wrap(nn.Linear(16, 24)), nn.ReLU(), nn.Linear(24, 3)
    )


@case()
def weight_norm() -> Any:
    return mlp(parametrizations.weight_norm), (rows(),)


@case()
def weight_norm_convolution() -> Any:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv1d(4, 16, 3)), nn.ReLU(),
        parametrizations.weight_norm(nn.ConvTranspose1d(16, 8, 3), dim=0), nn.Conv1d(8, 2, 1),
    ), (torch.randn(1, 4, 9),)  # fmt: skip


@case()
def weight_norm_hook() -> Any:
    return mlp(torch.nn.utils.weight_norm), (rows(),)


@case()
def spectral_norm() -> Any:
    return mlp(parametrizations.spectral_norm), (rows(),)


@case()
def spectral_norm_hook() -> Any:
    return mlp(torch.nn.utils.spectral_norm), (rows(),)


class Symmetric(nn.Module):
    """A parametrisation of the user's own."""

    def forward(self, w: Tensor) -> Tensor:
        """Bounded weights."""
        return torch.tanh(w) * 0.5


@case()
def own_parametrization() -> Any:
    def wrap(layer: nn.Module) -> nn.Module:
        parametrize.register_parametrization(layer, "weight", Symmetric())
        return layer

    return mlp(wrap), (rows(),)


class Branching(nn.Module):
    """Control flow that looks at data, and a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 3)
        self.steps = 3

    def forward(self, x: Tensor) -> Tensor:
        """One of two layers, then a few rounds."""
        y = self.a(x) if bool(x.sum() > 0) else self.b(x)
        for _ in range(self.steps):
            y = torch.tanh(y)
        return self.head(y)  # type: ignore[no-any-return]


@case(0.5)
def control_flow() -> Any:
    return Branching(), (rows().abs(),)


class Caching(nn.Module):
    """Keeps what depends on the shape that it saw last."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.seen: tuple[int, ...] | None = None
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Builds its scale again when the shape changes."""
        y = self.up(x)
        if self.seen != tuple(y.shape):
            self.seen, self.scale = tuple(y.shape), torch.full((y.shape[-1],), 0.5)
        return self.head(F.relu(y * self.scale))  # type: ignore[no-any-return]


@case()
def caches_shapes() -> Any:
    return Caching(), (rows(),)


@case()
def caches_shapes_already() -> Any:
    model = Caching()
    model(rows())
    return model, (rows(),)


class Complex(nn.Module):
    """Complex weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(6, 16, dtype=torch.complex64))
        self.b = nn.Parameter(torch.randn(16, 3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        """Magnitudes of a complex product."""
        y = x.to(torch.complex64) @ self.a
        return ((y * y.conj()) @ self.b).abs()


@case()
def complex_weights() -> Any:
    return Complex(), (rows(),)


class InPlace(nn.Module):
    """Operations in place, on views and under masks."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.bias = nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        """Adds, clamps, fills."""
        y = self.up(x)
        y += self.bias
        y.mul_(0.5).clamp_(min=-1)
        y.masked_fill_(y > 2, 2.0)
        return self.head(F.relu_(y))  # type: ignore[no-any-return]


@case()
def in_place() -> Any:
    return InPlace(), (rows(),)


class Checkpointed(nn.Module):
    """Activations computed again in the backward pass."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        """The middle is checkpointed."""
        x = F.relu(self.a(x))
        x = checkpoint(self.b, x, use_reentrant=self.reentrant)
        return self.head(F.relu(x))  # type: ignore[no-any-return]


@case()
def checkpointing() -> Any:
    return Checkpointed(reentrant=False), (rows(),)


class Sizes(nn.Module):
    """Sizes by property, by module attribute of another module, by arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(6, 24), nn.Linear(24, 3)
        self.config = {"heads": 4}

    @property
    def width(self) -> int:
        """Read from a layer."""
        return self.up.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Splits and merges by computed sizes."""
        y = self.up(x).view(-1, self.config["heads"], self.width // self.config["heads"])
        return self.head(torch.relu(y).reshape(x.shape[0], self.width))  # type: ignore[no-any-return]


@case()
def computed_sizes() -> Any:
    return Sizes(), (rows(),)


class Einops(nn.Module):
    """Patterns instead of sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(6, 24), nn.Linear(24, 3)
        self.heads = 4

    def forward(self, x: Tensor) -> Tensor:
        """`rearrange`, `reduce`, `repeat`."""
        from einops import rearrange, reduce, repeat  # noqa: PLC0415 - an extra of the benchmark

        y = rearrange(self.up(x), "b (h d) -> h b d", h=self.heads)
        y = y.softmax(-1) + repeat(reduce(y, "h b d -> h d", "max"), "h d -> h b d", b=x.shape[0])
        return self.head(rearrange(y, "h b d -> b (h d)"))  # type: ignore[no-any-return]


@case()
def einops_patterns() -> Any:
    return Einops(), (rows(),)


class Hooked(nn.Module):
    """A forward hook that scales, and a pre-hook that shifts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.a.register_forward_hook(lambda _m, _i, out: out * 2)
        self.head.register_forward_pre_hook(lambda _m, given: (given[0] + 1,))

    def forward(self, x: Tensor) -> Tensor:
        """Two layers."""
        return self.head(F.relu(self.a(x)))  # type: ignore[no-any-return]


@case()
def hooks() -> Any:
    return Hooked(), (rows(),)


@case()
def bilinear() -> Any:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 12), nn.Linear(6, 10)
            self.both, self.head = nn.Bilinear(12, 10, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.both(self.a(x), self.b(x)))  # type: ignore[no-any-return]

    return Both(), (rows(),)


@case()
def half_precision() -> Any:
    return mlp(lambda layer: layer).bfloat16(), (rows().bfloat16(),)


@case()
def autocast() -> Any:
    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp(lambda layer: layer)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.body(x).float()  # type: ignore[no-any-return]

    return Narrow(), (rows(),)


@case()
def mapped_over_a_batch() -> Any:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Parameter(torch.randn(16, 6)), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = torch.vmap(lambda row: torch.relu(self.a @ row))(x)
            return self.head(y)  # type: ignore[no-any-return]

    return Mapped(), (rows(),)
