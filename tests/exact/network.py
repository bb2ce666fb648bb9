"""Small random networks with random structured zeros, from one seed."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Scale(nn.Module):
    """Multiply each channel by a parameter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        return x * self.gamma


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        squeezed = functional.leaky_relu(self.down(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.up(squeezed))


class Residual(nn.Module):
    """`x + body(x)`."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        out: Tensor = x + self.body(x)
        return out


class Fork(nn.Module):
    """Branches side by side, joined along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class Halves(nn.Module):
    """Two halves of the channels, the second one through a body, joined again."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body, self.each = body, width // 2

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        a, b = x.split([self.each, self.each], 1)
        return torch.cat([self.body(b), a], 1)


class Tokens(nn.Module):
    """Positions as tokens: `n c h w -> n (h w) c`."""

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        return x.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention with one fused projection."""

    def __init__(self, width: int, heads: int, dim: int, *, fused: bool, bias: bool) -> None:
        super().__init__()
        self.heads, self.dim, self.fused = heads, dim, fused
        self.qkv = nn.Linear(width, 3 * heads * dim, bias=bias)
        self.out = nn.Linear(heads * dim, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        n, length, _ = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = ((q * self.dim**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(n, length, -1))
        return out


class Gated(nn.Module):
    """`down(act(gate(x)) * up(x))`."""

    def __init__(self, width: int, hidden: int, *, bias: bool) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, hidden, bias=bias) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


class Recurrent(nn.Module):
    """The whole sequence of a recurrent layer."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        out: Tensor = self.layer(x)[0]
        return out


class Mean(nn.Module):
    """The mean over positions."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """Run."""
        return x.mean(self.dims)


Activation = Callable[[], nn.Module]
ACTIVATIONS: tuple[Activation, ...] = (
    nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.ReLU6, nn.Tanh, nn.Softplus,
    lambda: nn.ReLU(inplace=True),
)  # fmt: skip


class Builder:
    """Draws layers."""

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)  # noqa: S311 - not for secrets

    def maybe(self, chance: float = 0.5) -> bool:
        """True with that chance."""
        return self.r.random() < chance

    def conv(self, a: int, b: int) -> nn.Module:
        """A convolution with or without padding of its own, norm and activation."""
        k = self.r.choice([1, 3, 3])
        norm = self.maybe()
        layers: list[nn.Module] = [nn.Conv2d(a, b, k, padding=k // 2, bias=self.maybe(0.6))]
        if self.maybe(0.2):
            layers = [nn.ZeroPad2d(1), nn.Conv2d(a, b, 3, bias=self.maybe())]
        if self.maybe(0.15):
            layers = [nn.Conv2d(a, b, 3, padding=1, padding_mode="reflect", bias=self.maybe())]
        if norm:
            layers.append(self.norm(b))
        if self.maybe(0.8):
            layers.append(self.r.choice(ACTIVATIONS)())
        return nn.Sequential(*layers)

    def norm(self, width: int) -> nn.Module:
        """A batch norm with statistics of its own."""
        layer = nn.BatchNorm2d(width)
        with torch.no_grad():
            layer.running_mean.normal_()  # type: ignore[union-attr]
            layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        return layer

    def block(self, width: int) -> tuple[nn.Module, int]:
        """A piece of a convolutional trunk, and its width."""
        r, wider = self.r, self.r.choice([4, 6, 8])
        pad, even = r.choice([0, 1]), width % 2 == 0
        deep = nn.Conv2d(width, width, 3, padding=pad, groups=width)
        pool = r.choice([nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1), nn.Upsample(scale_factor=2)])
        grouped = nn.Conv2d(width, wider, 3, padding=pad, groups=2) if even else None
        halves = Halves(self.conv(width // 2, width // 2), width) if even else None
        choices: list[tuple[nn.Module | None, int]] = [
            (self.conv(width, wider), wider),
            (Residual(nn.Sequential(self.conv(width, wider), self.conv(wider, width))), width),
            (Fork(self.conv(width, wider), self.conv(width, 4)), wider + 4),
            (Gate(width, 3), width),
            (nn.Sequential(deep, self.norm(width), nn.ReLU6()), width),
            (grouped, wider),
            (nn.ConvTranspose2d(width, wider, 2, stride=r.choice([1, 2])), wider),
            (halves, width),
            (pool, width),
            (Scale(width), width),
            (nn.GroupNorm(2, width) if even else None, width),
        ]
        made, wide = r.choice(choices)
        return (made, wide) if made is not None else choices[0]  # type: ignore[return-value]

    def sequence(self, width: int) -> nn.Module:
        """A piece of a network over tokens; keeps the width."""
        r, bias = self.r, self.maybe(0.6)
        kind = r.randrange(6)
        if kind == 0:
            heads, dim = r.choice([2, 3]), r.choice([2, 4])
            return Residual(Attention(width, heads, dim, fused=self.maybe(), bias=bias))
        if kind == 1:
            return Residual(Gated(width, r.choice([5, 7]), bias=bias))
        if kind == 2:
            return nn.LayerNorm(width)
        if kind == 3:
            layer = r.choice([nn.LSTM, nn.GRU, nn.RNN])
            return Recurrent(layer(width, width, r.choice([1, 2]), batch_first=True, bias=bias))
        hidden = r.choice([5, 7])
        act = r.choice(ACTIVATIONS)()
        return Residual(
            nn.Sequential(
                nn.Linear(width, hidden, bias=bias), act, nn.Linear(hidden, width, bias=bias)
            )
        )


def network(seed: int) -> tuple[nn.Sequential, Tensor]:
    """A random network in eval mode and float64, and an example input."""
    b = Builder(seed)
    torch.manual_seed(seed)
    width = b.r.choice([4, 6, 8])
    layers: list[nn.Module] = [b.conv(3, width)]
    for _ in range(b.r.randrange(1, 5)):
        layer, width = b.block(width)
        layers.append(layer)
    if b.maybe(0.4):
        layers.append(Tokens())
        layers += [b.sequence(width) for _ in range(b.r.randrange(1, 4))]
        layers.append(Mean((1,)))
    else:
        if b.maybe(0.3):
            layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
            width *= 4
        else:
            layers.append(Mean((2, 3)))
        if b.maybe():
            layers += [nn.Linear(width, 7), b.r.choice(ACTIVATIONS)()]
            width = 7
    layers.append(nn.Linear(width, 4))
    model = nn.Sequential(*layers).double().eval()
    for parameter in model.parameters():
        signs = torch.randn(parameter.shape, dtype=torch.float64).sign()
        parameter.data = torch.where(parameter == 0, 0.0, signs)
    redraw(model, seed)
    return model, torch.randn(2, 3, 8, 8, dtype=torch.float64)


def redraw(model: nn.Module, seed: int, *, wild: bool = False) -> None:
    """New sizes for everything that is not zero; zeros and signs stay.

    Wild sizes differ by orders of magnitude, so that any term may outweigh all others.
    """
    source = torch.Generator().manual_seed(seed)
    means = [(n, b) for n, b in model.named_buffers() if n.endswith("running_mean")]
    with torch.no_grad():
        for _, tensor in (*model.named_parameters(), *means):
            fresh = torch.randn(tensor.shape, generator=source, dtype=torch.float64)
            size = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 1.0
            if wild:  # one size for the tensor as well, so that any tensor may outweigh all others
                whole = torch.randn((), generator=source, dtype=torch.float64)
                fresh, size = (2 * fresh).exp(), size * float((3 * whole).exp())
            tensor.copy_(fresh.abs() * tensor.sign() * size)


def silence(model: nn.Module, seed: int) -> None:
    """Set random slices of random parameters to zero, as structured pruning does, in place."""
    r = random.Random(seed)  # noqa: S311 - as above
    share = r.choice([0.2, 0.5, 0.8])
    with torch.no_grad():
        for module in model.modules():
            own = [(n, p) for n, p in module.named_parameters(recurse=False) if p.ndim]
            if not own or r.random() < 0.2:
                continue
            rows: dict[int, Tensor] = {}
            also_bias = r.random() < 0.5
            for name, parameter in own:
                n = parameter.shape[0]
                gates = max(1, n // getattr(module, "hidden_size", n))
                unit = n // gates
                lost = rows.setdefault(unit, torch.rand(unit, generator=_generator(r)) < share)
                if parameter.ndim > 1 or also_bias or "weight" in name:
                    parameter[lost.repeat(gates)[:n]] = 0
                if parameter.ndim > 1 and r.random() < 0.4:
                    columns = torch.rand(parameter.shape[1], generator=_generator(r)) < share
                    parameter[:, columns] = 0


def _generator(r: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(r.randrange(1 << 30))
